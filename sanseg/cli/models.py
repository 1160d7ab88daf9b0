"""`sanseg convert` and `sanseg models`: where weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sanseg.cli.shell import app, mistakes_in_one_line


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A .pth file of the official SAN.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    clip: Annotated[
        str | None, typer.Option(help="For a file that holds only what was trained: the model with its CLIP.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
) -> None:
    """Convert a checkpoint of the official SAN to one of ours."""
    with mistakes_in_one_line():
        from sanseg.model import weights

        weights.convert(file, out, clip=clip, overwrite=overwrite)
        typer.echo(f"{out} written: use it with --model {out}" + (f" --clip {clip}" if clip else ""))


@app.command()
def models() -> None:
    """List the models that are known by name."""
    from sanseg.model.weights import NAMED

    table = Table("model", "comes from")
    for name, origin in NAMED.items():
        if isinstance(origin, Path):
            table.add_row(name, "this package")
        else:
            table.add_row(name, f"huggingface.co/{origin.repository} ({origin.file}), at first use")
    Console().print(table)
