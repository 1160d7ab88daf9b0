"""Proposals and class probabilities to a label map, tile by tile: no tensor of rows x H x W exists.

Q queries, R classifier rows, h w the mask grid, H W the original picture's pixels, P pixels of one tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from math import isqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sanseg.images import Geometry
from sanseg.vocabulary import other_id

# How much is done at once, by kind of device. On a CPU it stays in the caches; a GPU wants more to do.
TILE_FLOATS = {"cpu": 1 << 21, "gpu": 1 << 24}  # scores
TILE_PIXELS = {"cpu": (1 << 12, 1 << 15), "gpu": (1 << 16, 1 << 17)}  # of a tile: from, to
# Between these, a tile is so many cells of the mask grid high and wide: masks hardly vary in so small a tile, so that
# most rows cannot win there and most queries are nowhere near.
TILE_CELLS = 5
TINY = torch.finfo(torch.float32).tiny
LEFT_OUT = 1e-6  # of the best score: what queries that are not asked may amount to, about as much as rounding


@dataclass(frozen=True, eq=False)
class View:
    """What a network says of a picture that it saw one way of several.

    mask_logits: (Q, h, w). probabilities: (Q, R). geometry: all as `label_map` takes them. flipped: whether the
    network saw the picture mirrored, left for right. rows, columns: the part of the picture that is asked for, H' W'
    pixels. weight: how much this view counts there, above 0: float32 (H',) and (W',), which are multiplied; None is 1.
    """

    mask_logits: Tensor
    probabilities: Tensor
    geometry: Geometry
    flipped: bool = False
    rows: slice = field(default_factory=lambda: slice(None))
    columns: slice = field(default_factory=lambda: slice(None))
    weight: tuple[Tensor, Tensor] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Of the part that is asked for: its height and width."""
        height, width = self.geometry.original
        return len(range(height)[self.rows]), len(range(width)[self.columns])


def label_map(
    mask_logits_Qhw: Tensor,
    probabilities_QR: Tensor,
    row_label: Sequence[int],
    geometry: Geometry,
    *,
    temperature: float = 1.0,
    thresholds: Sequence[float] = (),
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The label of every pixel of the original picture, and how sure it is.

    Mask logits go bilinearly to the padded size, are cropped to the content, and go bilinearly to the
    original size; row r scores the sum over queries of its probability times sigmoid(mask logit); the best
    row wins.

    mask_logits_Qhw: any float type, any device. probabilities_QR: without "nothing".
    row_label: the index of each row's label, or -1 for a distractor.
    temperature: T, of the confidence: the winner's share of all scores ** (1 / T). The best row stays the best.
    thresholds: for each label the confidence below which its pixels are `other_id`; () for none.
    progress: called with the number of rows of pixels done since its last call; what it raises ends the work.
    Returns ids (H, W), indices of labels or `other_id`, uint8 with at most 254 labels, else uint16; and the
    confidence float32 (H, W) in [0, 1], the winner's share of the score of all rows, distractors included, also
    where it was too low. Raises ValueError for shapes that do not agree and for values that are not finite.
    """
    view = View(mask_logits_Qhw, probabilities_QR, geometry)
    return label_map_of_views(
        [view], row_label, temperature=temperature, thresholds=thresholds, progress=progress
    )


def label_map_of_views(
    views: Sequence[View],
    row_label: Sequence[int],
    *,
    temperature: float = 1.0,
    thresholds: Sequence[float] = (),
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `label_map`, of the mean score over views of one picture.

    The queries of all views stand beside each other, as if one network had proposed them: the sum over queries
    is then the sum over views, and neither the best row nor its share asks by what it is divided.

    Views of parts answer for their part, by the weighted mean: so do windows of a larger picture that overlap, each
    of them a picture to the network.

    Raises ValueError also for no views, and for views of different pictures, parts or rows.
    """
    checked = [_checked(view.mask_logits, view.probabilities) for view in views]
    pictures = {(view.geometry.original, view.size) for view in views}
    rows_of = {p_QR.shape[1] for _, p_QR in checked}
    if len(pictures) != 1 or len(rows_of) != 1:
        raise ValueError("the views are none, or of different pictures or words: pass those of one answer")
    height, width = views[0].size
    p_QR = _joined([p_QR for _, p_QR in checked])
    if len(row_label) != p_QR.shape[1]:
        raise ValueError(f"{len(row_label)} row labels for {p_QR.shape[1]} rows: give one for each row")
    cells = max(masks[0].numel() for masks, _ in checked)
    tall, wide = _tile(*views[0].geometry.original, cells, p_QR.device)
    room = _Room(p_QR, tall * wide)
    best = torch.empty(height, width, dtype=room.short, device=p_QR.device)
    share = torch.empty(height, width, device=p_QR.device)
    spans, columns = _spans(height, tall), _spans(width, wide)
    resized = [_Resized(masks, view, spans, columns) for view, (masks, _) in zip(views, checked, strict=True)]
    low_TQ, high_TQ = (
        _joined(bounds, dim=1) for bounds in zip(*(one.bounds() for one in resized), strict=True)
    )
    leader_T, asked = _asked(p_QR, low_TQ, high_TQ)
    known = zip(asked, _contenders(p_QR, leader_T, low_TQ, high_TQ), strict=True)
    for number, rows in enumerate(spans):
        bands = [one.band(number) for one in resized]
        for tile, (asked_q, likely_n) in enumerate(islice(known, len(columns))):
            row_P, share_P = room.winners(asked_q, likely_n, room.masks(bands, tile, asked_q))
            if temperature != 1:
                share_P = room.tempered(room.masks(bands, tile, None), temperature)
            size = (rows.stop - rows.start, columns[tile].stop - columns[tile].start)
            best[rows, columns[tile]] = row_P.view(size)
            share[rows, columns[tile]] = share_P.view(size)
        if progress:
            progress(rows.stop - rows.start)
    from_last = best.cpu().numpy()
    ids, confidence = _ids(row_label).take(from_last), share.clamp_max_(1).cpu().numpy()
    return set_aside(ids, confidence, thresholds), confidence


def set_aside(ids: np.ndarray, confidence: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """The ids (H, W) with `other_id` where the confidence (H, W) is below the threshold of the label that won.

    thresholds: one for each label; () for none. What another row won already stays other.
    """
    if not thresholds:
        return ids
    other = other_id(len(thresholds))
    least = np.zeros(other + 1, dtype=np.float32)
    least[: len(thresholds)] = thresholds
    return np.where(confidence < least[ids], ids.dtype.type(other), ids)


def scores_on_lattice(
    mask_logits_Qhw: Tensor,
    probabilities_QR: Tensor,
    geometry: Geometry,
    rows: Sequence[int],
    columns: Sequence[int],
) -> Tensor:
    """The score of every row of the classifier where these rows and columns of pixels meet: (R, y, x), float32."""
    masks, p_QR = _checked(mask_logits_Qhw, probabilities_QR)
    down_Hh, across_wW = _weights(masks, View(masks, p_QR, geometry))
    s_Qyx = (down_Hh[list(rows)] @ masks @ across_wW[:, list(columns)]).sigmoid_()
    return torch.einsum("qr,qyx->ryx", p_QR, s_Qyx)


def score_map(mask_logits_Qhw: Tensor, probabilities_QR: Tensor, geometry: Geometry) -> Tensor:
    """The score of every row at every pixel, (R, H, W) float32, by the plain formula."""
    masks, p_QR = _checked(mask_logits_Qhw, probabilities_QR)
    padded = F.interpolate(masks[None], size=geometry.padded, mode="bilinear", align_corners=False)
    content = padded[..., : geometry.content[0], : geometry.content[1]]
    original_1QHW = F.interpolate(content, size=geometry.original, mode="bilinear", align_corners=False)
    return torch.einsum("qr,qyx->ryx", p_QR, original_1QHW[0].sigmoid())


def _checked(mask_logits_Qhw: Tensor, probabilities_QR: Tensor) -> tuple[Tensor, Tensor]:
    """Mask logits (Q, h, w) and probabilities (Q, R), float32 on one device."""
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
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():  # NaN is both
            raise ValueError(f"{what} hold NaN or infinity: run the model in float32 or bfloat16")
    masks = mask_logits_Qhw.detach().float()
    return masks, probabilities_QR.detach().to(masks.device, torch.float32)


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


def _tile(height: int, width: int, cells: int, device: torch.device) -> tuple[int, int]:
    """How high and how wide the tiles of a picture are whose masks have so many cells."""
    least, most = TILE_PIXELS[_kind(device)]
    pixels = min(max(TILE_CELLS**2 * height * width // cells, least), most)
    tall = min(height, isqrt(pixels))
    return tall, min(width, pixels // tall)


def _kind(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else "gpu"


def _spans(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


@dataclass(frozen=True, eq=False)
class _Band:
    """Some rows of the original picture, y, as one view has them; its tiles stand beside each other.

    mask_logits: (Q, y, w), on the grid's columns. across: for each tile the grid's columns that reach it, and their
    weights (.., x) there. weight: for each tile how much the view counts there, (y, x); None is 1.
    """

    mask_logits: Tensor
    across: list[tuple[slice, Tensor]]
    weight: list[Tensor] | None


class _Resized:
    """The masks of a view at the size of the original picture, a band at a time, each of tiles beside each other."""

    def __init__(
        self, masks_Qhw: Tensor, view: View, rows: Sequence[slice], columns: Sequence[slice]
    ) -> None:
        self.masks_Qhw = masks_Qhw
        down_Hh, across_wW = _weights(masks_Qhw, view)
        down_Hh, across_wW = down_Hh[view.rows], across_wW[:, view.columns]
        self.weight = None
        if view.weight is not None:
            down_H, across_W = view.weight
            self.weight = [down_H[y] for y in rows], [across_W[x] for x in columns]
        self.down = [(_reach(down_Hh[y].any(0)), down_Hh[y]) for y in rows]
        reaches = [_reach(across_wW[:, x].any(1)) for x in columns]
        self.across = [(w, across_wW[w, x].contiguous()) for w, x in zip(reaches, columns, strict=True)]

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Between what the masks lie in each tile, band by band, after the sigmoid and times their weight: (T, Q)."""
        rounding = 1e-6 * torch.stack(self.masks_Qhw.aminmax()).abs().amax()
        low, high = [], []
        for reach, _ in self.down:
            # Every resized logit is a mean of logits of the grid that reach it, so between the least and the most.
            near_Qhw = self.masks_Qhw[:, reach]
            low_Qw, high_Qw = near_Qhw.amin(1), near_Qhw.amax(1)
            low += [low_Qw[:, w].amin(1) for w, _ in self.across]
            high += [high_Qw[:, w].amax(1) for w, _ in self.across]
        low_TQ = (torch.stack(low) - rounding).sigmoid_()
        high_TQ = (torch.stack(high) + rounding).sigmoid_()
        if self.weight is not None:
            pairs = [*product(*self.weight)]
            low_TQ *= torch.stack([down_y.amin() * across_x.amin() for down_y, across_x in pairs])[:, None]
            high_TQ *= torch.stack([down_y.amax() * across_x.amax() for down_y, across_x in pairs])[:, None]
        return low_TQ, high_TQ

    def band(self, number: int) -> _Band:
        reach, down_yh = self.down[number]
        logits_Qyw = down_yh[:, reach] @ self.masks_Qhw[:, reach]
        weight = None
        if self.weight is not None:
            down, across = self.weight
            weight = [torch.outer(down[number], across_x) for across_x in across]
        return _Band(logits_Qyw, self.across, weight)


def _reach(used: Tensor) -> slice:
    where = used.nonzero()
    return slice(int(where[0]), int(where[-1]) + 1)


def _asked(p_QR: Tensor, low_TQ: Tensor, high_TQ: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """For each tile the row that leads it, int64 (T), and the queries that have a say there, ascending, None for all.

    The leader is the row that scores most with every mask at its lowest in the tile, so the best score is at least
    that everywhere. The queries that have no say add less than LEFT_OUT of it to all scores together, even with every
    mask at its highest.
    """
    least_T, leader_T = (low_TQ @ p_QR).max(1)
    most_TQ, order_TQ = (high_TQ * p_QR.sum(1)).sort(1)
    left_T = (most_TQ.cumsum(1) <= LEFT_OUT * least_T[:, None]).sum(1)
    counted = zip(order_TQ, left_T.tolist(), strict=True)
    return leader_T, [order_Q[left:].sort().values if left else None for order_Q, left in counted]


def _contenders(p_QR: Tensor, leader_T: Tensor, low_TQ: Tensor, high_TQ: Tensor) -> list[Tensor]:
    """For each tile the rows that could win somewhere in it, int64, ascending.

    Another row's lead over the leader is the sum over masks of the difference in probability times the mask, so at
    most what it is with each mask at the end of its range that suits that row. A row whose lead is below zero even
    then cannot win. What is left is held against the row of the largest such lead in the same way.
    """
    at_once = max(1, TILE_FLOATS[_kind(p_QR.device)] // p_QR.numel())
    found = []
    for leader_t, low_tQ, high_tQ in zip(
        *(one.split(at_once) for one in (leader_T, low_TQ, high_TQ)), strict=True
    ):
        lead_tR, most_t = _leads(p_QR, leader_t, low_tQ, high_tQ)
        second_t = lead_tR.scatter(1, leader_t[:, None], -torch.inf).argmax(1)
        over_second_tR, most_second_t = _leads(p_QR, second_t, low_tQ, high_tQ)
        likely_tR = (lead_tR >= -1e-5 * most_t) & (
            over_second_tR >= -1e-5 * most_second_t
        )  # below zero: rounding
        tile, row = likely_tR.nonzero(as_tuple=True)
        found += row.split(tile.bincount(minlength=len(leader_t)).tolist())
    return found


def _leads(p_QR: Tensor, leader_t: Tensor, low_tQ: Tensor, high_tQ: Tensor) -> tuple[Tensor, Tensor]:
    """The most by which each row may lead a tile's leader (t, R), and what the leader scores at least (t, 1)."""
    own_tQ = p_QR.T[leader_t]
    difference_tQR = p_QR - own_tQ[:, :, None]
    lead_t1R = low_tQ[:, None] @ difference_tQR + (high_tQ - low_tQ)[:, None] @ difference_tQR.clamp_min_(0)
    return lead_t1R[:, 0], (low_tQ * own_tQ).sum(1, keepdim=True)


class _Room:
    """Memory that all tiles use in turn: to be given it afresh costs more time than what is computed in it.

    short: the integers that rows are counted in.
    """

    def __init__(self, p_QR: Tensor, pixels: int) -> None:
        queries, rows = p_QR.shape
        self.p_QR = p_QR
        self.short = torch.int16 if rows < 1 << 15 else torch.int32
        total_Q1 = p_QR.sum(1, keepdim=True)
        self.p_nQ = torch.cat([p_QR, total_Q1], 1).T.contiguous()  # the rows, and all of them together
        self.last = torch.tensor([rows], device=p_QR.device)
        scores = max(TILE_FLOATS[_kind(p_QR.device)], rows + 1)
        self.mask_logits = p_QR.new_empty(queries * pixels)
        self.scores = p_QR.new_empty(scores)
        self.best = p_QR.new_empty(scores, dtype=self.short)
        self.from_last_R1 = torch.arange(rows, 0, -1, dtype=self.short, device=p_QR.device)[:, None]

    def masks(self, bands: Sequence[_Band], tile: int, asked_q: Tensor | None) -> Tensor:
        """The masks (q, P) of a tile, after the sigmoid and times their weight; None asks all queries."""
        y, x = bands[0].mask_logits.shape[1], bands[0].across[tile][1].shape[1]
        count = len(self.p_QR) if asked_q is None else asked_q.shape[0]
        logits_qP = self.mask_logits[: count * y * x].view(count, y * x)
        before = done = 0
        for band in bands:
            after = before + band.mask_logits.shape[0]
            w, across_wx = band.across[tile]
            near_qyw = band.mask_logits[:, :, w]
            if asked_q is not None:
                own_q = (
                    asked_q if len(bands) == 1 else asked_q[(before <= asked_q) & (asked_q < after)] - before
                )
                near_qyw = near_qyw[own_q]
            own = near_qyw.shape[0]
            resized_qyx = logits_qP[done : done + own].view(own * y, x)
            resized_qyx.addmm_(near_qyw.flatten(0, 1), across_wx, beta=0).sigmoid_()
            if band.weight is not None:
                resized_qyx.view(own, y, x).mul_(band.weight[tile])
            before, done = after, done + own
        return logits_qP

    def winners(self, asked_q: Tensor | None, likely_n: Tensor, s_qP: Tensor) -> tuple[Tensor, Tensor]:
        """The best of the likely rows (P), the first of equals, and its share of all rows' scores (P).

        Rows are told by how far they are from the end, 1 for the last: the first is then the largest.
        """
        p_nq = self.p_nQ[torch.cat([likely_n, self.last])]
        if asked_q is not None:
            p_nq = p_nq[:, asked_q]
        from_last_n1 = self.from_last_R1[likely_n]
        at_once = max(1, self.scores.shape[0] // p_nq.shape[0])
        if s_qP.shape[1] <= at_once:
            return self._winners(p_nq, from_last_n1, s_qP)
        pieces = [self._winners(p_nq, from_last_n1, s_qp) for s_qp in s_qP.split(at_once, dim=1)]
        from_last, share = zip(*pieces, strict=True)
        return torch.cat(from_last), torch.cat(share)

    def tempered(self, s_QP: Tensor, temperature: float) -> Tensor:
        """The best row's share (P) of all scores to the power of 1 / temperature.

        All rows and all queries are asked: what amounts to nothing in a sum of scores may count in one of roots.
        """
        p_RQ = self.p_QR.T
        at_once = max(1, self.scores.shape[0] // p_RQ.shape[0])
        shares = []
        for s_Qp in s_QP.split(at_once, dim=1):
            scores_Rp = self.scores[: p_RQ.shape[0] * s_Qp.shape[1]].view(p_RQ.shape[0], -1)
            scores_Rp.addmm_(p_RQ, s_Qp, beta=0)
            best_p = scores_Rp.amax(0)
            scores_Rp.div_(best_p.clamp_min(TINY)).pow_(1 / temperature)
            shares.append((best_p > 0) / scores_Rp.sum(0).clamp_min_(1))
        return _joined(shares)

    def _winners(self, p_nq: Tensor, from_last_n1: Tensor, s_qP: Tensor) -> tuple[Tensor, Tensor]:
        rows, pixels = p_nq.shape[0] - 1, s_qP.shape[1]
        # This way round: with few rows, torch's product of (P, q) and (q, n) takes ten times as long.
        scores_nP = self.scores[: (rows + 1) * pixels].view(rows + 1, pixels).addmm_(p_nq, s_qP, beta=0)
        best_P, total_P = scores_nP[:-1].amax(0), scores_nP[-1]
        # The total is zero only where every mask underflows: nothing is known there, and the share is zero.
        share_P = best_P / total_P.clamp_min_(TINY)
        if rows == 1:
            return from_last_n1[0].expand(pixels), share_P
        # `max` and `argmax` over the first axis take several times as long as this.
        best_nP = torch.eq(scores_nP[:-1], best_P, out=self.best[: rows * pixels].view(rows, pixels))
        return best_nP.mul_(from_last_n1).amax(0), share_P


def _ids(row_label: Sequence[int]) -> np.ndarray:
    """From how far a row is from the end, 1 for the last, to its id, uint8 or uint16."""
    labels = max(row_label) + 1
    other = other_id(labels)
    ids = [other if label < 0 else label for label in (-1, *reversed(row_label))]
    return np.array(ids, dtype=np.uint8 if other == 254 else np.uint16)
