"""`sanseg prepare coco-stuff` and its sisters: from the raw downloads of a benchmark to pictures and index masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sanseg.cli.prepare import prepare_app
from sanseg.cli.shell import EXIT_CODES, SOME_FAILED, complain, mistakes_in_one_line
from sanseg.data.benchmarks import BENCHMARKS, Benchmark

Raw = Annotated[
    Path, typer.Argument(help="The folder that the downloads are unpacked in.", show_default=False)
]
Out = Annotated[
    Path,
    typer.Argument(help="A new folder, or one of an earlier run, which is continued.", show_default=False),
]
Jobs = Annotated[int | None, typer.Option(help="Worker processes; by default one for each processor.")]
Partial = Annotated[
    bool, typer.Option("--partial", help="A part of the release will do: prepare what is there.")
]
Shrink = Annotated[
    str,
    typer.Option(help="Which side is at most 512 pixels: 'longer', or 'shorter' as in MaskFormer's script."),
]


def _help(spec: Benchmark) -> str:
    """The help of a command. click keeps the lines of a paragraph that begins with a backspace."""
    many = " and ".join(f"{count:,} {split}" for split, count in spec.expected.items())
    shrunk = f" Pictures with a longer side above {spec.limit} pixels are shrunk." if spec.limit else ""
    paragraphs = (
        f"{spec.title}: {len(spec.raw_ids)} classes, {many} pictures.",
        "Writes OUT/images (hard links where the disk has them), OUT/masks (PNG of class numbers,"
        f" {spec.unknown} unknown) and, at the end, OUT/dataset.json.{shrunk}",
        f"\b\nRAW holds:\n{spec.layout}",
        f"\b\nDownloads:\n{spec.download}",
    )
    return "\n\n".join(paragraphs)


def _add(name: str) -> None:
    """The command for one benchmark. They differ in their help, and in whether pictures may be shrunk."""
    spec = BENCHMARKS[name]
    command = prepare_app.command(
        name, help=_help(spec), short_help=f"{spec.title}: {len(spec.raw_ids)} classes.", epilog=EXIT_CODES
    )

    def as_they_are(raw: Raw, out: Out, jobs: Jobs = None, partial: Partial = False) -> None:
        _prepare(name, raw, out, jobs, partial)

    def shrinking(
        raw: Raw, out: Out, jobs: Jobs = None, partial: Partial = False, shrink: Shrink = "longer"
    ) -> None:
        _prepare(name, raw, out, jobs, partial, shrink)

    command(as_they_are if spec.limit is None else shrinking)


for _name in BENCHMARKS:
    _add(_name)


def _prepare(
    name: str, raw: Path, out: Path, jobs: int | None, partial: bool, shrink: str = "longer"
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console()
    with mistakes_in_one_line():
        from sanseg.data.prepare import BadFilesError, prepare

        try:
            with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
                task = bar.add_task("reading the release", total=None)

                def progress(done: int, total: int) -> None:
                    bar.update(task, description="pictures", completed=done, total=total)

                done = prepare(name, raw, out, jobs=jobs, partial=partial, shrink=shrink, progress=progress)
        except BadFilesError as error:
            complain(f"sanseg: {error.summary}")
            for problem in error.problems:
                complain(f"bad: {problem}")
            raise typer.Exit(SOME_FAILED) from error
        for note in done.notes:
            complain(f"note: {note}")
        table = Table("split", "pictures", "in the release")
        for split, expected in done.expected.items():
            table.add_row(split, f"{done.pictures.get(split, 0):,}", f"{expected:,}")
        console.print(table)
        console.print(
            f"{done.made:,} masks written, {done.kept:,} kept; {done.unlabelled:,} without a labelled pixel;"
            f" {done.seen} of {done.labels} labels occur"
        )
        console.print(f"{escape(str(out))} is ready: use it with --data {escape(str(out))}", soft_wrap=True)
