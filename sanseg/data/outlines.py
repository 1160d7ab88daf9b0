"""Outlines of things, as polygons or run lengths, drawn into an index map.

pycocotools draws the polygons, since what a polygon covers is COCO's convention. Its C code trusts its input
(a point far away is a crash, NaN takes all memory), so everything is checked before it gets there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanseg.data.files import IndexMap, is_index, map_type
from sanseg.data.raw import decode_runs
from sanseg.vocabulary import other_id

MAX_STEPS = 2**24  # of a polygon's outline, of a fifth of a pixel each: some 3 million pixels

Runs = NDArray[np.int64]  # how many pixels off, on, off, ... column by column


def polygon_runs(rings: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> Runs:
    """What polygons cover together, in a picture of size (H, W).

    rings: each float64 (2 N,), x and y in turns, in pixels. One of fewer than three points covers nothing.
    Raises ValueError for a point that is no number or far outside, and for an outline without end.
    """
    height, width = size
    drawable = []
    for ring in rings:
        if len(ring) % 2:
            raise ValueError(f"a polygon of {len(ring)} numbers: wanted x and y in turns")
        points_P2 = ring.reshape(-1, 2)
        if not np.isfinite(points_P2).all() or np.abs(points_P2).max(initial=0) > 10 * max(size):
            raise ValueError(f"a polygon with a point far outside its picture of {width}x{height} pixels")
        steps = 5 * np.abs(points_P2 - np.roll(points_P2, 1, axis=0)).max(axis=1, initial=0)
        if steps.sum() + len(points_P2) > MAX_STEPS:
            raise ValueError(
                f"a polygon of {len(points_P2)} points that is {steps.sum() / 5:.0f} pixels long"
            )
        if len(points_P2) >= 3:
            drawable.append(ring.tolist())
    if not drawable:
        return np.array([height * width])
    coco = _pycocotools()
    return decode_runs(coco.merge(coco.frPyObjects(drawable, height, width))["counts"])


def decode_mask(mask: object, size: tuple[int, int]) -> Runs:
    """COCO's {"size": [H, W], "counts": ...}, the counts compressed (a string) or a list of run lengths.

    Raises ValueError for another size, and for counts that do not fill it.
    """
    height, width = size
    if not isinstance(mask, dict) or mask.get("size") != [height, width]:
        found = mask.get("size") if isinstance(mask, dict) else mask
        raise ValueError(f"run lengths of size {found!r}: wanted {[height, width]}, the picture's")
    counts = mask.get("counts")
    if isinstance(counts, str):
        runs = decode_runs(counts.encode())
    elif isinstance(counts, list) and counts and all(is_index(count, 2**31) for count in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise ValueError("run lengths that are neither a string nor a list of numbers")
    if runs.min() < 0 or runs.sum() != height * width:
        raise ValueError(f"run lengths of {runs.sum()} pixels: wanted {width}x{height}")
    return runs


def draw(shapes: Sequence[tuple[Runs, int]], size: tuple[int, int], labels: int) -> IndexMap:
    """The index map (H, W) of shapes, each with its label, smaller ones over larger ones; other elsewhere."""
    height, width = size
    columns = np.full(width * height, other_id(labels), map_type(labels))
    for runs, index in sorted(shapes, key=lambda shape: -int(shape[0][1::2].sum())):
        columns[np.repeat(np.arange(len(runs)) % 2 == 1, runs)] = index
    return np.ascontiguousarray(columns.reshape(width, height).T)


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ValueError(
            "polygons are drawn by pycocotools, which is not installed: pip install 'sanseg[train]'"
        ) from error
    return mask
