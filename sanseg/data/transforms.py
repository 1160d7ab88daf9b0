"""What training does to a picture before the network sees it: scale, crop, flip, colour, padding.

H W pixels of the stored picture, h w of the crop, P Q padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as colour

from sanseg.data.datasets import IndexMap


@dataclass(frozen=True)
class Augmentation:
    """By default that of the released recipe.

    The short side becomes `short_side` pixels times a factor drawn from `scale` (lowest, highest) in steps of
    0.1, then a square of `crop` pixels is cut out at random (smaller where the picture is). `flip` is the
    probability of mirroring. `colour` scales the ranges of torchvision's RandomPhotometricDistort; 0 is none.
    """

    short_side: int = 640
    scale: tuple[float, float] = (0.5, 1.5)
    crop: int = 640
    flip: float = 0.5
    colour: float = 1.0

    def __post_init__(self) -> None:
        for name in ("short_side", "crop"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)} pixels: give at least 1")


def augment(
    image: NDArray[np.uint8], index_map: IndexMap, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], IndexMap]:
    """A picture uint8 (H, W, 3) and its map (H, W) to another view of both, (h, w, 3) and (h, w).

    The picture is resampled bilinearly (antialiased), the map to the nearest pixel.
    """
    low, high = augmentation.scale
    factors = np.arange(round(low * 10), round(high * 10) + 1) / 10
    size, box = draw_crop(image.shape[:2], augmentation, float(rng.choice(factors)), rng)
    # Resampling the crop's part of the picture gives what resizing the whole and cutting would, for less.
    view = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=box))
    indices = Image.fromarray(index_map.astype(np.int32)).resize(size, Image.Resampling.NEAREST, box=box)
    index_view: IndexMap = np.asarray(indices).astype(index_map.dtype)
    if rng.random() < augmentation.flip:
        view, index_view = view[:, ::-1], index_view[:, ::-1]
    if augmentation.colour > 0:
        view = distort_colour(view, augmentation.colour, rng)
    return view, index_view


def draw_crop(
    shape: tuple[int, ...], augmentation: Augmentation, factor: float, rng: np.random.Generator
) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """The size (w, h) of a random crop, and the box (left, top, right, bottom) of the picture it shows."""
    height, width = shape
    scale = factor * augmentation.short_side / min(height, width)
    resized_h, resized_w = max(1, round(height * scale)), max(1, round(width * scale))
    h, w = min(augmentation.crop, resized_h), min(augmentation.crop, resized_w)
    top, left = int(rng.integers(resized_h - h + 1)), int(rng.integers(resized_w - w + 1))
    x, y = width / resized_w, height / resized_h
    return (w, h), (left * x, top * y, min(width, (left + w) * x), min(height, (top + h) * y))


def distort_colour(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation and hue, each changed with probability 1/2 (SSD's distortion)."""
    x = torch.from_numpy(image.transpose(2, 0, 1).copy())
    ranges = (
        (colour.adjust_brightness, 1, 0.125),
        (colour.adjust_contrast, 1, 0.5),
        (colour.adjust_saturation, 1, 0.5),
        (colour.adjust_hue, 0, 0.05),
    )
    for adjust, centre, spread in ranges:
        amount = rng.uniform(-spread, spread) * strength
        if rng.random() < 0.5:
            x = adjust(x, centre + amount)
    distorted: NDArray[np.uint8] = x.permute(1, 2, 0).numpy()
    return distorted


def to_tensors(
    image: NDArray[np.uint8],
    index_map: IndexMap,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    unknown: int,
) -> tuple[Tensor, Tensor]:
    """The picture, float32 (3, size, size), normalised, and the map, int64 (size, size).

    Both are padded right and below: the picture with zero, after normalising, the map with `unknown`.
    """
    h, w = index_map.shape
    x = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()
    scale = torch.tensor(std).view(3, 1, 1) * 255
    x = (x - torch.tensor(mean).view(3, 1, 1) * 255) / scale
    room = (0, size - w, 0, size - h)
    indices = torch.from_numpy(index_map.astype(np.int64))
    return F.pad(x, room), F.pad(indices, room, value=unknown)
