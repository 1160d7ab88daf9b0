"""Convolutional stems, and what their own classifier guesses at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanseg.model.clip import CLIP
from sanseg.model.config import SANConfig
from sanseg.model.san import SAN
from sanseg.model.stem import STEMS, Guess, SameConvolution
from sanseg.model.weights import load_san, save_san

CLASSES = 6


@pytest.fixture
def guess(tiny_seeing_san: SAN) -> Guess:
    guess = tiny_seeing_san.clip.visual.guess
    assert guess is not None
    return guess


@torch.inference_mode()
@pytest.mark.parametrize("name", [name for name in STEMS if name])
def test_a_stem_gives_features_at_strides_8_16_and_32(name: str) -> None:
    stem = STEMS[name](24, 16)
    patches, fine, coarse = stem(torch.randn(2, 3, 64, 96))
    assert patches.shape == (2, 24, 4, 6)
    assert fine is not None
    assert fine.shape == (2, stem.FINE_CHANNELS, 8, 12)
    assert coarse is not None
    assert coarse.shape == (2, stem.COARSE_CHANNELS, 2, 3)
    with pytest.raises(ValueError, match=f"patch is 14: the stem '{name}' gives one token for 16 pixels"):
        STEMS[name](24, 14)


@torch.inference_mode()
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_convolutions_are_padded_as_tensorflow_pads(kernel: int, stride: int, groups: int) -> None:
    """What is missing is zeros, half of them before the picture and half after it, an odd one after it."""
    convolution = SameConvolution(4, 8, kernel, stride, groups)
    x = torch.randn(2, 4, 32, 48)
    begin, end = (kernel - stride) // 2, (kernel - stride + 1) // 2
    padded = F.pad(x, (begin, end, begin, end))
    wanted = F.conv2d(padded, convolution.weight, convolution.bias, stride, groups=groups)
    torch.testing.assert_close(convolution(x), wanted)


@torch.inference_mode()
def test_a_region_hears_the_guesses_within_its_mask(tiny_seeing_san: SAN, guess: Guess) -> None:
    places = torch.rand(1, CLASSES, 2, 3)
    region = F.normalize(torch.randn(1, 2, guess.names.shape[1]), dim=-1)
    left = torch.tensor([1.0, 0.0, 0.0]).expand(2, 3)
    seen = guess.seen(places, torch.stack([left, 1 - left])[None])
    joined = guess.join(region, seen)
    for query, inside in enumerate([places[0, :, :, 0].mean(1), places[0, :, :, 1:].mean((1, 2))]):
        torch.testing.assert_close(seen[0, query], inside)
        mixed = inside @ guess.names
        torch.testing.assert_close(
            joined[0, query], F.normalize(region[0, query] + guess.gain * mixed, dim=0)
        )


@torch.inference_mode()
def test_a_region_without_a_place_stays_as_it_is(guess: Guess) -> None:
    region = F.normalize(torch.randn(1, 2, guess.names.shape[1]), dim=-1)
    joined = guess.join(region, guess.seen(torch.rand(1, CLASSES, 2, 3), torch.zeros(1, 2, 2, 3)))
    torch.testing.assert_close(joined, region)


@torch.inference_mode()
def test_guesses_are_the_classes_probabilities(guess: Guess) -> None:
    coarse = torch.randn(2, guess.convolution.in_channels, 2, 3)
    guess.linear.weight.zero_()
    guess.linear.bias.copy_(torch.tensor([0.0, 50.0, *[0.0] * (CLASSES - 2)]))  # sure of the second
    second = F.one_hot(torch.tensor(1), CLASSES).float().view(1, -1, 1, 1)
    torch.testing.assert_close(guess(coarse), second.expand(2, -1, 2, 3))
    guess.linear.bias.zero_()
    torch.testing.assert_close(guess(coarse), torch.full((2, CLASSES, 2, 3), 1 / CLASSES))


@torch.inference_mode()
def test_a_class_speaks_for_the_words_that_its_kind_is_like(guess: Guess) -> None:
    assert guess.kinds is not None
    guess.kinds.copy_(torch.eye(*guess.kinds.shape))
    words = torch.stack([guess.kinds[0], 2 * guess.kinds[0], guess.kinds[1] + guess.kinds[2], guess.kinds[4]])
    evidence = guess.evidence(words)
    assert evidence.shape == (CLASSES, 4)
    torch.testing.assert_close(evidence[0], torch.tensor([0.5, 0.5, 0.0, 0.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(evidence[4], torch.tensor([0.0, 0.0, 0.0, 1.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(evidence[1], evidence[2])
    assert 0.9 < evidence[1, 2] < 1, "two kinds in one word: like either, if not as much"
    assert evidence[3].sum() < 0.01, "what is like no word speaks for none"


@torch.inference_mode()
def test_proposals_tell_what_is_seen_where_kinds_are_known(tiny_seeing_san: SAN) -> None:
    image = torch.randn(2, 3, 64, 96)
    found = tiny_seeing_san.propose(image)
    assert found.seen is not None
    assert found.seen.shape == (*found.embeddings.shape[:2], CLASSES)
    torch.testing.assert_close(found.seen.sum(-1), torch.ones(found.embeddings.shape[:2]))
    assert [one.shape for one in found.tensors] == [
        found.mask_logits.shape,
        found.embeddings.shape,
        found.seen.shape,
    ]
    embeddings, seen = found.regions(1)
    assert embeddings.equal(found.embeddings[1])
    assert seen is not None
    assert seen.equal(found.seen[1])
    tiny_seeing_san.clip.visual.guess.kinds = None
    without = tiny_seeing_san.propose(image)
    assert without.seen is None
    assert without.regions(1)[1] is None
    assert len(without.tensors) == 2
    assert without.embeddings.equal(found.embeddings)


@torch.inference_mode()
def test_recognition_is_clips_own_where_guesses_are_silent(tiny_seeing_san: SAN, guess: Guess) -> None:
    image = torch.randn(1, 3, 64, 96)
    loud, loud_clip = tiny_seeing_san.propose(image), tiny_seeing_san.clip.visual(image)
    guess.gain.zero_()
    silent = tiny_seeing_san.propose(image)
    config: SANConfig = tiny_seeing_san.config
    plain = SAN(
        replace(config, clip=replace(config.clip, vision=replace(config.clip.vision, classes=0)))
    ).eval()
    weights = {name: one for name, one in tiny_seeing_san.state_dict().items() if ".guess." not in name}
    plain.load_state_dict(weights)
    torch.testing.assert_close(silent.embeddings, plain.propose(image).embeddings)
    torch.testing.assert_close(tiny_seeing_san.clip.visual(image), plain.clip.visual(image))
    assert _apart(loud.embeddings, silent.embeddings) > 1e-3
    assert _apart(loud_clip, plain.clip.visual(image)) > 1e-3
    assert loud.mask_logits.equal(silent.mask_logits)


def test_only_a_stem_with_a_classifier_guesses(tiny_config: SANConfig) -> None:
    clip = replace(tiny_config.clip, vision=replace(tiny_config.clip.vision, classes=CLASSES))
    with pytest.raises(ValueError, match="the stem '' has no classifier of 6 classes: use 0"):
        CLIP(clip)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@torch.inference_mode()
def test_beside_bfloat16_a_stem_and_words_stay_float32(tiny_seeing_san: SAN, tmp_path: Path) -> None:
    """A stem sees the picture in float32, and what it gives is rounded once."""
    save_san(tmp_path / "san.safetensors", tiny_seeing_san, kind="san")
    loaded = load_san(tmp_path / "san.safetensors", dtype=torch.bfloat16)
    precise = {name: one for name, one in loaded.named_parameters() if one.dtype is torch.float32}
    exact = ("clip.visual.stem.", "clip.text.", "clip.logit_scale")
    assert precise.keys() == {name for name, _ in loaded.named_parameters() if name.startswith(exact)}
    for name, parameter in precise.items():
        assert parameter.equal(tiny_seeing_san.get_parameter(name))
    image = torch.randn(1, 3, 64, 96)
    proposals = loaded.propose(image)
    assert proposals.mask_logits.dtype is proposals.embeddings.dtype is torch.bfloat16
    wanted = tiny_seeing_san.clip.visual.stem(image)
    for got, one in zip(loaded.clip.visual.stem(image), wanted, strict=True):
        assert got.equal(one)
    shallow = loaded.clip.visual.shallow(image, 0, {0})
    assert shallow.fine is not None
    assert shallow.fine.equal(wanted[1].bfloat16())
