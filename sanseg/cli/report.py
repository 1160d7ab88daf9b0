"""`sanseg report`: a training run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sanseg.cli.shell import app, mistakes_in_one_line


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a training run, finished or not.")],
) -> None:
    """Write report.html into the folder of a training run: curves, figures for each label, pictures.

    'sanseg train' does so itself when it ends; this looks at a run that still goes on, or that died.
    """
    with mistakes_in_one_line():
        from sanseg.report import write_report

        typer.echo(f"{write_report(run)} written")
