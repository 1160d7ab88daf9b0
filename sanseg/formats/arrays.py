"""Arrays for numpy.load, without pickles: label map and confidence, or the score of every label.

K labels, h w the mask grid's cells on the picture, H W pixels.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from sanseg.formats.format import Options

if TYPE_CHECKING:
    from sanseg.segmentation import Segmentation


def confidence(segmentation: Segmentation, options: Options) -> bytes:
    """label_map: as it is. confidence: float16 (H, W), rounded by at most 0.00025."""
    return _npz(
        segmentation,
        label_map=segmentation.label_map,
        confidence=segmentation.confidence.astype(np.float16),
    )


def scores(segmentation: Segmentation, options: Options) -> bytes:
    """scores: float16 (K + 1, h, w), `ids` and `labels` say of which label; total: float16 (h, w), of all rows.

    They are kept at the mask grid, for masks hold no more detail than that: K x H x W numbers would say the same
    in a hundred times the room. float16 rounds them by at most 1 in 2048.
    """
    by_label, total = segmentation.scores()
    return _npz(segmentation, scores=by_label.astype(np.float16), total=total.astype(np.float16))


def _npz(segmentation: Segmentation, **arrays: Any) -> bytes:
    """numpy dates every member 1980, so the same arrays give the same bytes."""
    names = {"ids": np.array([*segmentation.names]), "labels": np.array([*segmentation.names.values()])}
    height, width = segmentation.label_map.shape
    members: dict[str, Any] = {**arrays, **names, "size": np.array([height, width]), **segmentation.source()}
    data = io.BytesIO()
    np.savez_compressed(data, **members)
    return data.getvalue()
