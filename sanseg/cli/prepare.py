"""`sanseg prepare check`: what a data set on disk holds, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sanseg.cli.shell import BAD_USE, INTERRUPTED, SOME_FAILED, app, complain, mistakes_in_one_line

if TYPE_CHECKING:
    from sanseg.data.check import Findings
    from sanseg.data.datasets import SegmentationSet

MAX_ROWS = 60  # of labels in a table, and of what is wrong with one another; --json has them all
TILES = 24  # of a contact sheet
SHOWN = 800  # pixels of a picture's longer side, before it is painted for the sheet

EXIT_CODES = (
    f"Exit codes: 0 nothing is bad; {SOME_FAILED} some pictures cannot be used, or no pixel is labelled;"
    f" {BAD_USE} bad use, nothing was done; {INTERRUPTED} interrupted."
)

prepare_app = typer.Typer(no_args_is_help=True, help="Prepare data sets, and check them before training.")
app.add_typer(prepare_app, name="prepare")


@prepare_app.callback()
def prepare() -> None:
    pass


@prepare_app.command(epilog=EXIT_CODES)
def check(
    folder: Annotated[Path, typer.Argument(help="The folder of a data set.")],
    split: Annotated[
        str, typer.Option(help="train, val, ... or all: then duplicates are sought across them.")
    ] = ("all"),
    form: Annotated[
        str, typer.Option(help="folder, coco-panoptic, coco-instances, voc or yolo. auto: the one that fits.")
    ] = "auto",
    sheet: Annotated[
        Path | None, typer.Option(help=f"A PNG to write: {TILES} pictures painted with their masks.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="A JSON file to write: all that was found.")] = None,
) -> None:
    """Check a data set: labels, sizes, unreadable files, duplicates. Every picture and mask is read once."""
    with mistakes_in_one_line():
        from sanseg.data.datasets import SegmentationSet, find_splits
        from sanseg.images import write_json

        names = find_splits(folder, form) if split == "all" else (split,)
        if not names:
            raise ValueError(f"{folder} has no split: name at least its 'train'")
        sets = [SegmentationSet.open(folder, name, form, allow_missing=True) for name in names]
        console = Console()
        told = ", ".join(f"{one.split} ({len(one)} pictures)" for one in sets)
        console.print(f"{escape(str(folder))} is of form {sets[0].form}: {escape(told)}", soft_wrap=True)
        findings = run_check(sets, console)
        console.print(labels_table(findings))
        console.print(findings_table(findings))
        if json:
            splits = {one.split: len(one) for one in sets}
            write_json(json, {"form": sets[0].form, "splits": splits, **findings.to_dict()})
            console.print(f"{escape(str(json))} written", soft_wrap=True)
        if sheet:
            write_sheet(sets, findings, sheet)
            console.print(f"{escape(str(sheet))} written", soft_wrap=True)
    for name, why in findings.bad:
        complain(f"bad: {name}: {why}")
    if findings.bad:
        complain(f"{len(findings.bad)} of {findings.pictures} pictures cannot be used")
    problem = findings.problem(skip_bad=True)
    if problem:
        complain(f"sanseg: {problem}")
    if findings.bad or problem:
        raise typer.Exit(SOME_FAILED)


def run_check(sets: list[SegmentationSet], console: Console) -> Findings:
    from sanseg.data.check import check

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("pictures", total=sum(map(len, sets)))
        return check(*sets, progress=lambda done: progress.advance(task, done))


def labels_table(findings: Findings) -> Table:
    """Labels in order, with how often they occur; of very many the commonest and the rarest."""
    from sanseg.draw import percent

    table = Table("index", "label", "pictures", "pixels")
    for column in table.columns[2:]:
        column.justify = "right"
    every = findings.labelled + findings.other + findings.unknown
    rows = list(enumerate(findings.labels))
    if len(rows) > MAX_ROWS:
        rows.sort(key=lambda row: -row[1].pixels)
    for place, (index, use) in enumerate(rows):
        if len(rows) > MAX_ROWS and place == MAX_ROWS // 2:
            table.add_row("", f"... {len(rows) - MAX_ROWS} more, see --json", "", "")
        if len(rows) > MAX_ROWS and MAX_ROWS // 2 <= place < len(rows) - MAX_ROWS // 2:
            continue
        share = percent(use.pixels / every) if use.pixels else "none"
        table.add_row(str(index), escape(use.label), str(use.pictures), share)
    table.add_section()
    for name, pixels in (
        ("other: none of these", findings.other),
        ("unknown: not labelled", findings.unknown),
    ):
        table.add_row("", name, "", percent(pixels / every) if pixels else "none")
    return table


def findings_table(findings: Findings) -> Table:
    """What was found, how often, and the first few of each."""
    table = Table("found", "count", "which")
    rows = (
        ("bad pictures", [name for name, _ in findings.bad]),
        ("pictures that show no label", list(findings.empty)),
        ("pictures that are there more than once", [" = ".join(group) for group in findings.duplicates]),
        ("labels that are never used", list(findings.unused)),
    )
    for name, which in rows:
        more = f" and {len(which) - 5} more" if len(which) > 5 else ""
        table.add_row(name, str(len(which)), escape("; ".join(which[:5])) + more)
    return table


def write_sheet(sets: list[SegmentationSet], findings: Findings, path: Path) -> None:
    """Pictures from all over the sets, painted with their masks, each with its legend."""
    import numpy as np

    from sanseg.draw import contact_sheet, overlay
    from sanseg.images import write_png

    bad = {name for name, _ in findings.bad}
    good = [
        (one, index)
        for one in sets
        for index, picture in enumerate(one.files.pictures)
        if picture.name not in bad
    ]
    if not good:
        complain(f"{path} was not written: no picture can be read")
        return
    chosen = dict.fromkeys(np.linspace(0, len(good) - 1, min(TILES, len(good))).round().astype(int).tolist())
    tiles = []
    for one, index in (good[place] for place in chosen):
        sample = one[index]
        step = -(-max(sample.index_map.shape) // SHOWN)
        image, index_map = (np.ascontiguousarray(a[::step, ::step]) for a in (sample.image, sample.index_map))
        painted = overlay(image, index_map, one.vocabulary.labels)
        tiles.append((np.asarray(painted), sample.name))
    write_png(path, contact_sheet(tiles, side=320))
