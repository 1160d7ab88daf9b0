"""What was measured, and the figures that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sanseg.benchmark.case import Case
from sanseg.version import VERSION


@dataclass(frozen=True)
class Times:
    """ms: milliseconds of each round, in order."""

    ms: tuple[float, ...]

    @property
    def median(self) -> float:
        return self.quantile(50)

    def quantile(self, percent: float) -> float:
        return float(np.percentile(self.ms, percent))

    def over(self, other: Times) -> float:
        """How many times `other` this is: the median of the quotients of each round, whose halves lie a moment apart,
        so that a machine's slow minutes are in both.
        """
        return float(np.median(np.divide(self.ms, other.ms)))

    def to_dict(self) -> dict[str, Any]:
        return {
            "median": self.median,
            "p10": self.quantile(10),
            "p90": self.quantile(90),
            "rounds": list(self.ms),
        }


@dataclass(frozen=True)
class Stage:
    """time: of the stage. bound: of its products by themselves. gflop, products: of these, 1e9 operations."""

    time: Times
    bound: Times
    gflop: float
    products: int

    @property
    def ratio(self) -> float | None:
        """None for a stage without products."""
        return self.time.over(self.bound) if self.products else None


@dataclass(frozen=True)
class Measured:
    """One dtype's figures.

    stages: by the names of `road.STAGES`, of a photo that stops at each.
    whole: a call of the Segmenter for words that it knows. bound: of all products in a round.
    plain: the way of `road.plain`, and agreement: the share of pixels on which it agrees; None where left out.
    vocabulary: the picture is encoded, the embeddings of the words are in memory, their Classifier is not.
    text_first, text_cached: milliseconds for the words' Classifier, through the text tower, and from the cache's file.
    memory, plain_memory: bytes, see `memory.photo_bytes`.
    """

    stages: dict[str, Stage]
    whole: Times
    bound: Times
    plain: Times | None
    agreement: float | None
    vocabulary: Times
    text_first: float
    text_cached: float
    memory: int | None
    plain_memory: int | None

    @property
    def gflop(self) -> float:
        return sum(stage.gflop for stage in self.stages.values())

    def to_dict(self) -> dict[str, Any]:
        staged = sum(stage.time.median for stage in self.stages.values())
        return {
            "gflop": self.gflop,
            "whole_ms": self.whole.to_dict(),
            "bound_ms": self.bound.to_dict(),
            "whole_to_bound": self.whole.over(self.bound),
            "plain_ms": self.plain.to_dict() if self.plain else None,
            "plain_to_whole": self.plain.over(self.whole) if self.plain else None,
            "plain_agreement": self.agreement,
            "vocabulary_ms": self.vocabulary.to_dict(),
            "vocabulary_to_whole": self.vocabulary.over(self.whole),
            "text_first_ms": self.text_first,
            "text_cached_ms": self.text_cached,
            "memory_bytes": self.memory,
            "plain_memory_bytes": self.plain_memory,
            "stages": {
                name: {
                    "ms": stage.time.to_dict(),
                    "share": stage.time.median / staged,
                    "gflop": stage.gflop,
                    "products": stage.products,
                    "bound_ms": stage.bound.to_dict(),
                    "ratio": stage.ratio,
                }
                for name, stage in self.stages.items()
            },
        }


@dataclass(frozen=True)
class Report:
    """What was measured, of which network, on which machine.

    network: the name of its configuration. seen: (height, width) of the padded picture that it sees.
    parameters, trained: how many numbers, in all and of `SAN.trained`.
    dtypes: what was measured of each, in the order asked for.
    """

    case: Case
    network: str
    seen: tuple[int, int]
    parameters: int
    trained: int
    dtypes: dict[str, Measured]
    machine: dict[str, str | int]

    def faster(self, dtype: str) -> float | None:
        """How many times as fast a dtype is as float32; None where that was not measured."""
        if "float32" not in self.dtypes:
            return None
        return self.dtypes["float32"].whole.over(self.dtypes[dtype].whole)

    def to_dict(self) -> dict[str, Any]:
        """Plain values. Every `..._ms` that was measured each round is {median, p10, p90, rounds}."""
        case = self.case
        return {
            "sanseg": VERSION,
            "model": case.model if isinstance(case.model, str) else case.model.name,
            "network": self.network,
            "random_weights": case.random,
            "size": list(case.size),
            "seen_size": list(self.seen),
            "labels": case.labels,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "machine": self.machine,
            "dtypes": {
                name: {**measured.to_dict(), "times_as_fast_as_float32": self.faster(name)}
                for name, measured in self.dtypes.items()
            },
        }
