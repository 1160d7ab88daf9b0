"""What the folder of a training run holds, read with suspicion: what makes no sense is counted and passed over."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanseg.metrics import Bin

LOSSES = ("classification", "mask", "dice", "answer")
COLUMNS = ("loss", *LOSSES, "lr", "seconds", "images_per_second")  # of metrics.jsonl, those that are read
SUMMARY = {  # of an evaluation: a figure of `metrics.Metrics`, and what it is called
    "miou_present": "mIoU, labels present",
    "miou_union": "mIoU, present or predicted",
    "fwiou": "frequency-weighted IoU",
    "macc": "mean accuracy",
    "pacc": "pixel accuracy",
    "miou_seen": "mIoU, seen labels",
    "miou_unseen": "mIoU, unseen labels",
    "calibration_error": "calibration error",
}


@dataclass(frozen=True)
class Row:
    """A label in percent: its IoU, the share of its pixels that were found, its share of all pixels."""

    label: str
    iou: float
    acc: float
    share: float
    seen: bool | None


@dataclass(frozen=True)
class Scores:
    """One set, evaluated. rows: of the labels present, the best first. absent: the labels that do not occur.
    summary: percent by the keys of SUMMARY. pictures: None where that is not said."""

    name: str
    summary: dict[str, float]
    rows: tuple[Row, ...]
    absent: tuple[str, ...]
    bins: tuple[Bin, ...]
    pictures: int | None
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation after so many iterations. miou: the mean over its sets, in percent."""

    iteration: int
    miou: float
    sets: tuple[Scores, ...]


@dataclass(frozen=True)
class Run:
    """What a run's folder holds. log: (iteration, columns by name) in order. notices: what could not be read."""

    name: str
    described: dict[str, Any]
    log: tuple[tuple[int, dict[str, float]], ...]
    evaluations: tuple[Evaluated, ...]
    pictures: tuple[tuple[int, tuple[Path, ...]], ...]
    notices: tuple[str, ...]


def read_run(folder: Path) -> Run:
    """What a run's folder holds. Raises ValueError where that is nothing, OSError where it cannot be read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the one that 'sanseg train --run' wrote")
    names = ("run.json", "metrics.jsonl", "evaluations.jsonl")
    if not any((folder / name).exists() for name in names):
        raise ValueError(f"{folder} holds no training run: give a folder with {', '.join(names)}")
    described, notices = _read_description(folder / "run.json")
    lines, broken = _read_lines(folder / "metrics.jsonl")
    log = {line["iteration"]: _columns(line) for line in lines}
    lines, broken_evaluations = _read_lines(folder / "evaluations.jsonl")
    evaluations = {}
    for line in lines:
        try:
            evaluations[line["iteration"]] = _evaluated(line)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            broken_evaluations += 1
    for name, count in (("metrics.jsonl", broken), ("evaluations.jsonl", broken_evaluations)):
        if count:
            notices.append(f"{count} line{'s' * (count > 1)} of {name} could not be read and is left out.")
    return Run(
        name=folder.resolve().name,
        described=described,
        log=tuple(sorted(log.items())),
        evaluations=tuple(one for _, one in sorted(evaluations.items())),
        pictures=_find_pictures(folder / "pictures"),
        notices=tuple(notices),
    )


def _read_description(path: Path) -> tuple[dict[str, Any], list[str]]:
    if not path.exists():
        return {}, ["run.json is missing: what was run is not known."]
    try:
        described = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        described = None
    if not isinstance(described, dict):
        return {}, ["run.json could not be read: what was run is not known."]
    return described, []


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a log that have an iteration, and how many have not: a death may cut the last one short."""
    found, broken = [], 0
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        iteration = value.get("iteration") if isinstance(value, dict) else None
        if type(iteration) is int and 0 <= iteration < 10**12:
            found.append(value)
        else:
            broken += 1
    return found, broken


def _columns(line: dict[str, Any]) -> dict[str, float]:
    """The figures of an iteration; of losses with several readings that of the last, which gives the answer."""
    values = {name: line.get(name) for name in COLUMNS}
    return {name: number(one[-1] if isinstance(one, list) and one else one) for name, one in values.items()}


def number(value: Any) -> float:
    """What is a finite number as one; NaN for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return math.nan
    return float(value)


def _evaluated(line: dict[str, Any]) -> Evaluated:
    sets = tuple(_scores(str(name), one) for name, one in line["sets"].items())
    return Evaluated(line["iteration"], number(line.get("miou_present")), sets)


def _scores(name: str, metrics: dict[str, Any]) -> Scores:
    """From `Metrics.to_dict`. Raises ValueError, KeyError or TypeError for anything else."""
    labels = [str(label) for label in metrics["labels"]]
    pixels = [number(one) for one in metrics["pixels"]]
    total = sum(pixels) or 1.0
    seen = metrics.get("seen") or [None] * len(labels)
    columns = zip(labels, metrics["iou"], metrics["acc"], pixels, seen, strict=True)
    rows = [
        Row(label, number(iou), number(acc), 100 * there / total, known if known in (True, False) else None)
        for label, iou, acc, there, known in columns
    ]
    present = [row for row in rows if not math.isnan(row.iou)]
    bins = [
        Bin(int(number(one["pixels"])), number(one["accuracy"]), number(one["confidence"]))
        for one in metrics.get("reliability") or ()
    ]
    pictures = metrics.get("pictures")
    return Scores(
        name=name,
        summary={key: number(metrics.get(key)) for key in SUMMARY},
        rows=tuple(sorted(present, key=lambda row: (-row.iou, row.label))),
        absent=tuple(row.label for row in rows if math.isnan(row.iou)),
        bins=tuple(bins),
        pictures=pictures if type(pictures) is int else None,
        failures=tuple(map(str, metrics.get("failures") or ())),
    )


def _find_pictures(folder: Path) -> tuple[tuple[int, tuple[Path, ...]], ...]:
    """The pictures of each evaluation, by the iterations done, in order."""
    if not folder.is_dir():
        return ()
    numbered = [(int(one.name), one) for one in folder.iterdir() if one.name.isdecimal() and one.is_dir()]
    return tuple((done, tuple(sorted(one.glob("*.png")))) for done, one in sorted(numbered))
