"""What SAN promises, whatever its weights: CLIP stays exact, pictures do not mix, words come last."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sanseg.model.clip import _max_pool_by_windows, max_pool_to
from sanseg.model.config import SAN_MINI, SAN_VIT_B16, SAN_VIT_L14, SANConfig
from sanseg.model.san import CLIP_TRAINS, PARTS, SAN
from sanseg.model.transformer import Block, QuickGELU
from tests.conftest import make_san


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["tiny_san", "tiny_stem_san"])
def san(request: pytest.FixtureRequest) -> SAN:
    made: SAN = request.getfixturevalue(request.param)
    return made


@torch.inference_mode()
def test_a_batch_equals_its_pictures(san: SAN, image: Tensor) -> None:
    together = san.propose(image)
    for number in range(2):
        alone = san.propose(image[number : number + 1])
        torch.testing.assert_close(alone.mask_logits[0], together.mask_logits[number], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.embeddings[0], together.embeddings[number], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_shapes_and_lengths(san: SAN, image: Tensor) -> None:
    side, proposals = san.config.side, san.propose(image)
    stride = side.mask_stride
    assert proposals.mask_logits.shape == (2, side.queries, 64 // stride, 96 // stride)
    assert proposals.embeddings.shape == (2, side.queries, san.config.clip.embed)
    torch.testing.assert_close(proposals.embeddings.norm(dim=-1), torch.ones(2, side.queries))


@torch.inference_mode()
def test_clips_own_path_is_plain_clip_beside_sls_tokens(tiny_san: SAN, image: Tensor) -> None:
    """Sec. 3.3: patches and class token never attend to [SLS] tokens, so they are what CLIP alone makes of them."""
    visual, split = tiny_san.clip.visual, tiny_san.config.split
    shallow = visual.shallow(image, split, ())
    sls = torch.randn(2, 5, tiny_san.config.clip.vision.width)
    mask = torch.randn(2, tiny_san.config.clip.vision.heads, 5, 5 + shallow.tokens.shape[1] - 1)
    block = visual.blocks[split]
    assert isinstance(block, Block)
    _, beside = block.beside(sls, shallow.tokens, mask, last=False)
    torch.testing.assert_close(beside, visual.shallow(image, split + 1, ()).tokens)


@torch.inference_mode()
def test_two_attentions_are_one_over_the_whole_matrix(tiny_san: SAN, image: Tensor) -> None:
    """The released code's way: one attention over [SLS; class; patches], -100 where nothing may attend."""
    visual, config = tiny_san.clip.visual, tiny_san.config
    shallow = visual.shallow(image, config.split, ())
    N, Q, L = config.clip.vision.heads, 5, shallow.tokens.shape[1]
    bias = torch.randn(2, N, Q, *shallow.grid)
    whole = torch.zeros(2, N, Q + L, Q + L)
    whole[..., :Q] = whole[..., :Q, Q] = -100
    whole[..., range(Q), range(Q)] = 0
    whole[..., :Q, Q + 1 :] = bias.flatten(3)
    x = torch.cat([shallow.tokens[:, :1].expand(-1, Q, -1), shallow.tokens], dim=1)
    for block in visual.blocks[config.split :]:
        normed = block.norm_1(x)
        q, k, v = block.qkv(normed).view(2, Q + L, 3, N, -1).permute(2, 0, 3, 1, 4)
        attended = ((q @ k.mT) * q.shape[-1] ** -0.5 + whole).softmax(-1) @ v
        x = x + block.out(attended.transpose(1, 2).flatten(2))
        x = x + block.down(block.activation(block.up(block.norm_2(x))))
    torch.testing.assert_close(visual.recognise(shallow, bias), visual.embed(x[:, :Q]), atol=2e-6, rtol=1e-5)


@torch.inference_mode()
def test_a_bias_that_opens_one_place_reads_only_that_place(tiny_san: SAN, image: Tensor) -> None:
    visual = tiny_san.clip.visual
    shallow = visual.shallow(image, tiny_san.config.split, ())
    h, w = shallow.grid
    bias = torch.full((2, tiny_san.config.clip.vision.heads, 1, h, w), -1e4)
    bias[..., 1, 2] = 0
    before = visual.recognise(shallow, bias)
    open_place = 1 + w + 2
    for place in range(1, 1 + h * w):  # one block is left, so nothing reaches the open place from the others
        tokens = shallow.tokens.clone()
        tokens[:, place] += torch.randn_like(tokens[:, place])
        after = visual.recognise(replace(shallow, tokens=tokens), bias)
        assert torch.equal(after, before) == (place != open_place)


@torch.inference_mode()
def test_the_last_block_makes_no_patches(tiny_san: SAN, monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[int] = []
    finish = Block._finish

    def counting(self: Block, x: Tensor, attended: Tensor) -> Tensor:
        finished.append(x.shape[1])
        return finish(self, x, attended)

    monkeypatch.setattr(Block, "_finish", counting)
    config = tiny_san.config
    tiny_san.propose(torch.randn(1, 3, 64, 128))
    context = 1 + (32 // 16) * (64 // 16)
    assert finished.count(context) == config.clip.vision.layers - 1
    assert finished.count(config.side.queries) == config.clip.vision.layers - config.split


@torch.inference_mode()
def test_training_reads_more_and_answers_the_same(
    tiny_san: SAN, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = tiny_san.readings(image)
    assert len(readings) == len(tiny_san.config.side.readings) == 2
    read: list[int] = []
    decode = tiny_san.side_adapter.decoder.forward
    monkeypatch.setattr(
        tiny_san.side_adapter.decoder, "forward", lambda *inputs: (read.append(1), decode(*inputs))[1]
    )
    answer = tiny_san.propose(image)
    assert len(read) == 1, "the auxiliary reading is for training only"
    assert answer.mask_logits.equal(readings[-1].mask_logits)
    assert not answer.mask_logits.equal(readings[0].mask_logits)


@torch.inference_mode()
def test_half_precision_agrees_roughly(san: SAN, image: Tensor) -> None:
    exact = san.propose(image)
    half = san.to(torch.bfloat16).propose(image.bfloat16())
    assert half.embeddings.dtype == torch.bfloat16
    assert (
        torch.nn.functional.cosine_similarity(half.embeddings.float(), exact.embeddings, dim=-1).min() > 0.98
    )


@pytest.mark.parametrize("clip", CLIP_TRAINS)
@pytest.mark.parametrize("part", PARTS)
def test_freezing_leaves_what_was_named(tiny_san: SAN, clip: str, part: str) -> None:
    tiny_san.freeze(clip, part)
    left = {name for name, parameter in tiny_san.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(("clip.text.", "clip.logit_scale")) for name in left)
    of_clip = {name for name in left if name.startswith("clip.")}
    if part == "masks" or clip == "none":
        assert of_clip == set()
    elif clip == "position":
        assert of_clip == {"clip.visual.position"}
    else:
        assert of_clip == {f"clip.visual.{name}" for name, _ in tiny_san.clip.visual.named_parameters()}
    biases = {name for name in left if "decoder.bias" in name or name == "nothing"}
    assert bool(biases) == (part != "masks")
    assert bool(left - of_clip - biases) == (part != "recognition")


def test_freezing_by_default_is_the_released_recipe(tiny_san: SAN) -> None:
    tiny_san.freeze("visual", "masks")
    tiny_san.freeze()
    left = {name for name, parameter in tiny_san.named_parameters() if parameter.requires_grad}
    assert left == set(tiny_san.trained())
    with pytest.raises(ValueError, match="'text' cannot be trained: choose from none, position, visual"):
        tiny_san.freeze("text")
    with pytest.raises(ValueError, match="choose from all, masks, recognition"):
        tiny_san.freeze(part="some")


@torch.inference_mode()
@pytest.mark.parametrize("stem", ["", "efficientnet-lite0"])
def test_masks_as_biases_are_the_masks(tiny_config: SANConfig, tiny_stem_san: SAN, stem: str) -> None:
    config = tiny_stem_san.config if stem else tiny_config
    san = make_san(replace(config, side=replace(config.side, bias="mask")))
    assert not any("decoder.bias." in name for name in san.state_dict())
    seen: list[tuple[Tensor, Tensor]] = []
    decode = san.side_adapter.decoder.forward
    san.side_adapter.decoder.forward = lambda *inputs: (seen.append(decode(*inputs)), seen[-1])[1]  # type: ignore[method-assign]
    proposals = san.propose(torch.randn(2, 3, 64, 96))
    (masks, bias), decoder = seen[0], san.side_adapter.decoder
    assert bias.shape == (2, config.clip.vision.heads, *masks.shape[1:])
    for head in range(bias.shape[1]):
        torch.testing.assert_close(bias[:, head], masks * decoder.bias_scale + decoder.bias_offset)
    assert proposals.mask_logits.equal(masks)


def test_readings_that_ride_together_are_as_if_alone(tiny_san: SAN, image: Tensor) -> None:
    readings = tiny_san.readings(image)
    wanted = {block for block, _ in tiny_san.config.side.fusion}
    shallow = tiny_san.clip.visual.shallow(tiny_san.clip_image(image), tiny_san.config.split, wanted)
    proposed = tiny_san.side_adapter(image, shallow, auxiliary=True)
    for reading, (_, bias) in zip(readings, proposed, strict=True):
        torch.testing.assert_close(reading.embeddings, tiny_san.clip.visual.recognise(shallow, bias))


def test_activation_checkpointing_changes_no_gradient_and_keeps_less(tiny_san: SAN, image: Tensor) -> None:
    found = []
    for on in (False, True):
        tiny_san.checkpointing = on
        assert tiny_san.checkpointing is on
        kept: list[int] = []
        tiny_san.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor
        ):
            readings = tiny_san.readings(image)
        total = sum(reading.embeddings.square().mean() + reading.mask_logits.mean() for reading in readings)
        torch.autograd.backward(total)
        gradients = {name: p.grad.clone() for name, p in tiny_san.named_parameters() if p.grad is not None}
        found.append((gradients, sum(kept)))
    (plain, all_kept), (again, few_kept) = found
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)
    assert few_kept < 0.6 * all_kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": 4}, "split 4 below"),
        ({"split": 2}, "fusion .* within 2 CLIP"),
        ({"divisor": 0}, "divisor 0"),
        ({"divisor": 24}, "divisor 24"),
        ({"short_side": 300}, "sides 300 to 256"),
        ({"long_side": 100_000}, "sides 64 to 100000"),
        ({"clip_scale": 0.0}, "clip_scale 0.0"),
        ({"clip_scale": 2.0}, "clip_scale 2.0"),
        ({"novelty": float("nan")}, "novelty nan"),
        ({"evidence": float("inf")}, "evidence inf"),
        ({"evidence": 2.0}, "evidence 2.0 0 for a stem without kinds"),
        ({"std": (0.2, 0.0, 0.2)}, "std"),
    ],
)
def test_impossible_configurations_are_refused(
    tiny_config: SANConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_config, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "5 heads"),
        ({"readings": ()}, "readings"),
        ({"readings": (4, 5)}, "readings"),
        ({"readings": (4, 3)}, "readings"),
        ({"fusion": ((0, 9),)}, "fusion"),
        ({"fusion": ((0, 1), (2, 1))}, "fusion"),
        ({"mask_stride": 8}, "stem with finer features"),
        ({"mask_stride": 4}, "mask_stride 4"),
        ({"bias": "none"}, "bias 'none'"),
    ],
)
def test_impossible_side_adapters_are_refused(
    tiny_config: SANConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SAN(replace(tiny_config, side=replace(tiny_config.side, **changes)))


def test_an_unknown_stem_is_refused(tiny_config: SANConfig) -> None:
    clip = tiny_config.clip
    with pytest.raises(ValueError, match="stem 'x' is unknown"):
        SAN(replace(tiny_config, clip=replace(clip, vision=replace(clip.vision, stem="x"))))


@torch.inference_mode()
def test_biases_are_scaled_products_of_queries_and_keys(tiny_san: SAN) -> None:
    """Sec. 3.2, as it is written: keys for each head, and what they have in common with the queries."""
    decoder, side = tiny_san.side_adapter.decoder, tiny_san.config.side
    decoder.bias_scale.fill_(1.7)
    decoder.bias_offset.fill_(-0.4)
    queries, patches = torch.randn(2, side.queries, side.width), torch.randn(2, 12, side.width)
    _, bias = decoder(queries, patches, (3, 4), patches, (3, 4))
    keys_BLNC = decoder.bias(patches).unflatten(2, (decoder.heads, -1))
    products_BNQL = torch.einsum("bqc,blnc->bnql", decoder.query(queries), keys_BLNC)
    torch.testing.assert_close(bias, (1.7 * products_BNQL - 0.4).unflatten(3, (3, 4)), atol=1e-5, rtol=1e-4)


def test_the_activation_of_clip_and_its_gradient() -> None:
    x = torch.linspace(-8, 8, 99, requires_grad=True)
    wanted = x * torch.sigmoid(1.702 * x)
    got = QuickGELU()(x)
    assert got.equal(wanted)
    (gradient,), (plain,) = torch.autograd.grad(got.sum(), x), torch.autograd.grad(wanted.sum(), x)
    torch.testing.assert_close(gradient, plain)
    given = x.detach().clone()
    assert QuickGELU()(given).equal(wanted)
    assert given.equal(x)  # untouched


@torch.inference_mode()
@pytest.mark.parametrize(
    "sizes",
    [
        ((40, 40), (32, 32)),
        ((40, 40), (20, 20)),
        ((10, 14), (8, 11)),
        ((9, 50), (2, 7)),
        ((5, 8), (9, 8)),
    ],
)
def test_pooling_is_adaptive(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    bias = torch.randn(2, 3, 4, *sizes[0])
    wanted = torch.nn.functional.adaptive_max_pool2d(bias.flatten(1, 2), sizes[1])
    assert max_pool_to(bias, sizes[1]).flatten(1, 2).equal(wanted)
    assert max_pool_to(bias, sizes[0]) is bias
    assert _max_pool_by_windows(bias.flatten(1, 2), sizes[1]).equal(wanted)


@pytest.mark.parametrize("config", [SAN_VIT_B16, SAN_VIT_L14, SAN_MINI], ids=lambda config: config.name)
def test_a_configuration_survives_a_journey(config: SANConfig) -> None:
    assert SANConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_configuration_with_odd_fields_is_refused(tiny_config: SANConfig) -> None:
    with pytest.raises(ValueError, match="surprise"):
        SANConfig.from_dict({**tiny_config.to_dict(), "surprise": 1})
    with pytest.raises(ValueError, match="split"):
        SANConfig.from_dict({k: v for k, v in tiny_config.to_dict().items() if k != "split"})
