"""What a segmenter is worth on labelled pictures: one confusion matrix, and every figure from it.

K labels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sanseg.data.datasets import IndexMap, SegmentationSet
from sanseg.vocabulary import Vocabulary

Counts = NDArray[np.int64]


class Answer(Protocol):
    """What of a `Segmentation` is evaluated."""

    @property
    def label_map(self) -> IndexMap: ...


class Answers(Protocol):
    """A `Segmenter`, or whatever else answers as one."""

    def __call__(self, image: NDArray[np.uint8], vocabulary: Vocabulary, *, other: None) -> Answer: ...


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
    predicted = np.minimum(prediction_HW[counted], labels).astype(np.int64)
    cells = np.bincount(predicted * labels + truth_HW[counted], minlength=(labels + 1) * labels)
    return cells.reshape(labels + 1, labels)


@dataclass(frozen=True)
class Metrics:
    """All in percent.

    Two conventions of the mean IoU (docs/DESIGN.md). Both sum the IoU of the labels present in the truth.
    `miou_present` divides by how many these are; `miou_union` by how many labels are present in the truth or
    predicted, as detectron2 v0.6 does.
    `fwiou`: IoU weighted by the labels' pixels. `macc`: mean recall of the labels present. `pacc`: share of
    pixels that are right. `iou`, `acc` (recall): of each label, NaN where it is not present in the truth.
    """

    labels: tuple[str, ...]
    miou_present: float
    miou_union: float
    fwiou: float
    macc: float
    pacc: float
    iou: tuple[float, ...]
    acc: tuple[float, ...]

    @classmethod
    def of(cls, counts: Counts, labels: Iterable[str]) -> Metrics:
        """From a confusion matrix (K + 1, K) as `confusion` makes it.

        Raises ValueError where no pixel was counted.
        """
        names = tuple(labels)
        if counts.shape != (len(names) + 1, len(names)):
            raise ValueError(
                f"a confusion matrix of {counts.shape} for {len(names)} labels: wanted (K + 1, K)"
            )
        right = counts.diagonal().astype(np.float64)
        there = counts.sum(0).astype(np.float64)
        predicted = counts[:-1].sum(1)
        if there.sum() == 0:
            raise ValueError("no pixel has a label: evaluate on pictures whose masks hold some of the labels")
        present = there > 0
        union = there + predicted - right
        iou = np.divide(right, union, out=np.full(len(names), np.nan), where=present)
        acc = np.divide(right, there, out=np.full(len(names), np.nan), where=present)
        return cls(
            labels=names,
            miou_present=100 * float(iou[present].mean()),
            miou_union=100 * float(iou[present].sum() / (union > 0).sum()),
            fwiou=100 * float((iou[present] * there[present]).sum() / there.sum()),
            macc=100 * float(acc[present].mean()),
            pacc=100 * float(right.sum() / there.sum()),
            iou=tuple((100 * iou).tolist()),
            acc=tuple((100 * acc).tolist()),
        )


def evaluate(
    predict: Callable[[NDArray[np.uint8], Vocabulary], IndexMap],
    dataset: SegmentationSet,
    progress: Callable[[int], None] | None = None,
) -> Metrics:
    """Asks `predict` for each picture of the set, with the set's own labels.

    predict: a picture uint8 (H, W, 3) and a vocabulary to indices into its labels, (H, W).
    progress: called with 1 after each picture.
    """
    labels = dataset.vocabulary.labels
    counts = np.zeros((len(labels) + 1, len(labels)), dtype=np.int64)
    for index in range(len(dataset)):
        sample = dataset[index]
        counts += confusion(predict(sample.image, dataset.vocabulary), sample.index_map, len(labels))
        if progress:
            progress(1)
    return Metrics.of(counts, labels)


def evaluate_folder(segmenter: Answers, folder: str | PathLike[str], split: str = "val") -> Metrics:
    """A segmenter on one split of a set on disk: its own labels, the model's templates, no distractors."""
    return evaluate(
        lambda image, vocabulary: segmenter(image, vocabulary, other=None).label_map,
        SegmentationSet.open(folder, split),
    )
