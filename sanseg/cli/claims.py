"""`sanseg bench --claims`: SAN beside the methods that its speed is claimed against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from sanseg.benchmark import Case, Report
    from sanseg.benchmark.claims import Claims
    from sanseg.benchmark.rounds import Progress


def compare(
    case: Case,
    dtypes: Sequence[str],
    rounds: int,
    data: Path | None,
    limit: int | None,
    figure: Path | None,
    progress: Progress,
) -> Claims:
    """Measures, and draws where it is wanted."""
    from sanseg.benchmark.claims import measure_claims
    from sanseg.data.datasets import SegmentationSet

    if len(dtypes) != 1:
        raise ValueError(f"--claims measures one dtype, given are {', '.join(dtypes)}: give --dtype once")
    if limit and data is None:
        raise ValueError("--limit is for pictures: name their folder with --data")
    dataset = None if data is None else SegmentationSet.open(data, "val", allow_missing=True)
    if dataset is not None and len(dataset) == 0:
        raise ValueError(f"{data} has no val pictures: choose another set")
    claims = measure_claims(case, dtypes[0], rounds, dataset=dataset, limit=limit, progress=progress)
    if figure is not None:
        from sanseg.benchmark.figures import claims_figure
        from sanseg.images import write_bytes

        write_bytes(figure, claims_figure(claims))
    return claims


def told_of(report: Report | Claims) -> list[str]:
    """What was measured, and where, in lines."""
    case, machine = report.case, report.machine
    weights = "random weights, their masks and classes replaced by plausible ones"
    return [
        f"{report.network}, {weights if case.random else 'its own weights'}",
        f"a photo of {case.size[0]} x {case.size[1]}, seen as {report.seen[0]} x {report.seen[1]},"
        f" {case.labels} labels",
        f"{machine['device_name']}, {machine['threads']} threads of {machine['processor']}"
        f" ({machine['instructions']}), torch {machine['torch']}",
    ]


def tell_claims(claims: Claims, console: Console) -> None:
    for line in told_of(claims):
        console.print(escape(line), soft_wrap=True)
    table = Table("method", title=claims.dtype)
    headings = ["trained", "GFLOP", "s", "p10-p90", "of SAN's time"]
    if claims.dataset is not None:
        headings.append(f"mIoU on {claims.pictures} of {claims.dataset}")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, one in claims.methods.items():
        low, median, high = (one.time.quantile(percent) / 1000 for percent in (10, 50, 90))
        row = [f"{one.trained:,}", f"{one.gflop:.1f}", f"{median:.2f}", f"{low:.2f}-{high:.2f}"]
        row.append(f"{claims.ratio(name):.1f}")
        if one.miou is not None:
            row.append(f"{one.miou:.1f}")
        table.add_row(name, *row)
    console.print()
    console.print(table)
    console.print(
        "GFLOP from the picture to masks and embeddings. simseg and maskclip take SAN's masks, as published they train"
        " a network of their own for them.",
        soft_wrap=True,
    )
