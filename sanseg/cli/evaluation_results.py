"""What `sanseg evaluate` prints and writes."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sanseg.cli.model_options import what_computes
from sanseg.cli.shell import commit

if TYPE_CHECKING:
    from sanseg.data.datasets import SegmentationSet
    from sanseg.evaluate import Answers, Evaluation
    from sanseg.expect import Figures
    from sanseg.metrics import Metrics
    from sanseg.segmenter import Segmenter
    from sanseg.vocabulary import Vocabulary

# Rows of the summary: a figure of `Metrics`, and what it is called.
SUMMARY = {
    "miou_present": "mIoU over the labels present",
    "miou_union": "mIoU over the labels present or predicted (detectron2 v0.6)",
    "fwiou": "frequency-weighted IoU",
    "macc": "mean accuracy",
    "pacc": "pixel accuracy",
    "miou_boundary": "mean boundary IoU",
    "miou_seen": "mIoU over labels seen in training",
    "miou_unseen": "mIoU over labels not seen in training",
    "miou_harmonic": "harmonic mean of seen and unseen",
    "zero": "labels present at exactly zero",
    "calibration_error": "expected calibration error",
}
MEANS = ("miou_present", "miou_union", "fwiou", "macc", "pacc")  # what several sets are averaged in


@dataclass(frozen=True)
class Looks:
    """The model, and how it looks at pictures: as the options of that name."""

    model: str
    clip: str | None
    method: str
    dtype: str
    scales: tuple[float, ...]
    flip: bool


def tell(name: str, evaluation: Evaluation, split: str, console: Console) -> None:
    """Prints the table of the labels, and the summary."""
    metrics = evaluation.metrics
    title = f"{name} {split}, {evaluation.pictures} pictures"
    if evaluation.failures:
        title += f", {len(evaluation.failures)} left out"
    columns: dict[str, Iterable[str]] = {
        "IoU": map(percent, metrics.iou),
        "accuracy": map(percent, metrics.acc),
        "share of pixels": (percent(100 * one / sum(metrics.pixels)) for one in metrics.pixels),
    }
    if not math.isnan(metrics.miou_boundary):
        columns["boundary IoU"] = map(percent, metrics.boundary_iou)
    if None not in metrics.seen:
        columns["seen"] = ("yes" if known else "no" for known in metrics.seen)
    each = Table("label", title=escape(title))
    for heading in columns:
        each.add_column(heading, justify="right")
    for label, *figures in zip(metrics.labels, *columns.values(), strict=True):
        each.add_row(Text(label), *figures)
    console.print(each)
    summary = Table(escape(title))
    summary.add_column("percent", justify="right")
    for figure, called in SUMMARY.items():
        if not math.isnan(getattr(metrics, figure)):
            summary.add_row(called, percent(getattr(metrics, figure)))
    console.print(summary)


def percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def tell_differences(metrics: Metrics, expected: Figures, console: Console) -> list[str]:
    """Prints them. A line where the mean IoU is not what was expected."""
    from sanseg.expect import TOLERANCE, agrees, compare

    summary, each = compare(metrics, expected)
    table = Table(escape(f"against {expected.source}"))
    for heading in ("here", "expected", "difference"):
        table.add_column(heading, justify="right")
    for one in (*summary, *each):
        difference = "-" if math.isnan(one.by) else f"{one.by:+.2f}"
        table.add_row(Text(one.what), percent(one.got), percent(one.expected), difference)
    console.print(table)
    console.print(f"{len(each)} of {len(metrics.labels)} labels differ by more than {TOLERANCE}")
    if agrees(summary):
        return []
    by = summary[0].by
    return [f"the mIoU differs by {by:+.2f} from {expected.source}, by more than {TOLERANCE}"]


def tell_how(segmenter: Segmenter, looks: Looks, evaluations: Iterable[Evaluation], console: Console) -> None:
    config = segmenter.san.config
    console.print(f"{what_computes(looks.model, segmenter)}.", markup=False, soft_wrap=True)
    console.print(
        f"Pictures were resized the evaluation's way: bilinear, short side {config.short_side} pixels, long side"
        f" at most {config.long_side}."
    )
    if looks.method != "san":
        console.print(f"The masks are the model's, {looks.method} named them.")
    views = len(looks.scales) * (1 + looks.flip)
    if views > 1 or looks.scales != (1.0,):
        scales = ", ".join(f"{scale:g}" for scale in looks.scales)
        flipped = ", each also mirrored" if looks.flip else ""
        console.print(f"Scores are means over {views} views: these sides times {scales}{flipped}.")
    seconds = sum(one.seconds for one in evaluations)
    pictures = sum(one.pictures for one in evaluations)
    console.print(f"{seconds / pictures:.2f} seconds a picture.")


def document(
    found: Mapping[str, Evaluation],
    sets: Mapping[str, SegmentationSet],
    words: Mapping[str, Vocabulary],
    segmenter: Segmenter,
    looks: Looks,
) -> dict[str, Any]:
    """What --json writes: plain values. Its form is in docs/reproducing-the-paper.md."""
    from sanseg.devices import name_dtype
    from sanseg.model.checkpoint import fingerprint
    from sanseg.version import VERSION

    each = {
        name: {
            **one.to_dict(),
            "split": sets[name].split,
            "form": sets[name].form,
            "vocabulary_hash": words[name].hash,
            "synonyms": words[name].synonyms,
            "templates": words[name].templates or segmenter.san.config.templates,
        }
        for name, one in found.items()
    }
    means = {key: sum(one[key] for one in each.values()) / len(each) for key in MEANS}
    config = segmenter.san.config
    return {
        **means,
        **(next(iter(each.values())) if len(each) == 1 else {"sets": each}),
        "command": shlex.join(["sanseg", *sys.argv[1:]]),
        "sanseg": VERSION,
        "commit": commit(),
        "model": looks.model,
        "model_name": config.name,
        "model_checksum": fingerprint(segmenter.san),
        "method": looks.method,
        "dtype": name_dtype(segmenter.san.nothing.dtype),
        "device": str(segmenter.device),
        "resize": segmenter.resize,
        "short_side": config.short_side,
        "long_side": config.long_side,
        "scales": list(looks.scales),
        "flip": looks.flip,
    }


def write_figures(
    path: Path,
    found: Mapping[str, Evaluation],
    sets: Mapping[str, SegmentationSet],
    words: Mapping[str, Vocabulary],
    answers: Answers,
) -> None:
    """A figure of each set: of the path's name for one, with the set's name added for several."""
    from sanseg.figures import evaluation_figure
    from sanseg.images import write_bytes

    for name, evaluation in found.items():
        shown: list[list[Any]] = []
        for some in (evaluation.worst, evaluation.best):
            shown.append([])
            for one in some:
                sample = sets[name][one.index]
                label_map = answers(sample.image, words[name], other=None).label_map
                shown[-1].append((sample.image, sample.index_map, label_map, one.miou, one.name))
        own = re.sub(r"[^\w.-]+", "-", name).strip("-")
        file = path if len(found) == 1 else path.with_stem(f"{path.stem}-{own}")
        write_bytes(file, evaluation_figure(evaluation, *shown))
