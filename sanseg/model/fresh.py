"""A fresh side adapter on any CLIP: one of ours, or a plain ViT of open_clip's whose weights can be imported.

K prompts, H W pixels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sanseg.model.checkpoint import check_finite
from sanseg.model.clip import CLIP
from sanseg.model.config import (
    OPENAI_MEAN,
    OPENAI_STD,
    SAN_VIT_B16,
    CLIPConfig,
    SANConfig,
    SideAdapterConfig,
    TextConfig,
    VisionConfig,
)
from sanseg.model.keymaps import from_open_clip
from sanseg.model.pth import read_pth
from sanseg.model.san import SAN

OPEN_CLIP = "open_clip:"  # how a specification of one of open_clip's models begins
AGREEMENT = 1e-3  # between our unit embeddings and open_clip's; a wrong activation is off by 1e-2 and more


def fresh_san(base: SAN, side: SideAdapterConfig | None = None, *, seed: int = 0) -> SAN:
    """The CLIP of `base`, shared with it, and a side adapter that has learned nothing yet.

    side: its shape; None is the shape that the side adapter of `base` has.
    """
    side = base.config.side if side is None else side
    config = replace(base.config, side=side, novelty=0.0, evidence=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        san = SAN(config)
    san.clip.load_state_dict(base.clip.state_dict(), assign=True)
    san.freeze()
    return san.to(base.nothing.device).eval()


def open_clip_san(specification: str) -> SAN:
    """An untrained SAN on a CLIP of open_clip's.

    specification: "open_clip:NAME:PRETRAINED", NAME as `open_clip.list_models()` gives it, PRETRAINED one of its
    tags, which open_clip downloads, or a file of weights (.safetensors, .pt, .pth, .bin).

    The shape follows the released SANs: recognition begins after three quarters of the blocks, features are
    taken after none, a quarter, half and three quarters, and CLIP sees 1.4 times the picture it was made for.
    Raises ValueError where open_clip is missing or has no such model, for a model that is no plain ViT, and
    for one whose embeddings ours do not equal; OSError where the download fails.
    """
    name, _, pretrained = specification.removeprefix(OPEN_CLIP).partition(":")
    if not name or not pretrained:
        raise ValueError(
            f"{specification!r} names no weights: write {OPEN_CLIP}NAME:PRETRAINED, as in"
            f" {OPEN_CLIP}ViT-B-16-quickgelu:openai, or a file in place of the tag"
        )
    shape, theirs, mean, std = _open_clip_model(name, pretrained)
    clip = _equal_clip(name, shape, theirs)
    layers = clip.config.vision.layers
    if layers % 4:
        raise ValueError(f"{name} has {layers} blocks: a SAN needs a number that four divides")
    split, quarter = layers * 3 // 4, layers // 4
    side = replace(SAN_VIT_B16.side, fusion=tuple((place * quarter, place) for place in range(4)))
    scale = min(1.0, round(1.4 * shape["vision_cfg"]["image_size"] / SAN_VIT_B16.short_side, 1))
    config = SANConfig(f"san-{name}", clip.config, side, split, scale, mean=mean, std=std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        san = SAN(config)
    san.clip.load_state_dict(clip.state_dict(), assign=True)
    return san.eval()


def _open_clip_model(
    name: str, pretrained: str
) -> tuple[dict[str, Any], Any, tuple[float, float, float], tuple[float, float, float]]:
    """open_clip's description of a model, the model with its weights, and mean and std of its pictures."""
    try:
        import open_clip
    except ImportError as error:
        raise ValueError("open_clip is not installed: pip install 'sanseg[clip]'") from error
    shape = open_clip.get_model_config(name)
    if shape is None:
        raise ValueError(f"open_clip has no model {name!r}: open_clip.list_models() lists them")
    plain = {
        "vision_cfg": ("image_size", "layers", "width", "patch_size"),
        "text_cfg": ("layers", "width", "heads"),
    }
    if any(type(shape[tower].get(field)) is not int for tower, fields in plain.items() for field in fields):
        raise ValueError(f"{name} is no plain ViT with CLIP's own text tower: choose a model that is")
    path = Path(pretrained)
    described = open_clip.get_pretrained_cfg(name, pretrained)
    if path.is_file():
        model = open_clip.create_model(name).eval()
        state = _read_state(path)
        check_finite(state, path)
        _load(model, state, path)
    elif described:
        try:
            model = open_clip.create_model(name, pretrained=pretrained).eval()
        except (OSError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise OSError(
                f"the weights {pretrained!r} of {name} cannot be had ({reason}): check the network, or download"
                " them elsewhere and give the file"
            ) from error
    else:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"{pretrained!r} is neither a file nor weights of {name}: choose from {tags}")
    mean, std = described.get("mean") or OPENAI_MEAN, described.get("std") or OPENAI_STD
    return shape, model, tuple(mean), tuple(std)


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_pth(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): get it again") from error


def _load(model: Any, state: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} does not hold this model's weights ({reason}): give its own") from error


@torch.no_grad()  # its parameters will train: no inference mode
def _equal_clip(name: str, shape: dict[str, Any], theirs: Any) -> CLIP:
    """Our CLIP with open_clip's weights, after both were shown to give the same embeddings.

    open_clip's descriptions have many fields, and pretrained weights override some: what we do not know shows as
    a difference.
    """
    vision, text = shape["vision_cfg"], shape["text_cfg"]
    size = vision["image_size"]
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[49_406, 320, 2_368, 49_407]])  # "a cat"
    padded = torch.zeros(1, text.get("context_length", 77), dtype=torch.int64)
    padded[0, : tokens.shape[1]] = tokens
    for quick_gelu in (True, False):
        config = CLIPConfig(
            name,
            shape["embed_dim"],
            VisionConfig(
                width=vision["width"],
                layers=vision["layers"],
                heads=vision["width"] // vision.get("head_width", 64),
                patch=vision["patch_size"],
                grid=size // vision["patch_size"],
            ),
            TextConfig(text["width"], text["layers"], text["heads"], text.get("context_length", 77)),
            quick_gelu,
        )
        clip = CLIP(config)
        clip.load_state_dict(from_open_clip(theirs.state_dict(), config))
        clip.eval()
        apart = max(
            (clip.visual(image) - theirs.encode_image(image, normalize=True)).abs().max().item(),
            (clip.text(tokens) - theirs.encode_text(padded, normalize=True)).abs().max().item(),
        )
        if apart < AGREEMENT:
            return clip
    raise ValueError(
        f"{name} gives other embeddings in open_clip than here, by {apart:.2g}: it is not a plain CLIP, choose"
        " another"
    )
