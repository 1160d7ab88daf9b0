"""A `val` split asked three vocabularies: its own labels, synonyms of them, and the labels of all sets at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from vocabularies import paired, places, renamed, table
from withheld import holds

from sanseg.data.datasets import IndexMap, SegmentationSet
from sanseg.metrics import Metrics, Tally
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary

Tick = Callable[[int], None]
"""Called with the number of pictures done since its last call."""


@dataclass(frozen=True, eq=False)
class Tallies:
    """Of one `val` split.

    labels: of the set, ` | ` between synonyms. pairs: all labels that have a synonym, of this set or not.
    own: the set's labels were asked. large: those of all sets; an answer that the set lacks is in the last row.
    kept: over the pairs, the first answer as the truth and the answer by synonyms as the prediction.
    """

    labels: tuple[str, ...]
    pairs: tuple[str, ...]
    own: Tally
    large: Tally
    kept: Tally


@dataclass(frozen=True)
class Figures:
    """Of one `val` split, in percent. None where no pixel can tell, as may be with few pictures.

    others_miou: of the labels that withheld.py does not name. synonyms_kept: of the pixels whose label, in the
    first answer, has a synonym, those that keep it. large_outside: pixels called what the set lacks.
    """

    miou: float | None
    pixel_accuracy: float | None
    others_miou: float | None
    synonyms_kept: float | None
    large_miou: float | None
    large_pixel_accuracy: float | None
    large_outside: float | None

    @classmethod
    def of(cls, one: Tallies) -> Figures:
        own = Metrics.of(one.own, one.labels, [not holds(label) for label in one.labels])
        large, counts = Metrics.of(one.large, one.labels), one.large.counts
        return cls(
            miou=known(own.miou_present),
            pixel_accuracy=known(own.pacc),
            others_miou=known(own.miou_seen),
            synonyms_kept=known(Metrics.of(one.kept, one.pairs).pacc),
            large_miou=known(large.miou_present),
            large_pixel_accuracy=known(large.pacc),
            large_outside=known(100 * float(counts[-1].sum() / counts.sum())),
        )

    @classmethod
    def mean(cls, sets: Iterable[Figures]) -> Figures:
        rows = [asdict(one) for one in sets]
        return cls(**{name: mean(row[name] for row in rows) for name in rows[0]})


def answers(
    segmenter: Segmenter, dataset: SegmentationSet, words: Sequence[Vocabulary], limit: int | None = None
) -> Iterator[tuple[IndexMap, list[IndexMap]]]:
    """The mask of each picture, and its label map in each vocabulary: the picture is encoded once."""
    for index in range(len(dataset))[:limit]:
        sample = dataset[index]
        encoded = segmenter.encode(sample.image)
        yield sample.index_map, [encoded.segment(one, other=None).label_map for one in words]


def ask(
    segmenter: Segmenter,
    val: SegmentationSet,
    pairs: Mapping[str, str],
    large: Vocabulary,
    tick: Tick,
    limit: int | None = None,
) -> Tallies:
    """pairs: label -> synonym. large: the labels of all sets, this one among them (`vocabularies.united`)."""
    own, order = val.vocabulary, tuple(pairs)
    pair_of = table(len(order) if name is None else order.index(name) for name in paired(own, pairs))
    label_of = places(large, own)
    sizes = (len(own.names), len(own.names), len(order))
    tallies = Tallies(val.files.labels, order, *(Tally.empty(size, edges=False) for size in sizes))
    for truth, (first, again, widest) in answers(segmenter, val, (own, renamed(own, pairs), large), limit):
        tallies.own.add(first, truth)
        tallies.large.add(label_of[widest], truth)
        tallies.kept.add(pair_of[again], pair_of[first])
        tick(1)
    return tallies


def kept_by_pair(sets: Sequence[Tallies], pairs: Mapping[str, str]) -> dict[str, float | None]:
    """The share that keeps its label, in percent, over the pixels of all sets: of all pairs, and of each."""
    total = Tally.empty(len(pairs), edges=False)
    for one in sets:
        total.counts[...] += one.kept.counts
    kept = Metrics.of(total, pairs)
    each = zip(map(" | ".join, pairs.items()), map(known, kept.acc), strict=True)
    return {"all": known(kept.pacc), **dict(each)}


def mean(values: Iterable[float | None]) -> float | None:
    """Over what is known."""
    numbers = [value for value in values if value is not None]
    return round(statistics.fmean(numbers), 3) if numbers else None


def known(value: float) -> float | None:
    """To three decimals; None for NaN."""
    return None if math.isnan(value) else round(value, 3)
