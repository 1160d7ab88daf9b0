"""What a model makes of ten names that were withheld from its training, beside one that had them all.

Both are asked the pictures left out of that training, and `val`, each with its set's own labels. One confusion
matrix for all sets, in which all that is none of the ten is one label: each labelled pixel counts once, so that a
set with one tiny boat weighs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass

import numpy as np
from questions import Figures, Tallies, Tick, known, mean
from withheld import IMAGENET, WITHHELD, holds, left_out, which

from sanseg.data.datasets import SegmentationSet
from sanseg.evaluate import Predict, evaluate, without_rivals
from sanseg.metrics import Counts, Metrics, Tally
from sanseg.segmenter import Segmenter

REST = "the rest"
GROUPS = {
    "known to ImageNet": tuple(name for name in WITHHELD if IMAGENET[name]),
    "unknown to ImageNet": tuple(name for name in WITHHELD if not IMAGENET[name]),
    "all ten": WITHHELD,
}

Bar = Callable[[str, Sequence[Sized]], Tick]
"""Begins a bar of progress: what is asked, of the pictures of which sets."""


@dataclass(frozen=True)
class Both:
    """An IoU in percent: of the shipped model, and of the one trained with names withheld."""

    shipped: float | None
    withheld: float | None

    @property
    def ratio(self) -> float | None:
        """How much of it is left."""
        return self.withheld / self.shipped if self.shipped and self.withheld is not None else None


@dataclass(frozen=True, eq=False)
class Counted:
    """One set, asked. labels: ` | ` between synonyms. counts: the confusion matrix. The mIoUs: as `Figures`."""

    labels: tuple[str, ...]
    counts: Counts
    miou: float | None
    others_miou: float | None


def compare(
    shipped: Segmenter,
    withheld: Segmenter,
    sets: Iterable[SegmentationSet],
    vals: Sequence[SegmentationSet],
    asked: Iterable[Tallies],
    bar: Bar,
    limit: int | None = None,
) -> dict[str, Both]:
    """Of both, what `figures_of` says.

    sets: all that the shipped model was trained on. asked: what it answered on `vals`.
    """
    tested = [one for one in map(left_out, sets) if len(one)]
    on_val = [
        Counted(one.labels, one.own.counts, figures.miou, figures.others_miou)
        for one, figures in ((one, Figures.of(one)) for one in asked)
    ]
    on_tested = count(without_rivals(shipped), tested, bar("left out", tested), limit)
    fresh = without_rivals(withheld)
    fresh_on_val = count(fresh, vals, bar("names withheld: val", vals), limit)
    fresh_on_tested = count(fresh, tested, bar("names withheld: left out", tested), limit)
    before, after = figures_of(on_val, on_tested), figures_of(fresh_on_val, fresh_on_tested)
    return {group: Both(before[group], after[group]) for group in before}


def figures_of(on_val: Sequence[Counted], on_tested: Sequence[Counted]) -> dict[str, float | None]:
    """IoU of each name, its mean over GROUPS, and the mean IoU of the other names on `val`, mean over the sets."""
    iou = iou_of_names([*on_val, *on_tested])
    groups = {name: (name,) for name in WITHHELD} | GROUPS
    found = {group: mean(iou[name] for name in names) for group, names in groups.items()}
    return {**found, "other names, val": mean(one.others_miou for one in on_val)}


def count(
    predict: Predict, sets: Iterable[SegmentationSet], tick: Tick, limit: int | None = None
) -> list[Counted]:
    counted = []
    for one in sets:
        labels = one.files.labels
        others = [label for label in labels if not holds(label)]
        found = evaluate(predict, one, tick, seen=others, limit=limit)
        metrics = found.metrics
        counted.append(Counted(labels, found.counts, known(metrics.miou_present), known(metrics.miou_seen)))
    return counted


def iou_of_names(sets: Iterable[Counted]) -> Mapping[str, float | None]:
    """IoU of each of WITHHELD, in percent, from one confusion matrix of all sets; None where none shows it."""
    names = (*WITHHELD, REST)
    total = Tally.empty(len(names), edges=False)
    for one in sets:
        place = [names.index(which(label) or REST) for label in one.labels]
        np.add.at(total.counts, np.ix_([*place, len(names)], place), one.counts)
    return dict(zip(names, map(known, Metrics.of(total, names).iou), strict=True))
