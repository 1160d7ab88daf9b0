"""`sanseg export`: the picture's half of a network as one file for torch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sanseg.cli.model_options import Clip, Model
from sanseg.cli.shell import BAD_USE, INTERRUPTED, app, mistakes_in_one_line

EXIT_CODES = f"Exit codes: 0 all good; {BAD_USE} bad use, nothing was written; {INTERRUPTED} interrupted."


@app.command(epilog=EXIT_CODES)
def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="The .pt2 file to write.")],
    model: Model = "mini",
    clip: Clip = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Write the network from picture to masks and region embeddings as a program of torch.export.

    It takes one picture of any height and width, float32 on the CPU, and was compared with the network on another
    size than it was made with. Words still need the model: see sanseg.export.Exported.
    """
    with mistakes_in_one_line():
        from sanseg.export import export_san
        from sanseg.model.weights import load_san

        export_san(out, load_san(model, clip=clip), overwrite=overwrite)
        typer.echo(f"{out} written")
