"""Tallies of pixels, and every figure that is read from them. Tallies of parts add up to the tally of the whole.

K labels, H W pixels of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanseg.data.datasets import IndexMap
from sanseg.vocabulary import Vocabulary

Counts = NDArray[np.int64]
Reduce = Callable[[NDArray[Any]], NDArray[Any]]
"""Sums an int64 or float64 array over the processes that share the work; each gets the sum."""

BINS = 15  # of confidence, equal in width: Guo et al. 2017, arXiv 1706.04599
BOUNDARY = 0.02  # of a picture's diagonal, the width of a boundary: Cheng et al. 2021, arXiv 2103.16562


def confusion(prediction_HW: IndexMap, truth_HW: IndexMap, labels: int) -> Counts:
    """Pixels by what was predicted and what is there: int64 (K + 1, K), rows are predictions.

    Both maps hold indices into `labels` labels. Where the truth is anything else (other, unknown) a pixel is
    not counted; where the prediction is, it counts in the last row. Raises ValueError where sizes differ.
    """
    if prediction_HW.shape != truth_HW.shape:
        (h, w), (height, width) = prediction_HW.shape, truth_HW.shape
        raise ValueError(
            f"the prediction is {w}x{h}, the mask {width}x{height}: predict at the picture's own size"
        )
    counted = truth_HW < labels
    predicted = np.minimum(prediction_HW[counted].astype(np.int64), labels)
    cells = np.bincount(predicted * labels + truth_HW[counted], minlength=(labels + 1) * labels)
    return cells.reshape(labels + 1, labels)


def boundary_width(shape: tuple[int, ...]) -> int:
    """How many pixels of a picture (H, W) belong to a boundary, across it."""
    return max(1, round(BOUNDARY * math.hypot(*shape)))


def boundary_overlap(prediction_HW: IndexMap, truth_HW: IndexMap, labels: int) -> Counts:
    """Pixels of the masks' inner boundaries, int64 (3, K): in both, in the truth, in the prediction.

    A pixel is on the inner boundary of its label's mask where the square of 2 d + 1 pixels around it holds
    anything else, or leaves the picture: d erosions by 3x3 would remove it. Pixels whose truth is no label
    end masks, but are not counted.
    """
    counted = truth_HW < labels
    truth_edge = inner_boundary(truth_HW, labels) & counted
    edge = inner_boundary(prediction_HW, labels) & counted
    return _overlap(prediction_HW, truth_HW, edge, truth_edge, labels)


def inner_boundary(index_map_HW: IndexMap, labels: int) -> NDArray[np.bool_]:
    """Where a map of labels is within `boundary_width` of a change: bool (H, W). All that is no label is one."""
    kind = np.uint8 if labels < 255 else np.uint16
    index_map: IndexMap = np.minimum(index_map_HW.astype(np.uint16), labels).astype(kind)
    width = boundary_width(index_map.shape)
    # Beyond the picture the lowest and the highest differ, so that its border is a change as well.
    highest = _window(index_map, width, np.maximum, np.iinfo(kind).max)
    return np.not_equal(_window(index_map, width, np.minimum, 0), highest)


def detectron2_overlap(prediction_HW: IndexMap, truth_HW: IndexMap, labels: int) -> Counts:
    """What detectron2's SemSegEvaluator calls boundaries: int64 (3, K), in both, in the truth, in the prediction.

    It erodes the index map as if it were a grey picture of 8 bits, and takes what the erosion took off the
    index for a label; pixels whose truth is no label have the index K.
    """
    edges = []
    for index_map_HW in (prediction_HW, truth_HW):
        # More labels than 8 bits hold wrap around, as they do there.
        grey = np.minimum(index_map_HW.astype(np.uint16), labels).astype(np.uint8)
        edges.append(grey - _window(grey, boundary_width(grey.shape), np.minimum, 0))
    counted = (edges[0] < labels) & (edges[1] < labels)
    return _overlap(edges[0], edges[1], counted, counted, labels)


def _overlap(
    prediction_HW: IndexMap,
    truth_HW: IndexMap,
    where: NDArray[np.bool_],
    truth_where: NDArray[np.bool_],
    labels: int,
) -> Counts:
    same = truth_HW[where & truth_where & (prediction_HW == truth_HW)]
    kinds = (same, truth_HW[truth_where], prediction_HW[where])
    counts: Counts = np.stack([np.bincount(ids, minlength=labels)[:labels] for ids in kinds])
    return counts


def _window(index_map_HW: IndexMap, reach: int, extreme: np.ufunc, beyond: int) -> IndexMap:
    """The minimum or maximum over the square of 2 `reach` + 1 pixels around each pixel.

    One axis after the other; spans double, so that the work hardly grows with the reach.
    """
    size, result = 2 * reach + 1, np.pad(index_map_HW, reach, constant_values=beyond)
    for _ in range(2):
        span, length = 1, len(result) - size + 1
        while 2 * span <= size:
            result = extreme(result[:-span], result[span:])
            span *= 2
        result = extreme(result[:length], result[size - span : size - span + length]).T
    return result


def seen_before(vocabulary: Vocabulary, trained_on: Iterable[str]) -> tuple[bool, ...]:
    """Whether each label of a vocabulary is among those that a model was trained on, by any of its names.

    trained_on: labels, ` | ` between synonyms. Names are compared whatever their case; benchmark names also
    hold synonyms between commas ("building, edifice").
    """
    known = {form for label in trained_on for name in label.split("|") for form in _forms(name)}
    return tuple(any(form in known for name in names for form in _forms(name)) for names in vocabulary.names)


def _forms(name: str) -> set[str]:
    return {" ".join(part.casefold().split()) for part in (name, *name.split(","))} - {""}


@dataclass(frozen=True, eq=False)
class Tally:
    """Everything that is counted, in arrays whose size does not depend on how many pictures there are.

    counts: as `confusion`. boundary, detectron2: as `boundary_overlap` and `detectron2_overlap`; None where
    they are not wanted. bins: float64 (3, BINS), by confidence: the pixels counted, those that are right, and
    the sum of the confidence.
    """

    counts: Counts
    boundary: Counts | None
    detectron2: Counts | None
    bins: NDArray[np.float64]

    @classmethod
    def empty(cls, labels: int, *, edges: bool = True) -> Tally:
        boundary, detectron2 = (np.zeros((3, labels), np.int64) if edges else None for _ in range(2))
        return cls(np.zeros((labels + 1, labels), np.int64), boundary, detectron2, np.zeros((3, BINS)))

    def add(
        self,
        prediction_HW: IndexMap,
        truth_HW: IndexMap,
        confidence_HW: NDArray[np.float32] | None = None,
    ) -> Counts:
        """Counts a picture; its own confusion. confidence: of the prediction, in [0, 1].

        Raises ValueError, and counts nothing, where sizes differ and for confidence out of range.
        """
        labels = self.counts.shape[1]
        counts = confusion(prediction_HW, truth_HW, labels)
        if confidence_HW is not None:
            self.bins[...] += _binned(prediction_HW, truth_HW, confidence_HW, labels)
        self.counts[...] += counts
        if self.boundary is not None and self.detectron2 is not None:
            self.boundary[...] += boundary_overlap(prediction_HW, truth_HW, labels)
            self.detectron2[...] += detectron2_overlap(prediction_HW, truth_HW, labels)
        return counts

    def summed(self, reduce: Reduce) -> Tally:
        """Over all processes."""
        return Tally(
            reduce(self.counts),
            None if self.boundary is None else reduce(self.boundary),
            None if self.detectron2 is None else reduce(self.detectron2),
            reduce(self.bins),
        )


def _binned(
    prediction_HW: IndexMap, truth_HW: IndexMap, confidence_HW: NDArray[np.float32], labels: int
) -> NDArray[np.float64]:
    if confidence_HW.shape != truth_HW.shape:
        raise ValueError(
            f"confidence of shape {confidence_HW.shape} for a mask of {truth_HW.shape}: give one number a pixel"
        )
    counted = truth_HW < labels
    confidence = confidence_HW[counted].astype(np.float64)
    if not ((confidence >= 0) & (confidence <= 1)).all():  # NaN is neither
        raise ValueError("confidence is not within 0 to 1: give the share of the winner, or none")
    right = prediction_HW[counted] == truth_HW[counted]
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    weights = (None, right, confidence)
    return np.stack([np.bincount(bins, weights=weight, minlength=BINS) for weight in weights]).astype(
        np.float64
    )


@dataclass(frozen=True)
class Bin:
    """Pixels whose confidence lies in one of BINS equal ranges. accuracy, confidence: percent, NaN without any."""

    pixels: int
    accuracy: float
    confidence: float


@dataclass(frozen=True)
class Metrics:
    """All in percent; NaN where there is nothing to say.

    Two conventions of the mean IoU (docs/DESIGN.md). Both sum the IoU of the labels present in the truth.
    `miou_present` divides by how many these are; `miou_union` by how many labels are present in the truth or
    predicted, as detectron2 v0.6 does.
    `fwiou`: IoU weighted by the labels' pixels. `macc`: mean recall of the labels present. `pacc`: share of
    pixels that are right. `zero`: share of the labels present whose IoU is exactly 0.
    `miou_seen`, `miou_unseen`: mean IoU of the labels present that the model was trained on, and of the
    others; `miou_harmonic`: their harmonic mean.
    `miou_boundary`: mean boundary IoU (Cheng et al. 2021, arXiv 2103.16562) of the labels present.
    `calibration_error`: expected calibration error over BINS bins of confidence, weighted by pixels.

    Of each label: `iou`, `acc` (recall), `boundary_iou`, NaN where it is not present in the truth; `pixels` of
    the truth; `seen`, whether the model was trained on it, None where that is not known.
    `detectron2_boundary_iou` and `detectron2_min_iou`: what detectron2's evaluator prints as "BoundaryIoU" and
    "min(IoU, B-Iou)", to compare with it: not the measure of that name (`detectron2_overlap`).
    `reliability`: the BINS bins of confidence from 0 to 1; empty where confidence is not known.
    """

    labels: tuple[str, ...]
    miou_present: float
    miou_union: float
    fwiou: float
    macc: float
    pacc: float
    zero: float
    miou_seen: float
    miou_unseen: float
    miou_harmonic: float
    miou_boundary: float
    calibration_error: float
    iou: tuple[float, ...]
    acc: tuple[float, ...]
    boundary_iou: tuple[float, ...]
    detectron2_boundary_iou: tuple[float, ...]
    detectron2_min_iou: tuple[float, ...]
    pixels: tuple[int, ...]
    seen: tuple[bool | None, ...]
    reliability: tuple[Bin, ...]

    @classmethod
    def of(cls, tally: Tally, labels: Iterable[str], seen: Sequence[bool] | None = None) -> Metrics:
        """From a tally. seen: for each label whether the model was trained on it.

        Raises ValueError where no pixel was counted, and where the labels are not the tally's.
        """
        names, counts = tuple(labels), tally.counts
        if counts.shape != (len(names) + 1, len(names)) or (seen is not None and len(seen) != len(names)):
            raise ValueError(
                f"a confusion matrix of {counts.shape} for {len(names)} labels: wanted (K + 1, K)"
                " and `seen` for each label"
            )
        right = counts.diagonal().astype(np.float64)
        there = counts.sum(0).astype(np.float64)
        if there.sum() == 0:
            raise ValueError("no pixel has a label: evaluate on pictures whose masks hold some of the labels")
        present = there > 0
        union = there + counts[:-1].sum(1) - right
        iou, acc = _percent(right, union, present), _percent(right, there, present)
        boundary_iou = _edge_iou(tally.boundary, len(names), present)
        grey_iou = _edge_iou(tally.detectron2, len(names), True)
        of_seen, of_unseen = _seen_and_unseen(iou, present, seen)
        return cls(
            labels=names,
            miou_present=_mean(iou[present]),
            miou_union=float(iou[present].sum() / (union > 0).sum()),
            fwiou=float((iou[present] * there[present]).sum() / there.sum()),
            macc=_mean(acc[present]),
            pacc=100 * float(right.sum() / there.sum()),
            zero=100 * _mean(iou[present] == 0),
            miou_seen=of_seen,
            miou_unseen=of_unseen,
            miou_harmonic=_harmonic(of_seen, of_unseen),
            miou_boundary=_mean(boundary_iou[present]),
            calibration_error=_calibration_error(tally.bins),
            iou=tuple(iou.tolist()),
            acc=tuple(acc.tolist()),
            boundary_iou=tuple(boundary_iou.tolist()),
            detectron2_boundary_iou=tuple(grey_iou.tolist()),
            detectron2_min_iou=tuple(np.minimum(iou, grey_iou).tolist()),
            pixels=tuple(counts.sum(0).tolist()),
            seen=(None,) * len(names) if seen is None else tuple(map(bool, seen)),
            reliability=_reliability(tally.bins),
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name as plain JSON values: lists for tuples, a dictionary for a bin, None for NaN."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _percent(
    part: NDArray[np.float64], whole: NDArray[np.float64], where: NDArray[np.bool_]
) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(part), np.nan), where=where)
    return 100 * shares


def _edge_iou(edges: Counts | None, labels: int, where: NDArray[np.bool_] | bool) -> NDArray[np.float64]:
    """Intersection over union, from pixels in both, in the truth, in the prediction; NaN where not counted."""
    if edges is None:
        return np.full(labels, np.nan)
    both, truth, predicted = edges.astype(np.float64)
    union = truth + predicted - both
    return _percent(both, union, where & (union > 0))


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _seen_and_unseen(
    iou: NDArray[np.float64], present: NDArray[np.bool_], seen: Sequence[bool] | None
) -> tuple[float, float]:
    if seen is None:
        return math.nan, math.nan
    known = np.array(seen, dtype=bool)
    return _mean(iou[present & known]), _mean(iou[present & ~known])


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b != 0 else 0.0


def _calibration_error(bins: NDArray[np.float64]) -> float:
    """Guo et al. 2017, equation 5: the mean distance of confidence and accuracy, by bins."""
    pixels, right, confidence = bins
    return 100 * float(np.abs(right - confidence).sum() / pixels.sum()) if pixels.any() else math.nan


def _reliability(bins: NDArray[np.float64]) -> tuple[Bin, ...]:
    pixels, right, confidence = bins
    if not pixels.any():
        return ()
    accuracy, mean = (_percent(sums, pixels, pixels > 0) for sums in (right, confidence))
    return tuple(map(Bin, pixels.astype(np.int64).tolist(), accuracy.tolist(), mean.tolist()))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
