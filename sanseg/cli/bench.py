"""`sanseg bench`: what a photo costs, stage by stage, beside its matrix products."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sanseg.cli.claims import compare, tell_claims, told_of
from sanseg.cli.model_options import Clip, Device, Model, Quiet
from sanseg.cli.shell import BAD_USE, INTERRUPTED, app, check_room, commit, mistakes_in_one_line

if TYPE_CHECKING:
    from sanseg.benchmark import Case, Measured, Report, Times
    from sanseg.benchmark.claims import Claims
    from sanseg.benchmark.rounds import Progress as Told

EXIT_CODES = f"Exit codes: 0 all good; {BAD_USE} bad use, or too little memory; {INTERRUPTED} interrupted."


@app.command(epilog=EXIT_CODES)
def bench(
    model: Model = "mini",
    clip: Clip = None,
    random: Annotated[
        bool, typer.Option("--random", help="The model's network with random weights: nothing is downloaded.")
    ] = False,
    photo: Annotated[
        Path | None, typer.Option(help="A photo to measure with, resized to --size; else blurred noise.")
    ] = None,
    size: Annotated[tuple[int, int], typer.Option(help="Of the photo: height and width.")] = (640, 640),
    labels: Annotated[int, typer.Option(min=1, help="How many are asked for.")] = 171,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="float32 (by default), bfloat16, float16 or auto; give it again for several."),
    ] = None,
    device: Device = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured, in turn.")] = 7,
    plain: Annotated[
        bool,
        typer.Option(
            help="Measure the plain formulas too; they hold a float for each query, label and pixel."
        ),
    ] = True,
    claims: Annotated[
        bool,
        typer.Option(
            "--claims",
            help="Measure SAN beside what its speed is claimed against, SimSeg and MaskCLIP, instead.",
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="With --claims: a data set, for the accuracy of each on its val pictures."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --data: only so many pictures.")] = None,
    figure: Annotated[Path | None, typer.Option(help="With --claims: draw it, as a PNG.")] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write all figures, those of each round included.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure what a photo costs: time, operations, memory.

    A photo in memory goes to its label map, stage by stage. Beside each stage stands the time that its matrix products
    take by themselves (the bound), measured in the same rounds. Times are medians, with the 10th and the 90th
    percentile; ratios are medians of the rounds' own. Threads are torch's; set OMP_NUM_THREADS to change them.
    --claims asks another question: how long do the methods that SAN is compared with take, on the same CLIP and masks?
    """
    with mistakes_in_one_line():
        check_room(json, ".json")
        check_room(figure, ".png")
        case = read_case(model, clip, random, photo, size, labels, device)
        from sanseg.benchmark import measure
        from sanseg.devices import find_dtype, name_dtype

        dtypes = [name_dtype(find_dtype(name, case.device)) for name in dtype or ["float32"]]
        report: Report | Claims
        if claims:
            with watched(quiet) as progress:
                report = compare(case, dtypes, rounds, data, limit, figure, progress)
            tell_claims(report, Console(quiet=quiet))
        elif data or limit or figure:
            raise ValueError("--data, --limit and --figure are for --claims: add it, or leave them out")
        else:
            with watched(quiet) as progress:
                report = measure(case, dtypes, rounds, with_plain=plain, progress=progress)
            tell(report, Console(quiet=quiet))
        if json is not None:
            from sanseg.images import write_json

            how = {"command": shlex.join(["sanseg", *sys.argv[1:]]), "commit": commit()}
            write_json(json, how | report.to_dict())


def read_case(
    model: str,
    clip: str | None,
    random: bool,
    photo: Path | None,
    size: tuple[int, int],
    labels: int,
    device: str,
) -> Case:
    from sanseg.benchmark import Case
    from sanseg.devices import find_device
    from sanseg.model.config import SAN_MINI, SAN_VIT_B16, SAN_VIT_L14

    configs = {config.name: config for config in (SAN_MINI, SAN_VIT_B16, SAN_VIT_L14)}
    if random and (model not in configs or clip is not None):
        raise ValueError(
            f"--random is for the networks of {', '.join(configs)} and needs no --clip, the model is {model!r}:"
            " choose one, or leave --random out"
        )
    network = configs[model] if random else model
    return Case(network, size, labels, str(find_device(device)), clip, str(photo) if photo else None)


@contextmanager
def watched(quiet: bool) -> Iterator[Told]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = Console(stderr=True)
    with Progress(*columns, console=shown, disable=quiet or not shown.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield progress


def tell(report: Report, console: Console) -> None:
    """Prints a table for each dtype, and a line for each other figure."""
    parameters = f"{report.parameters:,} parameters, {report.trained:,} of them trained"
    for line in [*told_of(report), parameters]:
        console.print(escape(line), soft_wrap=True)
    for dtype, measured in report.dtypes.items():
        console.print()
        console.print(stages(dtype, measured))
        for line in lines(report, dtype, measured):
            console.print(line, soft_wrap=True)


def stages(dtype: str, measured: Measured) -> Table:
    table = Table("stage", title=dtype)
    for heading in ("ms", "p10-p90", "share", "GFLOP", "bound ms", "ratio"):
        table.add_column(heading, justify="right")
    staged = sum(stage.time.median for stage in measured.stages.values())
    for name, stage in measured.stages.items():
        share = f"{100 * stage.time.median / staged:.1f} %"
        if stage.ratio is None:
            table.add_row(name, *spread(stage.time), share, "-", "-", "-")
        else:
            bound = f"{stage.bound.median:.1f}"
            table.add_row(name, *spread(stage.time), share, f"{stage.gflop:.1f}", bound, f"{stage.ratio:.2f}")
    ratio = measured.whole.over(measured.bound)
    bound = f"{measured.bound.median:.1f}"
    table.add_section()
    table.add_row("whole", *spread(measured.whole), "", f"{measured.gflop:.1f}", bound, f"{ratio:.2f}")
    return table


def spread(times: Times) -> tuple[str, str]:
    return f"{times.median:.1f}", f"{times.quantile(10):.1f}-{times.quantile(90):.1f}"


def lines(report: Report, dtype: str, measured: Measured) -> Iterator[str]:
    whole = measured.whole
    median, between = spread(measured.vocabulary)
    yield (
        f"a new vocabulary on the encoded picture: {median} ms ({between}),"
        f" {100 * measured.vocabulary.over(whole):.1f} % of the whole"
    )
    yield (
        f"its words for the first time: {measured.text_first:.0f} ms; from the cache's file:"
        f" {measured.text_cached:.0f} ms"
    )
    if measured.plain is not None and measured.agreement is not None:
        median, between = spread(measured.plain)
        yield (
            f"by the plain formulas: {median} ms ({between}), {measured.plain.over(whole):.2f} times the whole;"
            f" {100 * measured.agreement:.2f} % of the pixels agree"
        )
    yield f"memory beside the model: {megabytes(measured.memory)}" + (
        f"; by the plain formulas: {megabytes(measured.plain_memory)}" if measured.plain else ""
    )
    faster = report.faster(dtype)
    if faster is not None and dtype != "float32":
        yield f"{faster:.2f} times as fast as float32"


def megabytes(size: int | None) -> str:
    return "not measured on this system" if size is None else f"{size / 1e6:.0f} MB"
