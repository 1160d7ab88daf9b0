"""How pictures become CLIP's tokens: CLIP's own patch convolution, or a convolutional stem for small models.

B batch, D width, h w token grid, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchStem(nn.Module):
    """One convolution of `patch` x `patch` pixels, without bias: CLIP's."""

    FINE_CHANNELS = COARSE_CHANNELS = 0  # it has no finer and no coarser features

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, width, patch, patch, bias=False)

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, None, None]:
        """(B, D, h, w), and neither finer nor coarser features."""
        return self.convolution(image_B3HW.to(self.convolution.weight.dtype)), None, None


# EfficientNet-Lite0 (TensorFlow's TPU models, 2020): kernel, stride, expansion, channels, repeats of each stage.
LITE0_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
LITE2_STAGES = (  # the same, 1.1 times as wide and 1.2 times as deep
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 3),
    (5, 2, 6, 48, 3),
    (3, 2, 6, 88, 4),
    (5, 1, 6, 120, 4),
    (5, 2, 6, 208, 5),
    (3, 1, 6, 352, 1),
)
GUESS_CHANNELS = 1_280  # between an EfficientNet-Lite's last stage and its classes
FINE, MIDDLE = 2, 4  # stages whose outputs are read: stride 8, stride 16; and the last, stride 32


class SameConvolution(nn.Conv2d):
    """A convolution padded as TensorFlow pads sizes that the stride divides: with stride 2, one more at the end.

    Where that is uneven, both sides are padded alike, and a row and a column of zeros in front of the kernel take away
    what is too much at the beginning: a padded copy of the picture's largest features costs more than they do.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, padding=(kernel - stride + 1) // 2, groups=groups)
        self.uneven = (kernel - stride) % 2

    def forward(self, x: Tensor) -> Tensor:
        weight = F.pad(self.weight, (self.uneven, 0, self.uneven, 0))
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)


class InvertedBottleneck(nn.Module):
    """MobileNetV2's block with ReLU6. Batch normalisation is folded into the convolutions (it never trains)."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = nn.Conv2d(channels, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = SameConvolution(inner, inner, kernel, stride, groups=inner)
        self.project = nn.Conv2d(inner, out, 1)
        self.expands, self.residual = expansion > 1, stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self.expand(x), inplace=True) if self.expands else x
        out: Tensor = self.project(F.relu6(self.depthwise(inner), inplace=True))
        return x + out if self.residual else out


class LiteStem(nn.Module):
    """An EfficientNet-Lite without its head: stride 16 and stride 32 joined and projected to `width`.

    It was trained on RGB scaled to -1..1; so that it takes CLIP's normalisation, the difference is folded into the
    first convolution.
    """

    NAME: str
    STAGES: tuple[tuple[int, int, int, int, int], ...]
    FINE_CHANNELS: int  # of the features at stride 8
    COARSE_CHANNELS: int  # of those at stride 32

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        if patch != 16:
            raise ValueError(f"patch is {patch}: the stem {self.NAME!r} gives one token for 16 pixels")
        self.first = SameConvolution(3, 32, 3, 2)
        stages, channels = [], 32
        for kernel, stride, expansion, out, repeats in self.STAGES:
            blocks = []
            for number in range(repeats):
                blocks.append(
                    InvertedBottleneck(channels, out, kernel, stride if number == 0 else 1, expansion)
                )
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(self.STAGES[MIDDLE][3] + channels)
        self.project = nn.Linear(self.STAGES[MIDDLE][3] + channels, width)

    def features(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What it sees at strides 8, 16 and 32: (B, C, .., ..) each, C as in STAGES."""
        # Channels last: twice as fast on a CPU in float32, three times in bfloat16.
        x = F.relu6(self.first(image_B3HW.contiguous(memory_format=torch.channels_last)), inplace=True)
        taken = []
        for stage in self.stages:
            x = stage(x)
            taken.append(x)
        return taken[FINE], taken[MIDDLE], x

    def join(self, middle: Tensor, last: Tensor) -> Tensor:
        """Strides 16 and 32 to tokens (B, D, h, w) at stride 16."""
        coarse = F.interpolate(last, size=middle.shape[-2:], mode="bilinear", align_corners=False)
        joined = torch.cat([middle, coarse], dim=1).permute(0, 2, 3, 1)
        tokens: Tensor = self.project(self.norm(joined))
        return tokens.permute(0, 3, 1, 2)

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D, h, w) at stride 16, (B, FINE_CHANNELS, 2 h, 2 w) at 8, (B, COARSE_CHANNELS, h/2, w/2) at 32."""
        fine, middle, last = self.features(image_B3HW.to(self.project.weight.dtype))
        return self.join(middle, last), fine, last


class Lite0Stem(LiteStem):
    """EfficientNet-Lite0: 2.9 M parameters."""

    NAME, STAGES = "efficientnet-lite0", LITE0_STAGES
    FINE_CHANNELS, COARSE_CHANNELS = STAGES[FINE][3], STAGES[-1][3]


class Lite2Stem(LiteStem):
    """EfficientNet-Lite2: 4.3 M parameters, half as many operations again, better features."""

    NAME, STAGES = "efficientnet-lite2", LITE2_STAGES
    FINE_CHANNELS, COARSE_CHANNELS = STAGES[FINE][3], STAGES[-1][3]


SHARPNESS, STRANGE = 20.0, 0.4  # of `Guess.evidence`: a class less like any row than STRANGE speaks for none


class Guess(nn.Module):
    """What the stem's own classifier makes of each region, said with words.

    Its C classes (ImageNet's 1,000) are known by embeddings of their names, so that no vocabulary is fixed: a word
    that is no class lies near those that mean the like. It is heard twice, where a region is embedded (`join`) and,
    if it also knows what its classes are kinds of, where words name the region (`evidence`).
    """

    def __init__(self, channels: int, classes: int, embed: int, *, kinds: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, GUESS_CHANNELS, 1)
        self.linear = nn.Linear(GUESS_CHANNELS, classes)
        self.names = nn.Parameter(torch.zeros(classes, embed))  # unit embeddings of the classes' names
        # The same, each mixed with what it is a kind of: a ram is a sheep, which its name alone does not tell.
        self.kinds = nn.Parameter(torch.zeros(classes, embed)) if kinds else None
        self.gain = nn.Parameter(torch.ones(()))  # of a guess beside what CLIP's tower says

    def forward(self, coarse_BChw: Tensor) -> Tensor:
        """The stem's features at stride 32 to the classes' probabilities at each place, (B, C, h, w)."""
        hidden = F.relu6(self.convolution(coarse_BChw)).permute(0, 2, 3, 1)
        logits_BhwC: Tensor = self.linear(hidden)
        return logits_BhwC.softmax(-1).permute(0, 3, 1, 2)

    def seen(self, guess_BChw: Tensor, share_BQhw: Tensor) -> Tensor:
        """The mean of each region's places, (B, Q, C); 0 for a region without a place.

        share_BQhw: how much of each place is the region's, from 0 to 1, on the guesses' grid.
        """
        weight_BQL = share_BQhw.flatten(2)
        weight_BQL = weight_BQL / weight_BQL.sum(-1, keepdim=True).clamp_min(1e-4)
        return weight_BQL @ guess_BChw.flatten(2).mT

    def join(self, region_BQE: Tensor, seen_BQC: Tensor) -> Tensor:
        """Unit embeddings (B, Q, E) with the classes' names added, mixed by their probabilities, unit again.

        The mixture is short where the classifier is unsure, so that it says little there.
        """
        return F.normalize(region_BQE + self.gain * (seen_BQC @ self.names), dim=-1)

    def evidence(self, rows_RE: Tensor) -> Tensor:
        """How much each class speaks for each of some words, (C, R), float32: shares of 1, or less.

        rows_RE: embeddings of the words. The more like a class's kind a word is, the larger its share; what a class
        that is like none of them sees speaks for none.
        """
        assert self.kinds is not None, "a Guess without kinds has no evidence"
        like_CR = self.kinds.float() @ F.normalize(rows_RE.float(), dim=-1).T
        strange_C1 = like_CR.new_full((len(like_CR), 1), STRANGE)
        return (SHARPNESS * torch.cat([like_CR, strange_C1], dim=1)).softmax(-1)[:, :-1]


STEMS: dict[str, type[PatchStem | Lite0Stem | Lite2Stem]] = {
    "": PatchStem,
    Lite0Stem.NAME: Lite0Stem,
    Lite2Stem.NAME: Lite2Stem,
}
