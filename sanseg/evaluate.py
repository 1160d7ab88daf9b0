"""What a segmenter is worth on labelled pictures: one tally, streamed, and every figure from it.

K labels, H W pixels of a picture.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sanseg.data.datasets import IndexMap, Sample, SegmentationSet
from sanseg.lanes import Lanes, open_lanes
from sanseg.metrics import Counts, Metrics, Reduce, Tally, confusion, seen_before
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary

__all__ = [
    "Answer",
    "Answers",
    "Confusion",
    "Evaluation",
    "Metrics",
    "Predict",
    "Reduce",
    "Scored",
    "confusion",
    "evaluate",
    "evaluate_folder",
    "gather",
    "without_rivals",
]

# RuntimeError is how torch says that its memory is too small for a picture.
FAILS = (OSError, ValueError, RuntimeError)


class Answer(Protocol):
    """What of a `Segmentation` is evaluated: ids (H, W), and how sure they are, (H, W) in [0, 1]."""

    @property
    def label_map(self) -> IndexMap: ...

    @property
    def confidence(self) -> NDArray[np.float32]: ...


class Answers(Protocol):
    """A `Segmenter`, or whatever else answers as one."""

    def __call__(self, image: NDArray[np.uint8], vocabulary: Vocabulary, *, other: None) -> Answer: ...


Predict = Callable[[NDArray[np.uint8], Vocabulary], IndexMap | Answer]
"""A picture uint8 (H, W, 3) and a vocabulary to indices into its labels (H, W), or to an Answer."""


def without_rivals(answers: Answers) -> Predict:
    """A segmenter as it is evaluated: no distractors, the labels share the whole picture."""
    return lambda image, vocabulary: answers(image, vocabulary, other=None)


@dataclass(frozen=True)
class Scored:
    """A picture, its place in the set, and the mean IoU over the labels present in it, in percent."""

    name: str
    index: int
    miou: float


@dataclass(frozen=True)
class Confusion:
    """Pixels of one label that were called another. share: of the label's pixels, in percent."""

    truth: str
    predicted: str
    pixels: int
    share: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One set, evaluated.

    name: of the set. counts: the confusion matrix, as `metrics.confusion`. pictures: how many were counted.
    worst, best: the pictures of extreme mean IoU, the most extreme first.
    failures: a line for each picture that could not be read or answered, and is not counted.
    seconds: that it took, by the clock.
    """

    name: str
    metrics: Metrics
    counts: Counts
    pictures: int
    worst: tuple[Scored, ...]
    best: tuple[Scored, ...]
    failures: tuple[str, ...]
    seconds: float

    @property
    def miou_present(self) -> float:
        """Of the metrics the first: the mean IoU over the labels present, in percent."""
        return self.metrics.miou_present

    def confusions(self, count: int = 10) -> list[Confusion]:
        """What is most often called something else, by pixels. "other" is an answer that is no label."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count].tolist()
        names, there = (*self.metrics.labels, "other"), self.metrics.pixels
        cells = [divmod(cell, wrong.shape[1]) for cell in order if wrong.flat[cell]]
        return [
            Confusion(names[truth], names[said], n := int(wrong[said, truth]), 100 * n / there[truth])
            for said, truth in cells
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: those of `Metrics.to_dict`, and the fields of this by name but for the counts, with
        the ten largest confusions."""
        return {
            **self.metrics.to_dict(),
            "set": self.name,
            "pictures": self.pictures,
            "seconds": round(self.seconds, 3),
            "confusions": [asdict(one) for one in self.confusions()],
            "worst": [asdict(one) for one in self.worst],
            "best": [asdict(one) for one in self.best],
            "failures": list(self.failures),
        }


def evaluate(
    predict: Predict,
    dataset: SegmentationSet,
    progress: Callable[[int], None] | None = None,
    *,
    device: torch.device | None = None,
    vocabulary: Vocabulary | None = None,
    seen: Sequence[str] | None = None,
    boundary: bool = False,
    share: tuple[int, int] = (0, 1),
    reduce: Reduce | None = None,
    limit: int | None = None,
    extremes: int = 0,
    skip_failures: bool = False,
) -> Evaluation:
    """Asks for each picture of a set, and counts.

    predict: see Predict; a segmenter's is `without_rivals(segmenter)`.
    progress: called with 1 after each picture of this process.
    device: of a `predict` that several threads may call, as they may a segmenter's: pictures are answered side by
        side, as by `Segmenter.segment_each`; ask for its `classifier` before, else each thread makes it. None asks
        in this thread, one after another.
    vocabulary: what to ask for instead of the set's own words, a label for each of the set's, in its order.
    seen: the labels that the model was trained on, ` | ` between synonyms, to tell seen from unseen.
    boundary: whether to count boundaries as well, which costs some milliseconds a picture.
    share: (rank, processes): of many processes, this one takes every so many-th picture.
    reduce: sums over those processes; each must call this alike, and gets the same figures. None leaves those
        of this process's share.
    limit: only so many pictures, the first.
    extremes: how many of the worst and of the best pictures to name.
    skip_failures: name the pictures that cannot be read or answered, and go on, instead of raising.

    Memory does not grow with the pictures. Raises ValueError for another number of labels, for a set in which
    no pixel has a label, for an answer with distractors, and what reading raises.
    """
    words = dataset.vocabulary if vocabulary is None else vocabulary
    labels = dataset.vocabulary.labels
    if len(words.names) != len(labels):
        raise ValueError(
            f"{len(words.names)} labels are asked for, {dataset.name} has {len(labels)}: give one for each, in"
            " the order of the set, no two alike"
        )
    rank, processes = share
    if not 0 <= rank < processes or (limit is not None and limit < 1):
        raise ValueError(
            f"share {share} and limit {limit}: wanted rank below processes, and at least 1 picture"
        )
    started = time.perf_counter()
    pictures = len(dataset) if limit is None else min(limit, len(dataset))
    own = _Tallied(Tally.empty(len(labels), edges=boundary), extremes)
    indices = range(rank, pictures, processes)
    with closing(_looked_at(predict, words, dataset, indices, device)) as looked:
        for index, found in zip(indices, looked, strict=True):
            try:
                if isinstance(found, Exception):
                    raise found
                own.count(index, *found)
            except FAILS as error:
                if not skip_failures:
                    raise
                own.failures.append((index, f"{dataset.files.pictures[index].name}: {_reason(error)}"))
            if progress:
                progress(1)
    tally = own.tally if reduce is None else own.tally.summed(reduce)
    counted, worst, best, failures = own.gathered(share, reduce)
    if failures and not counted:
        raise ValueError(f"no picture of {dataset.name} could be evaluated, the first is {failures[0]}")
    return Evaluation(
        name=dataset.name,
        metrics=Metrics.of(tally, labels, None if seen is None else seen_before(dataset.vocabulary, seen)),
        counts=tally.counts,
        pictures=counted,
        worst=worst,
        best=best,
        failures=failures,
        seconds=time.perf_counter() - started,
    )


def evaluate_folder(segmenter: Answers, folder: str | PathLike[str], split: str = "val") -> Metrics:
    """A segmenter on one split of a set on disk: its own labels, the model's templates, no distractors."""
    dataset, device = SegmentationSet.open(folder, split), None
    if isinstance(segmenter, Segmenter):
        segmenter.classifier(dataset.vocabulary)
        device = segmenter.device
    return evaluate(without_rivals(segmenter), dataset, device=device).metrics


def _picture_miou(counts: Counts) -> float:
    """The mean IoU over the labels present, in percent, from the confusion of a picture that has some."""
    right, there = counts.diagonal(), counts.sum(0)
    union = there + counts[:-1].sum(1) - right
    present = there > 0
    return 100 * float((right[present] / union[present]).mean())


def gather(value: Any, share: tuple[int, int], reduce: Reduce | None) -> list[Any]:
    """Plain JSON values of all processes, by rank, by nothing but sums; of this one without `reduce`."""
    if reduce is None:
        return [value]
    rank, processes = share
    text = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
    sizes = np.zeros(processes, dtype=np.int64)
    sizes[rank] = len(text)
    ends = np.cumsum(reduce(sizes))
    everything = np.zeros(ends[-1], dtype=np.int64)
    everything[ends[rank] - len(text) : ends[rank]] = text
    parts = np.split(reduce(everything).astype(np.uint8), ends[:-1])
    return [json.loads(part.tobytes()) for part in parts]


class _Tallied:
    """What one process has counted so far."""

    def __init__(self, tally: Tally, extremes: int) -> None:
        self.tally = tally
        self.extremes = extremes
        self.counted = 0
        self.worst: list[Scored] = []
        self.best: list[Scored] = []
        self.failures: list[tuple[int, str]] = []

    def count(self, index: int, sample: Sample, answer: IndexMap | Answer) -> None:
        if isinstance(answer, Segmentation) and answer.vocabulary.other:
            raise ValueError("distractors took part in the answer: ask with other=None, see without_rivals")
        label_map = answer if isinstance(answer, np.ndarray) else answer.label_map
        confidence = None if isinstance(answer, np.ndarray) else answer.confidence
        counts = self.tally.add(label_map, sample.index_map, confidence)
        self.counted += 1
        if self.extremes and counts.any():
            scored = Scored(sample.name, index, _picture_miou(counts))
            self.worst = _lowest([*self.worst, scored], self.extremes)
            self.best = _highest([*self.best, scored], self.extremes)

    def gathered(
        self, share: tuple[int, int], reduce: Reduce | None
    ) -> tuple[int, tuple[Scored, ...], tuple[Scored, ...], tuple[str, ...]]:
        """Of all processes: how many were counted, the worst, the best, the failures."""
        worst, best = ([[one.name, one.index, one.miou] for one in some] for some in (self.worst, self.best))
        parts = gather([self.counted, worst, best, self.failures], share, reduce)
        all_worst, all_best = ([Scored(*one) for part in parts for one in part[at]] for at in (1, 2))
        return (
            sum(part[0] for part in parts),
            tuple(_lowest(all_worst, self.extremes)),
            tuple(_highest(all_best, self.extremes)),
            tuple(line for _, line in sorted((index, line) for part in parts for index, line in part[3])),
        )


def _lowest(scored: Sequence[Scored], count: int) -> list[Scored]:
    return sorted(scored, key=lambda one: (one.miou, one.index))[:count]


def _highest(scored: Sequence[Scored], count: int) -> list[Scored]:
    return sorted(scored, key=lambda one: (-one.miou, one.index))[:count]


def _looked_at(
    predict: Predict,
    words: Vocabulary,
    dataset: SegmentationSet,
    indices: Sequence[int],
    device: torch.device | None,
) -> Generator[tuple[Sample, IndexMap | Answer] | Exception, None, None]:
    """Samples and the answers to them, in order, or what failed; others are read meanwhile."""

    def read(index: int) -> Sample | Exception:
        try:
            return dataset[index]
        except FAILS as error:
            return error

    def ask(sample: Sample | Exception) -> tuple[Sample, IndexMap | Answer] | Exception:
        if isinstance(sample, Exception):
            return sample
        try:
            return sample, predict(sample.image, words)
        except FAILS as error:
            return error

    if device is None:
        with closing(Lanes(1, ThreadPoolExecutor(1, "sanseg-evaluate"), nullcontext())) as reader:
            yield from map(ask, reader.map(read, indices))
        return
    with closing(open_lanes(device, len(indices))) as lanes:

        def look(index: int) -> tuple[Sample, IndexMap | Answer] | Exception:
            sample = read(index)
            with lanes.turn:
                return ask(sample)

        yield from lanes.map(look, indices)


def _reason(error: Exception) -> str:
    """In one line."""
    told = str(error).strip() or type(error).__name__
    return " ".join(told.partition("\n")[0].split())
