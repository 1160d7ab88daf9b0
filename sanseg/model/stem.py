"""How pictures become CLIP's tokens: CLIP's own patch convolution, or a convolutional stem for small models.

B batch, D width, h w token grid, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchStem(nn.Module):
    """One convolution of `patch` x `patch` pixels, without bias: CLIP's."""

    FINE_CHANNELS = 0  # it has no finer features

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, width, patch, patch, bias=False)

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, None]:
        """(B, D, h, w), and no finer features."""
        return self.convolution(image_B3HW), None


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
LITE0_FINE, LITE0_MIDDLE = 2, 4  # stages whose outputs are read: stride 8, stride 16; and the last, stride 32


class SameConvolution(nn.Conv2d):
    """A convolution padded as TensorFlow pads sizes that the stride divides: with stride 2, more at the end."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups)
        begin, end = (kernel - stride) // 2, (kernel - stride + 1) // 2
        self.pad = (begin, end, begin, end)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pad))


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
        inner = F.relu6(self.expand(x)) if self.expands else x
        out: Tensor = self.project(F.relu6(self.depthwise(inner)))
        return x + out if self.residual else out


class Lite0Stem(nn.Module):
    """EfficientNet-Lite0 without its head: stride 16 and stride 32 joined and projected to `width`.

    It was trained on RGB scaled to -1..1, so CLIP's normalisation is turned into that one first.
    """

    FINE_CHANNELS = 40  # of the features at stride 8

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        if patch != 16:
            raise ValueError(f"patch is {patch}: the stem 'efficientnet-lite0' gives one token for 16 pixels")
        self.first = SameConvolution(3, 32, 3, 2)
        stages, channels = [], 32
        for kernel, stride, expansion, out, repeats in LITE0_STAGES:
            blocks = []
            for number in range(repeats):
                blocks.append(
                    InvertedBottleneck(channels, out, kernel, stride if number == 0 else 1, expansion)
                )
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(LITE0_STAGES[LITE0_MIDDLE][3] + channels)
        self.project = nn.Linear(LITE0_STAGES[LITE0_MIDDLE][3] + channels, width)

    def features(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What Lite0 sees at strides 8, 16 and 32: (B, 40, .., ..), (B, 112, .., ..), (B, 320, .., ..)."""
        # Channels last: twice as fast on a CPU in float32, three times in bfloat16.
        x = F.relu6(self.first(image_B3HW.contiguous(memory_format=torch.channels_last)))
        taken = []
        for stage in self.stages:
            x = stage(x)
            taken.append(x)
        return taken[LITE0_FINE], taken[LITE0_MIDDLE], x

    def join(self, middle: Tensor, last: Tensor) -> Tensor:
        """Strides 16 and 32 to tokens (B, D, h, w) at stride 16."""
        coarse = F.interpolate(last, size=middle.shape[-2:], mode="bilinear", align_corners=False)
        joined = torch.cat([middle, coarse], dim=1).permute(0, 2, 3, 1)
        tokens: Tensor = self.project(self.norm(joined))
        return tokens.permute(0, 3, 1, 2)

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) at stride 16, and (B, 40, 2 h, 2 w) at stride 8."""
        fine, middle, last = self.features(image_B3HW)
        return self.join(middle, last), fine


STEMS: dict[str, type[PatchStem | Lite0Stem]] = {"": PatchStem, "efficientnet-lite0": Lite0Stem}
