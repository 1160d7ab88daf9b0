"""Proposals and class probabilities to a label map, tile by tile: no tensor of rows x H x W exists.

Q queries, R classifier rows, h w the mask grid, H W the original picture's pixels, P pixels of one tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sanseg.images import Geometry
from sanseg.vocabulary import other_id

# Scores at once, by kind of device. On a CPU 8 MB stay in its caches, and masks hardly vary in so small a tile,
# so that most rows cannot win there (see `_contenders`); a GPU wants more to do at once.
TILE_FLOATS = {"cpu": 1 << 21, "gpu": 1 << 24}


@dataclass(frozen=True, eq=False)
class View:
    """What a network says of a picture that it saw one way of several.

    mask_logits: (Q, h, w). probabilities: (Q, R). geometry: all as `label_map` takes them. flipped: whether the
    network saw the picture mirrored, left for right.
    """

    mask_logits: Tensor
    probabilities: Tensor
    geometry: Geometry
    flipped: bool = False


def label_map(
    mask_logits_Qhw: Tensor, probabilities_QR: Tensor, row_label: Sequence[int], geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """The label of every pixel of the original picture, and how sure it is (SAN.md, "Answer").

    Mask logits go bilinearly to the padded size, are cropped to the content, and go bilinearly to the
    original size; row r scores the sum over queries of its probability times sigmoid(mask logit); the best
    row wins.

    mask_logits_Qhw: any float type, any device. probabilities_QR: without "nothing".
    row_label: the index of each row's label, or -1 for a distractor.
    Returns ids (H, W), indices of labels or `other_id`, uint8 with at most 254 labels, else uint16; and the
    confidence float32 (H, W) in [0, 1], the winner's share of the score of all rows, distractors included.
    Raises ValueError for shapes that do not agree and for values that are not finite.
    """
    return label_map_of_views([View(mask_logits_Qhw, probabilities_QR, geometry)], row_label)


def label_map_of_views(views: Sequence[View], row_label: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """As `label_map`, of the mean score over views of one picture.

    The queries of all views stand beside each other, as if one network had proposed them: the sum over queries
    is then the sum over views, and neither the best row nor its share asks by what it is divided.

    Raises ValueError also for no views, and for views of different pictures or rows.
    """
    checked = [_checked(view.mask_logits, view.probabilities) for view in views]
    pictures, rows_of = {view.geometry.original for view in views}, {len(p_RQ) for _, p_RQ in checked}
    if len(pictures) != 1 or len(rows_of) != 1:
        raise ValueError("the views are none, or of different pictures or words: pass those of one answer")
    height, width = views[0].geometry.original
    p_RQ = _joined([p_RQ for _, p_RQ in checked], dim=1)
    if len(row_label) != len(p_RQ):
        raise ValueError(f"{len(row_label)} row labels for {len(p_RQ)} rows: give one for each row")
    total_1Q = p_RQ.sum(0, keepdim=True)
    weighted = [(masks, *_weights(masks, view)) for view, (masks, _) in zip(views, checked, strict=True)]
    best = torch.empty(height, width, dtype=torch.int32, device=p_RQ.device)
    share = torch.empty(height, width, device=p_RQ.device)
    pixels = TILE_FLOATS["cpu" if best.is_cpu else "gpu"] // max(p_RQ.shape)
    for rows, columns in _tiles(height, width, pixels):
        if columns.start == 0:
            bands = [(_band(masks, down_Hh[rows]), across_wW) for masks, down_Hh, across_wW in weighted]
        s_QP = _joined([_inside(band_Qyw, across_wW[:, columns]) for band_Qyw, across_wW in bands]).sigmoid_()
        likely = _contenders(p_RQ, s_QP)
        score_P, index_P = (s_QP.T @ p_RQ[likely].T).max(dim=1)  # along memory: dim=0 takes twice as long
        # The total is zero only where every mask underflows: nothing is known there, and the share is zero.
        share_P = score_P / (total_1Q @ s_QP)[0].clamp_min(torch.finfo(torch.float32).tiny)
        tile = (rows.stop - rows.start, columns.stop - columns.start)
        best[rows, columns] = likely[index_P].view(tile).int()
        share[rows, columns] = share_P.clamp_max_(1).view(tile)
    return _ids(row_label)[best.cpu().numpy()], share.cpu().numpy()


def score_map(mask_logits_Qhw: Tensor, probabilities_QR: Tensor, geometry: Geometry) -> Tensor:
    """The score of every row at every pixel, (R, H, W) float32, by the plain formula."""
    masks, p_RQ = _checked(mask_logits_Qhw, probabilities_QR)
    padded = F.interpolate(masks[None], size=geometry.padded, mode="bilinear", align_corners=False)
    content = padded[..., : geometry.content[0], : geometry.content[1]]
    original_1QHW = F.interpolate(content, size=geometry.original, mode="bilinear", align_corners=False)
    return torch.einsum("rq,qyx->ryx", p_RQ, original_1QHW[0].sigmoid())


def _checked(mask_logits_Qhw: Tensor, probabilities_QR: Tensor) -> tuple[Tensor, Tensor]:
    """Mask logits (Q, h, w) and probabilities (R, Q), float32 on one device."""
    if (
        mask_logits_Qhw.ndim != 3
        or probabilities_QR.ndim != 2
        or len(mask_logits_Qhw) != len(probabilities_QR)
    ):
        raise ValueError(
            f"mask logits {tuple(mask_logits_Qhw.shape)} and probabilities {tuple(probabilities_QR.shape)}:"
            " wanted (Q, h, w) and (Q, R), of one picture"
        )
    for what, tensor in (("mask logits", mask_logits_Qhw), ("probabilities", probabilities_QR)):
        if not tensor.isfinite().all():
            raise ValueError(f"{what} hold NaN or infinity: run the model in float32 or bfloat16")
    masks = mask_logits_Qhw.float()
    return masks, probabilities_QR.to(masks.device, torch.float32).T.contiguous()


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat([*tensors], dim)  # one view is not copied


def _weights(masks_Qhw: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Both bilinear resizes, the crop, and the mirror, as matrices (H, h) and (w, W).

    They are linear and separable, so what torch does to the columns of the identity says it all.
    """
    geometry, weights = view.geometry, []
    for axis in (0, 1):
        grid = masks_Qhw.shape[1 + axis]
        eye = torch.eye(grid, device=masks_Qhw.device)[None]
        padded = F.interpolate(eye, size=geometry.padded[axis], mode="linear", align_corners=False)
        content = padded[..., : geometry.content[axis]]
        weights.append(
            F.interpolate(content, size=geometry.original[axis], mode="linear", align_corners=False)[0]
        )
    return weights[0].T, weights[1].flip(1) if view.flipped else weights[1]


def _tiles(height: int, width: int, pixels: int) -> list[tuple[slice, slice]]:
    """Row and column ranges of at most so many pixels that cover the picture, band by band."""
    tall = min(height, isqrt(pixels))
    wide = min(width, pixels // tall)
    return [
        (slice(y, min(y + tall, height)), slice(x, min(x + wide, width)))
        for y in range(0, height, tall)
        for x in range(0, width, wide)
    ]


def _band(masks_Qhw: Tensor, down_yh: Tensor) -> Tensor:
    """Mask logits (Q, y, w) at the original's rows y: only the grid's rows that reach them are read."""
    reach = _reach(down_yh.any(0))
    return down_yh[:, reach] @ masks_Qhw[:, reach]


def _inside(band_Qyw: Tensor, across_wx: Tensor) -> Tensor:
    """Mask logits (Q, P) of the tile at the original's columns x of a band."""
    reach = _reach(across_wx.any(1))
    return (band_Qyw[:, :, reach] @ across_wx[reach]).flatten(1)


def _reach(used: Tensor) -> slice:
    where = used.nonzero()
    return slice(int(where[0]), int(where[-1]) + 1)


def _contenders(p_RQ: Tensor, s_QP: Tensor) -> Tensor:
    """The rows that could win somewhere in a tile, int64, ascending.

    The leader is the row that scores most with every mask at its lowest in the tile. Another row's lead over it
    is the sum over masks of the difference in probability times the mask, so at most what it is with each mask
    at the end of its range that suits that row. A row whose lead is below zero even then cannot win.
    """
    low_Q, high_Q = s_QP.amin(1), s_QP.amax(1)
    least_R = p_RQ @ low_Q
    leader = least_R.argmax()
    difference_RQ = p_RQ - p_RQ[leader]
    lead_R = difference_RQ @ low_Q + difference_RQ.clamp_min_(0) @ (high_Q - low_Q)
    return (lead_R >= -1e-5 * least_R[leader]).nonzero()[:, 0]  # below zero: rounding


def _ids(row_label: Sequence[int]) -> np.ndarray:
    """From row to id, uint8 or uint16."""
    labels = max(row_label) + 1
    other = other_id(labels)
    ids = [other if label < 0 else label for label in row_label]
    return np.array(ids, dtype=np.uint8 if other == 254 else np.uint16)
