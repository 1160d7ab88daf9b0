"""Figures to hold an evaluation against: the authors' own, or those of an evaluation before.

All in percent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from sanseg.data.labelsets import LABELSETS, read_labelset
from sanseg.metrics import Metrics
from sanseg.vocabulary import Vocabulary

TOLERANCE = 0.1  # of the mean IoU, and of a label's IoU
SUMMARY = ("miou_present", "fwiou", "macc", "pacc")

# Whose figures are kept with the package, by the name of the model (data/authors).
AUTHORS = {"san-vit-b-16": "san-vit-b-16.json", "san-vit-l-14": "san-vit-l-14.json"}


@dataclass(frozen=True)
class Figures:
    """What was reported of a model on a set. source: who says so. summary: the SUMMARY.

    iou: of each label, in the order of the set; NaN where it never occurs.
    """

    source: str
    summary: dict[str, float]
    iou: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """what: a figure of SUMMARY, or "IoU of LABEL". NaN where one of the two has no such figure."""

    what: str
    got: float
    expected: float

    @property
    def by(self) -> float:
        return self.got - self.expected


def authors_figures(model: str, labelset: str) -> Figures:
    """What the authors' log says of a released model on a benchmark, a key of LABELSETS.

    Raises ValueError where the authors say nothing of that model or that set.
    """
    if model not in AUTHORS:
        raise ValueError(
            f"the authors' figures are of {' and '.join(AUTHORS)}, not of {model!r}: use one of these"
        )
    text = files("sanseg").joinpath("data", "authors", AUTHORS[model]).read_text(encoding="utf-8")
    document = json.loads(text)
    if labelset not in document["sets"]:
        raise ValueError(f"the authors' figures are on {', '.join(document['sets'])}, not on {labelset!r}")
    return _figures(document["sets"][labelset], f"the authors' log of {model} on {labelset}")


def find_labelset(vocabulary: Vocabulary) -> str | None:
    """The key of LABELSETS with exactly these labels, in this order; None where there is none."""
    for name in LABELSETS:
        if tuple(label.partition(" | ")[0] for label in read_labelset(name)) == vocabulary.labels:
            return name
    return None


def read_figures(path: str | PathLike[str], name: str) -> Figures:
    """What a file of `sanseg evaluate --json` says of the set of that name; where it has one set, of that.

    Raises ValueError for a file that is none, or has several sets and none of that name; OSError where it
    cannot be read.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): give what --json wrote") from error
    sets = document.get("sets") if isinstance(document, dict) else None
    if isinstance(sets, dict) and sets:
        if name not in sets:
            raise ValueError(f"{path} says nothing of {name}, only of {', '.join(sets)}")
        document = sets[name]
    try:
        return _figures(document, f"{path} on {name}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no evaluation ({error!r}): give what --json wrote") from error


def _figures(values: Mapping[str, Any], source: str) -> Figures:
    summary = {name: _number(values[name]) for name in SUMMARY}
    return Figures(source, summary, tuple(map(_number, values["iou"])))


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def compare(metrics: Metrics, expected: Figures) -> tuple[list[Difference], list[Difference]]:
    """Of the SUMMARY, all; of the labels, those whose IoU differs by more than TOLERANCE, the most first.

    Raises ValueError where the figures are of another number of labels.
    """
    check_labels(metrics.labels, expected)
    summary = [Difference(name, getattr(metrics, name), expected.summary[name]) for name in SUMMARY]
    each = [
        Difference(f"IoU of {label}", got, wanted)
        for label, got, wanted in zip(metrics.labels, metrics.iou, expected.iou, strict=True)
        if not (math.isnan(got) and math.isnan(wanted)) and not abs(got - wanted) <= TOLERANCE
    ]
    each.sort(key=lambda one: -math.inf if math.isnan(one.by) else -abs(one.by))
    return summary, each


def check_labels(labels: Sequence[str], expected: Figures) -> None:
    """Raises ValueError where figures are of another number of labels."""
    if len(labels) != len(expected.iou):
        raise ValueError(
            f"{expected.source} is about {len(expected.iou)} labels, the set has {len(labels)}: name the"
            " benchmark that it is"
        )


def agrees(summary: Sequence[Difference]) -> bool:
    """Whether the mean IoU over the labels present is the expected one, within TOLERANCE."""
    return all(abs(one.by) <= TOLERANCE for one in summary if one.what == "miou_present")
