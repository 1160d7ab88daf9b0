"""The side adapter: a small ViT beside CLIP that proposes masks and tells CLIP where to look (paper, Sec. 3.2).

B batch, Q queries, N heads of CLIP, D width of CLIP, W width of the side adapter, C channels, h w side grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanseg.model.clip import Shallow
from sanseg.model.config import SANConfig
from sanseg.model.stem import STEMS
from sanseg.model.transformer import Block, drawn, resize_position

LAYER_NORM_EPS = 1e-6


class MLP(nn.Sequential):
    """Three linear layers with ReLU between; on pixels a linear layer is a 1x1 convolution."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out)
        )


class Fusion(nn.Module):
    """Adds CLIP's features of one block to the patch tokens: channel norm, 1x1 convolution, bilinear resize."""

    def __init__(self, clip_width: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(clip_width, eps=LAYER_NORM_EPS)
        self.project = nn.Linear(clip_width, width)

    def forward(self, feature_BDhw: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, D, any grid) to (B, h w, W) on the grid `size`."""
        projected = self.project(self.norm(feature_BDhw.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return F.interpolate(projected, size=size, mode="bilinear", align_corners=False).flatten(2).mT


class Decoder(nn.Module):
    """Queries x pixels: mask logits, and one attention bias for each head of CLIP (Sec. 3.2, Fig. 4)."""

    def __init__(self, config: SANConfig) -> None:
        super().__init__()
        side = config.side
        self.heads = config.clip.vision.heads
        self.query = MLP(side.width, side.hidden, side.channels)
        self.pixel = MLP(side.width, side.hidden, side.channels)
        own = side.bias == "head"
        self.bias = MLP(side.width, side.hidden, self.heads * side.channels) if own else None
        self.bias_scale = nn.Parameter(torch.ones(()))
        self.bias_offset = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        queries_BQW: Tensor,
        patches_BLW: Tensor,
        grid: tuple[int, int],
        pixels_BPW: Tensor,
        size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (B, Q, *size) of the pixels; biases (B, N, Q, h, w) of the patches, h w the `grid`.

        Without a bias head the biases are the mask logits, on their `size`, the same for all N heads.
        """
        queries_BQC = self.query(queries_BQW)
        mask_logits = torch.unflatten(queries_BQC @ self.pixel(pixels_BPW).mT, 2, size)
        if self.bias is None:
            bias = mask_logits[:, None].expand(-1, self.heads, -1, -1, -1)
            return mask_logits, bias * self.bias_scale + self.bias_offset
        return mask_logits, self._bias(queries_BQC * self.bias_scale, patches_BLW, grid)

    def _bias(self, queries_BQC: Tensor, patches_BLW: Tensor, grid: tuple[int, int]) -> Tensor:
        """Scaled queries x the keys of each head, plus the offset; in memory N and Q innermost, fastest to pool.

        The keys W h + b are linear in what their last layer is given: q (W h + b) = (q W) h + q b, and q W is small.
        """
        assert self.bias is not None
        *first, last = self.bias
        assert isinstance(last, nn.Linear)
        hidden_BLH = patches_BLW
        for layer in first:
            hidden_BLH = layer(hidden_BLH)
        N, Q = self.heads, queries_BQC.shape[1]
        moved_BNQH = queries_BQC[:, None] @ torch.unflatten(last.weight, 0, (N, -1))
        added_BNQ = torch.unflatten(last.bias, 0, (N, -1)) @ queries_BQC.mT + self.bias_offset
        bias_BLM = hidden_BLH @ moved_BNQH.flatten(1, 2).mT + added_BNQ.flatten(1)[:, None]
        return bias_BLM.view(len(bias_BLM), *grid, N, Q).permute(0, 3, 4, 1, 2)


class SideAdapter(nn.Module):
    """Query tokens and patch tokens in one ViT that CLIP's features are fused into."""

    def __init__(self, config: SANConfig) -> None:
        super().__init__()
        side = config.side
        self.config = side
        self.query = drawn(side.queries, side.width, std=1.0)
        self.query_position = drawn(side.queries, side.width, std=1.0)
        self.position = drawn(side.grid**2, side.width, std=0.02)
        self.patches = nn.Conv2d(3, side.width, side.patch, side.patch)
        self.blocks = nn.ModuleList(
            Block(side.width, side.heads, eps=LAYER_NORM_EPS, quick_gelu=False) for _ in range(side.layers)
        )
        self.fusion = nn.ModuleList(Fusion(config.clip.vision.width, side.width) for _ in side.fusion)
        self.decoder = Decoder(config)
        fine_channels = STEMS[config.clip.vision.stem].FINE_CHANNELS
        if side.mask_stride < side.patch and not fine_channels:
            raise ValueError(
                f"mask_stride {side.mask_stride} needs a stem with finer features: use the patch"
            )
        self.fine = Fusion(fine_channels, side.width) if side.mask_stride < side.patch else None

    def forward(
        self, image_B3HW: Tensor, shallow: Shallow, *, auxiliary: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Readings (mask logits (B, Q, h', w'), biases (B, N, Q, h, w)), the answer last.

        `auxiliary`: also the earlier readings, which only training uses.
        """
        side = self.config
        patches = self.patches(image_B3HW.to(self.patches.weight.dtype))
        B, _, h, w = patches.shape
        Q = side.queries
        position = torch.cat([self.query_position, resize_position(self.position, side.grid, (h, w))])
        x = torch.cat([self.query.to(patches.dtype).expand(B, -1, -1), patches.flatten(2).mT], 1) + position
        fusion = {into: (module, of) for (of, into), module in zip(side.fusion, self.fusion, strict=True)}
        readings = []
        for passed in range(side.layers + 1):
            if passed > 0:
                x = self.blocks[passed - 1](x)
            if passed in fusion:
                module, of = fusion[passed]
                x = torch.cat([x[:, :Q], x[:, Q:] + module(shallow.features[of], (h, w))], 1)
            if passed == side.readings[-1] or (auxiliary and passed in side.readings):
                readings.append(self._read(x[:, :Q], x[:, Q:], (h, w), shallow))
            if 0 < passed < side.layers:
                x = x + position
        return readings

    def _read(
        self, queries: Tensor, patches: Tensor, grid: tuple[int, int], shallow: Shallow
    ) -> tuple[Tensor, Tensor]:
        size, pixels = grid, patches
        if self.fine is not None:
            assert shallow.fine is not None
            size = (2 * grid[0], 2 * grid[1])
            coarse = torch.unflatten(patches.mT, 2, grid)
            pixels = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False).flatten(2).mT
            pixels = pixels + self.fine(shallow.fine, size)
        proposed: tuple[Tensor, Tensor] = self.decoder(queries, patches, grid, pixels, size)
        return proposed
