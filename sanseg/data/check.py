"""What a data set holds and what is wrong with it, found by reading every picture and mask once."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanseg.data.datasets import SegmentationSet
from sanseg.vocabulary import other_id


@dataclass(frozen=True)
class LabelUse:
    """In how many pictures a label occurs, on how many pixels."""

    label: str
    pictures: int
    pixels: int


@dataclass(frozen=True)
class Findings:
    """What `check` found. Only what is bad stops training; the rest is for people to judge.

    pictures: how many were looked at.
    bad: (name, why) of those that cannot be trained on: missing, unreadable, a mask of another size or with
        values that mean nothing. The name is the sample's, so `SegmentationSet.without` takes it.
    empty: names of pictures without a pixel of any label. They still teach what is other, if that is known.
    duplicates: groups of names of pictures with the same pixels; with their split, if several were checked.
    labels: each label of the set, in order. other, unknown: pixels.
    """

    pictures: int
    bad: tuple[tuple[str, str], ...]
    empty: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    labels: tuple[LabelUse, ...]
    other: int
    unknown: int

    @property
    def unused(self) -> tuple[str, ...]:
        """Labels that no picture shows."""
        return tuple(use.label for use in self.labels if not use.pictures)

    @property
    def labelled(self) -> int:
        """Pixels of any label."""
        return sum(use.pixels for use in self.labels)

    def problem(self, skip_bad: bool = False) -> str | None:
        """In one line, why this cannot be trained on; None where it can.

        skip_bad: the bad pictures will be left out, so they are no reason, unless nothing is left.
        """
        if not self.pictures:
            return "there is no picture: give a split that has some"
        if self.bad and not skip_bad:
            told = "; ".join(f"{name}: {why}" for name, why in self.bad[:3])
            more = f"; and {len(self.bad) - 3} more" if len(self.bad) > 3 else ""
            return f"{len(self.bad)} of {self.pictures} pictures cannot be used, mend or skip them ({told}{more})"
        if not self.labelled:
            return (
                f"no pixel is labelled in the {self.pictures - len(self.bad)} pictures that can be read: look at"
                f" the values of the masks, wanted indices of the {len(self.labels)} labels"
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "pictures": self.pictures,
            "problem": self.problem(),
            "bad": [{"name": name, "why": why} for name, why in self.bad],
            "empty": list(self.empty),
            "duplicates": [list(group) for group in self.duplicates],
            "unused": list(self.unused),
            "labels": [
                {"label": use.label, "pictures": use.pictures, "pixels": use.pixels} for use in self.labels
            ],
            "other_pixels": self.other,
            "unknown_pixels": self.unknown,
        }


def check(
    *sets: SegmentationSet, threads: int | None = None, progress: Callable[[int], None] | None = None
) -> Findings:
    """Reads every picture and mask of one set, or of several splits of it, in which duplicates leak.

    What is kept of a picture is a hash and the labels it shows, so memory hardly depends on how many there are.

    threads: that read, by default as many as there are processors, at most 8. progress: called with 1 after
    each picture.

    Raises ValueError for no set, and for sets whose labels differ.
    """
    if not sets:
        raise ValueError("there is no set to check: give at least one")
    for one in sets:
        if one.files.labels != sets[0].files.labels:
            raise ValueError(
                f"the splits {sets[0].split} and {one.split} of {one.name} differ in their labels, or in the"
                " order of them: give both the same, or check each by itself"
            )
    labels = len(sets[0].files.labels)
    pixels, pictures = np.zeros(other_id(labels) + 2, np.int64), np.zeros(labels, np.int64)
    bad: list[tuple[str, str]] = []
    empty: list[str] = []
    shown: dict[bytes, list[str]] = {}
    for one, name, seen in _look_at_all(sets, threads or min(8, os.cpu_count() or 1)):
        if isinstance(seen, str):
            bad.append((name, seen))
        else:
            pixels[seen.ids] += seen.counts
            own = seen.ids[seen.ids < labels]
            pictures[own] += 1
            if not len(own):
                empty.append(name)
            shown.setdefault(seen.digest, []).append(f"{name} ({one.split})" if len(sets) > 1 else name)
        if progress:
            progress(1)
    uses = zip(sets[0].vocabulary.labels, pictures.tolist(), pixels[:labels].tolist(), strict=True)
    return Findings(
        pictures=sum(map(len, sets)),
        bad=tuple(bad),
        empty=tuple(empty),
        duplicates=tuple(tuple(names) for names in shown.values() if len(names) > 1),
        labels=tuple(LabelUse(*use) for use in uses),
        other=int(pixels[-2]),
        unknown=int(pixels[-1]),
    )


@dataclass(frozen=True)
class _Seen:
    """What is kept of a picture: a hash of its pixels, the ids in its mask, and how many pixels have each."""

    digest: bytes
    ids: NDArray[np.int64]
    counts: NDArray[np.int64]


def _look_at(dataset: SegmentationSet, index: int) -> _Seen | str:
    """At one picture; what is wrong with it, if something is."""
    try:
        sample = dataset[index]
    except (OSError, ValueError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    digest = hashlib.blake2b(repr(sample.image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(sample.image).data)
    counts = np.bincount(sample.index_map.reshape(-1))
    ids = np.flatnonzero(counts)
    return _Seen(digest.digest(), ids, counts[ids])


def _look_at_all(
    sets: Iterable[SegmentationSet], threads: int
) -> Iterator[tuple[SegmentationSet, str, _Seen | str]]:
    """In order, with the names; threads are never more than a few pictures ahead of what was asked for."""
    ahead: deque[tuple[SegmentationSet, str, Future[_Seen | str]]] = deque()
    executor = ThreadPoolExecutor(threads)
    try:
        for one in sets:
            for index, picture in enumerate(one.files.pictures):
                ahead.append((one, picture.name, executor.submit(_look_at, one, index)))
                if len(ahead) > 2 * threads:
                    first, name, future = ahead.popleft()
                    yield first, name, future.result()
        for first, name, future in ahead:
            yield first, name, future.result()
    finally:
        executor.shutdown(cancel_futures=True)
