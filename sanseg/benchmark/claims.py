"""What SAN's speed is claimed against, measured beside it: the same CLIP, the same masks, the same road around."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sanseg.baselines import METHODS
from sanseg.benchmark.case import Case
from sanseg.benchmark.products import Recorder, flop
from sanseg.benchmark.report import Times
from sanseg.benchmark.rounds import Progress, failures_in_one_line, machine
from sanseg.data.datasets import SegmentationSet
from sanseg.devices import DTYPES
from sanseg.evaluate import evaluate, without_rivals
from sanseg.images import prepare
from sanseg.model.san import RECOGNITION, SAN
from sanseg.model.text_cache import TextCache
from sanseg.segmenter import Segmenter
from sanseg.version import VERSION


@dataclass(frozen=True)
class Claim:
    """One method.

    time: a photo in memory to its label map. gflop: 1e9 operations of the matrix products from the picture to masks
    and embeddings; the label map is the same for all.
    trained: how many of the numbers that it uses were trained for segmentation.
    miou: over the labels present, in percent; None where no pictures were given.
    """

    time: Times
    gflop: float
    trained: int
    miou: float | None


@dataclass(frozen=True)
class Claims:
    """What was measured of each of METHODS. seen: (height, width) of the padded picture. pictures: that mIoU is of."""

    case: Case
    network: str
    seen: tuple[int, int]
    dtype: str
    methods: dict[str, Claim]
    dataset: str | None
    pictures: int
    machine: dict[str, str | int]

    def ratio(self, method: str) -> float:
        """How many times as long as SAN."""
        return self.methods[method].time.over(self.methods["san"].time)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "sanseg": VERSION,
            "network": self.network,
            "random_weights": self.case.random,
            "size": list(self.case.size),
            "seen_size": list(self.seen),
            "labels": self.case.labels,
            "dtype": self.dtype,
            "dataset": self.dataset,
            "pictures": self.pictures,
            "machine": self.machine,
            "methods": {
                name: {
                    "ms": one.time.to_dict(),
                    "to_san": self.ratio(name),
                    "gflop": one.gflop,
                    "trained_parameters": one.trained,
                    "miou_present": one.miou,
                }
                for name, one in self.methods.items()
            },
        }


def measure_claims(
    case: Case,
    dtype: str,
    rounds: int,
    *,
    dataset: SegmentationSet | None = None,
    limit: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Claims:
    """Each method once a round, in turn; then mIoU on the pictures of a set, at most `limit` of them.

    dtype: a key of `devices.DTYPES`. Raises ValueError for a set and random weights, and as `measure`.
    """
    if dataset is not None and case.random:
        raise ValueError("random weights have no mIoU: leave the pictures out, or choose weights")
    pictures = 0 if dataset is None else len(range(len(dataset))[:limit])
    pieces = iter(range(total := len(METHODS) * (1 + rounds + pictures)))

    def step(what: str) -> None:
        progress(what, next(pieces), total)

    with TemporaryDirectory(prefix="sanseg-bench-") as folder, failures_in_one_line():
        subjects = {}
        san, texts = case.network(DTYPES[dtype]), TextCache(Path(folder) / "text.sqlite")
        for name in METHODS:
            step(f"{name}: products")
            subjects[name] = _Subject(case, name, san, texts)
        for number in range(1, rounds + 1):
            for name, subject in subjects.items():
                step(f"{name}: round {number} of {rounds}")
                subject.round()
        found = {
            name: Claim(
                Times(tuple(subject.ms)),
                subject.gflop,
                trained(san, name),
                None if dataset is None else subject.score(dataset, limit, step),
            )
            for name, subject in subjects.items()
        }
    return Claims(
        case,
        san.config.name,
        subject.seen,
        dtype,
        found,
        None if dataset is None else dataset.name,
        pictures,
        machine(case.device),
    )


def trained(san: SAN, method: str) -> int:
    """How many numbers. The others take a SAN's masks, and none of what it recognises with."""
    return sum(
        parameter.numel()
        for name, parameter in san.trained().items()
        if method == "san" or not name.startswith(RECOGNITION)
    )


class _Subject:
    """A method, and what has been measured of it."""

    def __init__(self, case: Case, method: str, san: SAN, texts: TextCache) -> None:
        self.method = method
        self.segmenter: Segmenter = case.segmenter(san, texts, METHODS[method](san))
        self.photo, self.words = case.photo(), case.words()
        self.segmenter.classifier(self.words)
        prepared, geometry = prepare(self.photo, san.config, self.segmenter.resize)
        self.seen = geometry.padded
        with torch.no_grad(), Recorder() as recorder:  # also the first time, which is not timed
            self.segmenter.proposer.propose(prepared[None].to(case.device))
        self.gflop = flop(recorder.products) / 1e9
        self.ms: list[float] = []

    def round(self) -> None:
        start = time.perf_counter()
        self.segmenter(self.photo, self.words, None)
        self.ms.append(1000 * (time.perf_counter() - start))

    def score(self, dataset: SegmentationSet, limit: int | None, step: Callable[[str], None]) -> float:
        """mIoU over the labels present, in percent. step: called with what is being done, after each picture."""

        def told(_: int) -> None:
            step(f"{self.method}: {dataset.name}")

        self.segmenter.classifier(dataset.vocabulary)
        predict, device = without_rivals(self.segmenter), self.segmenter.device
        return evaluate(predict, dataset, told, device=device, limit=limit).miou_present
