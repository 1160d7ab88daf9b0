"""CLIP's image tower, and CLIP itself: plain transformers of our own, equal to open_clip's (tested).

B batch, Q queries, N heads, E shared embedding, D width, h w grid, H W pixels, L = 1 + h w tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanseg.model.config import CLIPConfig
from sanseg.model.stem import STEMS, Guess
from sanseg.model.text import LAYER_NORM_EPS, TextTower
from sanseg.model.transformer import Block, drawn, known, recognition_mask, resize_position


@dataclass(frozen=True)
class Shallow:
    """What CLIP's first blocks saw.

    passed: how many blocks.
    features: {blocks passed: (B, D, h, w)}, without the class token.
    tokens: (B, 1 + h w, D) after the last of these blocks, class token first.
    fine: (B, C, h', w') the stem's finer features; None for a stem without.
    guess: (B, C, h'', w'') what the stem's own classifier makes of each place (`Guess`); None without one.
    """

    passed: int
    features: dict[int, Tensor]
    tokens: Tensor
    grid: tuple[int, int]
    fine: Tensor | None
    guess: Tensor | None


class VisionTower(nn.Module):
    """CLIP's image tower."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        vision = config.vision
        if vision.stem not in STEMS:
            raise ValueError(f"stem {vision.stem!r} is unknown: use one of {', '.join(map(repr, STEMS))}")
        self.config = vision
        self.stem = STEMS[vision.stem](vision.width, vision.patch)
        if vision.classes and not self.stem.COARSE_CHANNELS:
            raise ValueError(f"the stem {vision.stem!r} has no classifier of {vision.classes} classes: use 0")
        self.guess = (
            Guess(self.stem.COARSE_CHANNELS, vision.classes, config.embed, kinds=vision.kinds)
            if vision.classes
            else None
        )
        self.class_token = nn.Parameter(torch.zeros(vision.width))
        self.position = drawn(1 + vision.grid**2, vision.width, std=0.02)
        self.norm_pre = nn.LayerNorm(vision.width, eps=LAYER_NORM_EPS)
        self.blocks = nn.ModuleList(
            Block(vision.width, vision.heads, eps=LAYER_NORM_EPS, quick_gelu=config.quick_gelu)
            for _ in range(vision.layers)
        )
        self.norm_post = nn.LayerNorm(vision.width, eps=LAYER_NORM_EPS)
        self.projection = drawn(vision.width, config.embed, std=vision.width**-0.5)

    def shallow(self, image_B3HW: Tensor, blocks: int, wanted: Collection[int]) -> Shallow:
        """The first `blocks` blocks; features after each number of blocks in `wanted` (0: after norm_pre)."""
        dtype = self.position.dtype  # the stem may be more precise: see `checkpoint.precision`
        patches_BDhw, *finer = self.stem(image_B3HW)
        fine, coarse = (None if one is None else one.to(dtype) for one in finer)
        patches_BDhw = patches_BDhw.to(dtype)
        guess = None if self.guess is None else self.guess(coarse)
        B, D, h, w = patches_BDhw.shape
        tokens = torch.cat([self.class_token.expand(B, 1, D), patches_BDhw.flatten(2).mT], 1)
        position = resize_position(self.position[1:], self.config.grid, (h, w))
        tokens = self.norm_pre(tokens + torch.cat([self.position[:1], position]))
        features = {}
        for passed in range(blocks + 1):
            if passed > 0:
                tokens = self.blocks[passed - 1](tokens)
            if passed in wanted:
                features[passed] = tokens[:, 1:].mT.unflatten(2, (h, w))
        return Shallow(blocks, features, tokens, (h, w), fine, guess)

    def recognise(self, shallow: Shallow, bias_BNQhw: Tensor) -> Tensor:
        """Region embeddings (B, Q, E), unit length (Sec. 3.3): [SLS] tokens through the remaining blocks.

        bias_BNQhw: on any grid; adaptively max-pooled to CLIP's. [SLS] tokens start as CLIP's class token.
        """
        mask = recognition_mask(max_pool_to(bias_BNQhw, shallow.grid))
        context = shallow.tokens
        sls_BQD = context[:, :1].expand(-1, bias_BNQhw.shape[2], -1)
        blocks = list(self.blocks)[shallow.passed :]
        for block in blocks:
            assert isinstance(block, Block)
            sls_BQD, context = block.beside(sls_BQD, context, mask, last=block is blocks[-1])
        return self.embed(sls_BQD)

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (..., D) after the last block to unit vectors (..., E) of the space shared with words."""
        return F.normalize(self.norm_post(tokens) @ self.projection, dim=-1)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Plain CLIP: normalised pictures (B, 3, H, W) to unit vectors (B, E)."""
        seen = self.shallow(image_B3HW, len(self.blocks), ())
        embedded = self.embed(seen.tokens[:, :1])
        if self.guess is not None and seen.guess is not None:
            everywhere = torch.ones_like(seen.guess[:, :1])
            embedded = self.guess.join(embedded, self.guess.seen(seen.guess, everywhere))
        return embedded[:, 0]


def max_pool_to(bias_BNQhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """`F.adaptive_max_pool2d`, with channels innermost in memory, where a CPU is many times as fast."""
    sizes = (*bias_BNQhw.shape[3:], *grid)
    if known(sizes) and sizes[:2] == grid:
        return bias_BNQhw
    maps_BChw = bias_BNQhw.flatten(1, 2)
    if maps_BChw.is_mps or not known(sizes):  # MPS has it for some sides only
        pooled = _max_pool_by_windows(maps_BChw, grid)
    else:
        pooled = F.adaptive_max_pool2d(maps_BChw.contiguous(memory_format=torch.channels_last), grid)
    return torch.unflatten(pooled, 1, bias_BNQhw.shape[1:3])


def _max_pool_by_windows(maps_BChw: Tensor, grid: tuple[int, int]) -> Tensor:
    """The same. To a grid that is not `known`: not smaller than half of the maps."""
    maps_BhwC = maps_BChw.permute(0, 2, 3, 1)
    return _max_of_windows(_max_of_windows(maps_BhwC, 1, grid[0]), 2, grid[1]).permute(0, 3, 1, 2)


def _max_of_windows(maps_BhwC: Tensor, dim: int, windows: int) -> Tensor:
    """Adaptive max pooling along one side."""
    side = maps_BhwC.shape[dim]
    if known((side, windows)):
        if side == windows:
            return maps_BhwC
        widest = -(-side // windows) + (side % windows > 0)
    else:
        torch._check(side <= 2 * windows, lambda: "the masks' grid is more than twice as fine as CLIP's")
        widest = 3
    places = torch.arange(windows, device=maps_BhwC.device)
    first, last = places * side // windows, ((places + 1) * side - 1) // windows
    taken = [maps_BhwC.index_select(dim, torch.minimum(first + place, last)) for place in range(widest)]
    return reduce(torch.maximum, taken)


class CLIP(nn.Module):
    """Both towers and the learned temperature (its logarithm, as CLIP stores it)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = VisionTower(config)
        self.text = TextTower(config)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
