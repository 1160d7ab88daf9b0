"""One golden case: what the official SAN computed from stored weights, and what this SAN makes of the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from sanseg.images import Geometry, prepare, resize
from sanseg.labelmap import label_map, score_map
from sanseg.losses import (
    Draws,
    LossConfig,
    Normalisers,
    Target,
    important_points,
    match,
    matching_cost,
    reading_losses,
)
from sanseg.model.config import CLIPConfig, SANConfig, SideAdapterConfig, TextConfig, VisionConfig
from sanseg.model.keymaps import from_official, official_name
from sanseg.model.san import SAN, Proposals
from sanseg.model.templates import TEMPLATES
from sanseg.model.text import Classifier, TextEncoder

FACTOR = 4  # errors within this many times the official classes' own fp32-against-fp64 error
FACTOR_UNNOTED = 10  # where no error is noted: this many times that of what the quantity is computed from
EPSILON = torch.finfo(torch.float32).eps
READINGS = {"ds0": "aux0", "ds1": "main"}

Report = dict[str, list[float]]


def case_config(described: dict[str, Any]) -> SANConfig:
    """Our configuration for a case's config.json."""
    clip, san, side = described["clip_model_cfg"], described["MODEL.SAN"], described["MODEL.SIDE_ADAPTER"]
    vision, text, vit = clip["vision_cfg"], clip["text_cfg"], described["side_vit"]
    fusion = [tuple(int(block) for block in pair.split("->")) for pair in side["FUSION_MAP"]]
    return SANConfig(
        name=described["case"],
        clip=CLIPConfig(
            name=san["CLIP_MODEL_NAME"],
            embed=clip["embed_dim"],
            vision=VisionConfig(
                width=vision["width"],
                layers=vision["layers"],
                heads=described["clip_vision_heads"],
                patch=vision["patch_size"],
                grid=vision["image_size"] // vision["patch_size"],
            ),
            text=TextConfig(text["width"], text["layers"], text["heads"], text["context_length"]),
            quick_gelu=clip["quick_gelu"],
        ),
        side=SideAdapterConfig(
            width=vit["embed_dim"],
            layers=vit["depth"],
            heads=vit["num_heads"],
            patch=vit["patch_size"],
            grid=side["IMAGE_SIZE"] // vit["patch_size"],
            queries=side["NUM_QUERIES"],
            fusion=tuple((of, into) for of, into in fusion),
            readings=tuple(side["DEEP_SUPERVISION_IDXS"]),
            hidden=side["ATTN_BIAS"]["MLP_CHANNELS"],
            channels=side["ATTN_BIAS"]["EMBED_CHANNELS"],
            mask_stride=vit["patch_size"],
        ),
        split=san["FEATURE_LAST_LAYER_IDX"],
        clip_scale=san["CLIP_RESOLUTION"],
        short_side=described["image_resize"]["image0_short"],
        divisor=san["SIZE_DIVISIBILITY"],
        templates=san["CLIP_TEMPLATE_SET"],
        mean=tuple(value / 255 for value in described["pixel_mean"]),
        std=tuple(value / 255 for value in described["pixel_std"]),
    )


class Case:
    """A folder of golden numbers, and our SAN with its weights."""

    def __init__(self, folder: Path) -> None:
        self.described = json.loads((folder / "config.json").read_text())
        self.trained = json.loads((folder / "train.json").read_text())
        with np.load(folder / "io.npz") as arrays:
            self.arrays: dict[str, NDArray[Any]] = dict(arrays)
        self.config = case_config(self.described)
        self.san = SAN(self.config).eval()
        self.san.load_state_dict(from_official(load_file(folder / "model.safetensors"), self.config))
        self.names = [str(name) for name in self.arrays["vocabulary"]]
        encoder = TextEncoder(self.san.clip.text)
        self.tokenizer, self.rows = encoder.tokenizer, encoder(self.names, self.config.templates)

    def tolerance(self, quantity: str, computed_from: str = "") -> float:
        """What an error may be: see FACTOR. Never below what float32 can tell apart."""
        noted = self.described["fp32_vs_fp64_[maxabsdiff,maxabs]"]
        error, size = noted[computed_from or quantity]
        factor = FACTOR_UNNOTED if computed_from else FACTOR
        return max(factor * error, FACTOR * EPSILON * size)

    def compare(self, quantity: str, ours: Tensor | NDArray[Any], computed_from: str = "") -> list[float]:
        """[largest absolute difference, tolerance]."""
        ours = ours.detach().numpy() if isinstance(ours, Tensor) else ours
        golden = self.arrays[quantity]
        if ours.shape != golden.shape:
            raise ValueError(f"{quantity} is of shape {ours.shape}, the golden one {golden.shape}")
        error = float(np.abs(ours.astype(np.float64) - golden.astype(np.float64)).max(initial=0))
        return [error, self.tolerance(quantity, computed_from)]

    def differing(self, quantity: str, ours: NDArray[Any], scores_KHW: Tensor) -> list[float]:
        """[pixels of another label, 0], where the best two scores differ by more than scores may."""
        best = scores_KHW.topk(2, dim=0).values
        decided = (best[0] - best[1]).numpy() > 2 * self.tolerance("sem_seg")
        return [float(((ours != self.arrays[quantity]) & decided).sum()), 0.0]


def report(case: Case) -> Report:
    """{quantity: [largest absolute error, tolerance]} for every stored tensor."""
    with torch.inference_mode():
        found = dict([*_words(case), *_picture(case), *_batch(case)])
    return found | dict(_training(case))


def _words(case: Case) -> Iterator[tuple[str, list[float]]]:
    templates = TEMPLATES[case.config.templates]
    yield "templates", [float(list(templates) != [str(one) for one in case.arrays["templates"]]), 0.0]
    prompts = [template.format(name) for template in templates for name in case.names]
    tokens = case.tokenizer(prompts, case.config.clip.text.context)
    tokens = F.pad(tokens, (0, case.arrays["tokens"].shape[-1] - tokens.shape[1]))
    wrong = tokens.numpy().reshape(case.arrays["tokens"].shape) != case.arrays["tokens"]
    yield "tokens", [float(wrong.sum()), 0.0]
    yield "text_no_bg", case.compare("text_no_bg", case.rows, "text_classifier")
    classifier = _classifier(case)
    yield "text_classifier", case.compare("text_classifier", classifier.weight)
    scaled = classifier.scale * classifier.weight
    yield "text_classifier_scaled", case.compare("text_classifier_scaled", scaled)


def _picture(case: Case) -> Iterator[tuple[str, list[float]]]:
    config, san = case.config, case.san
    resized = resize(case.arrays["image0"], config.short_side, config.long_side, "demo")
    wrong = resized.astype(int) - case.arrays["image0_resized"]
    yield "image0_resized", [float(np.abs(wrong).max()), 0.0]
    image, geometry = prepare(case.arrays["image0"], config, "demo")
    yield "padded_input", case.compare("padded_input", image[None])
    clip_image = san.clip_image(image[None])
    yield "clip_input", case.compare("clip_input", clip_image)
    shallow = san.clip.visual.shallow(clip_image, config.split, range(config.split + 1))
    for block, feature in shallow.features.items():
        yield f"clip_feat_{block}", case.compare(f"clip_feat_{block}", feature)
        token = san.clip.visual.shallow(clip_image, block, (block,)).tokens[None, :, 0]
        yield f"clip_feat_{block}_cls_token", case.compare(f"clip_feat_{block}_cls_token", token)
    readings = san.side_adapter(image[None], shallow, auxiliary=True)
    for name, (masks, bias) in zip(READINGS, readings, strict=True):
        yield f"mask_preds_{name}", case.compare(f"mask_preds_{name}", masks)
        yield f"attn_bias_{name}_layer0", case.compare(f"attn_bias_{name}_layer0", bias)
        regions = san.clip.visual.recognise(shallow, bias)
        yield f"region_emb_{name}", case.compare(f"region_emb_{name}", regions)
        logits = _classifier(case).logits(regions)
        yield f"class_logits_{name}", case.compare(f"class_logits_{name}", logits)
    assembled = _one_matrix(bias, shallow.grid)
    yield "formatted_attn_bias_last", case.compare("formatted_attn_bias_last", assembled)
    scores, labels = _answer(case, san.propose(image[None]), 0, geometry)
    yield "sem_seg", case.compare("sem_seg", scores)
    yield "argmax", case.differing("argmax", labels, scores)


def _batch(case: Case) -> Iterator[tuple[str, list[float]]]:
    """Both pictures in one batch, padded together; and the second alone."""
    images, sizes = _pair(case)
    padded = (images.shape[2], images.shape[3])
    proposals = case.san.propose(images)
    for number, size in enumerate(sizes):
        original = case.arrays[f"image{number}"].shape[:2]
        scores, labels = _answer(case, proposals, number, Geometry(original, size, padded))
        if number == 0:
            yield "batch2_argmax0", case.differing("batch2_argmax0", labels, scores)
            part = scores[:, ::4, ::4]
            yield "batch2_sem_seg0_sub", case.compare("batch2_sem_seg0_sub", part, "sem_seg")
        else:
            yield "batch2_sem_seg1", case.compare("batch2_sem_seg1", scores, "sem_seg")
    alone = torch.zeros(1, 3, *(-(-side // case.config.divisor) * case.config.divisor for side in sizes[1]))
    alone[0, :, : sizes[1][0], : sizes[1][1]] = images[1, :, : sizes[1][0], : sizes[1][1]]
    geometry = Geometry(original, sizes[1], (alone.shape[2], alone.shape[3]))
    scores, _ = _answer(case, case.san.propose(alone), 0, geometry)
    yield "single_sem_seg1_sub", case.compare("single_sem_seg1_sub", scores[:, ::2, ::2], "sem_seg")


def _training(case: Case) -> Iterator[tuple[str, list[float]]]:
    """Costs, matches, points, losses and gradients of both pictures as a step."""
    images, _ = _pair(case)
    targets = [_target(case, number, images) for number in range(2)]
    config = LossConfig(points=case.described["MODEL.SAN"]["TRAIN_NUM_POINTS"])
    total = torch.zeros(())
    for (name, reading), proposals in zip(READINGS.items(), case.san.readings(images), strict=True):
        logits = _classifier(case).logits(proposals.embeddings)
        masks = proposals.mask_logits
        labels = [logits.shape[-1] - 1] * len(targets)
        normalisers = Normalisers.count(targets, labels, logits.shape[1], config)
        yield (
            f"train_pred_logits_{reading}",
            case.compare(f"train_pred_logits_{reading}", logits, f"class_logits_{name}"),
        )
        yield (
            f"train_pred_masks_{reading}",
            case.compare(f"train_pred_masks_{reading}", masks, f"mask_preds_{name}"),
        )
        stored = {key: torch.from_numpy(case.arrays[f"train_{reading}_{key}"]) for key in DRAWS}
        draws = Draws(*stored.values(), answer=torch.zeros(2, 0))
        start = 0
        for number, target in enumerate(targets):
            known = torch.zeros_like(target.index_map, dtype=torch.bool)
            cost = matching_cost(logits[number], masks[number], target, known, draws.matching[number], config)
            key = f"train_{reading}_cost_b{number}"
            yield key, case.compare(key, cost, f"mask_preds_{name}")
            queries, rows = match(cost)
            for side, chosen in (("src", queries), ("tgt", rows)):
                key = f"train_{reading}_match_b{number}_{side}"
                yield key, [float((chosen.numpy() != case.arrays[key]).sum()), 0.0]
            these = slice(start, start := start + len(queries))
            points = important_points(
                masks[number][queries], known, draws.oversample[these], draws.extra[these], config
            )
            wrong = (points.numpy() != case.arrays[f"train_{reading}_loss_points"][these]).any(-1)
            yield f"train_{reading}_loss_points_b{number}", [float(wrong.sum()), 0.0]
        losses = reading_losses(list(logits), masks, targets, draws, config, normalisers)
        suffix = "" if reading == "main" else "_0"
        for key, ours in (("ce", losses.classification), ("mask", losses.mask), ("dice", losses.dice)):
            golden = case.trained["losses_unweighted"][f"loss_{key}{suffix}"]
            yield f"loss_{key}{suffix}", [abs(ours.item() - golden), 1e-5 * abs(golden)]
        total = total + losses.weighted(config)
    torch.autograd.backward(total)
    worst = max(error for error, _ in case.described["fp32_vs_fp64_[maxabsdiff,maxabs]"][GRADIENTS])
    for ours, parameter in case.san.trained().items():
        assert parameter.grad is not None
        name = official_name(ours, case.config.split)
        golden = case.trained["grad"][name]["l2"]
        yield (
            f"grad_l2::{name}",
            [abs(parameter.grad.norm().item() - golden), FACTOR_UNNOTED * worst * golden],
        )
        if f"grad::{name}" in case.arrays:
            stored = torch.from_numpy(case.arrays[f"grad::{name}"]).view_as(parameter)
            error = (parameter.grad - stored).norm().item()
            yield f"grad::{name}", [error, FACTOR_UNNOTED * worst * golden]


DRAWS = ("match_points", "rand_oversample", "rand_extra")
GRADIENTS = "grad_worst_relative_l2_error"


def _classifier(case: Case) -> Classifier:
    return Classifier.build(case.rows, case.san.nothing, case.san.clip.logit_scale)


def _answer(
    case: Case, proposals: Proposals, number: int, geometry: Geometry
) -> tuple[Tensor, NDArray[np.unsignedinteger[Any]]]:
    probabilities = _classifier(case).probabilities(proposals.embeddings[number])
    masks = proposals.mask_logits[number]
    labels, _ = label_map(masks, probabilities, range(len(case.names)), geometry)
    return score_map(masks, probabilities, geometry), labels


def _pair(case: Case) -> tuple[Tensor, list[tuple[int, int]]]:
    """Both resized pictures, normalised and padded together."""
    pictures = [case.arrays[f"image{number}_resized"] for number in range(2)]
    sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
    divisor = case.config.divisor
    images = torch.zeros(2, 3, *(-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True)))
    mean = torch.tensor(case.described["pixel_mean"]).view(3, 1, 1)
    std = torch.tensor(case.described["pixel_std"]).view(3, 1, 1)
    for image, picture, (height, width) in zip(images, pictures, sizes, strict=True):
        image[:, :height, :width] = (torch.from_numpy(picture).permute(2, 0, 1) - mean) / std
    return images, sizes


def _target(case: Case, number: int, images: Tensor) -> Target:
    content = torch.from_numpy(case.arrays[f"tgt{number}_masks"])
    masks = torch.zeros(len(content), *images.shape[-2:], dtype=torch.bool)
    masks[:, : content.shape[1], : content.shape[2]] = content
    labels = torch.from_numpy(case.arrays[f"tgt{number}_labels"])
    return Target(labels, masks, torch.zeros(images.shape[-2:], dtype=torch.long))


def _one_matrix(bias_BNQhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """The official code's attention bias over [SLS; class; patches], -100 where nothing may attend."""
    _, N, Q = bias_BNQhw.shape[:3]
    pooled = F.adaptive_max_pool2d(bias_BNQhw[0], grid).flatten(2)
    L = pooled.shape[2]
    whole = torch.zeros(N, Q + 1 + L, Q + 1 + L)
    whole[:, :, :Q] = -100
    whole[:, :Q, Q] = -100
    whole[:, range(Q), range(Q)] = 0
    whole[:, :Q, Q + 1 :] = pooled
    return whole
