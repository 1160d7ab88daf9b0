"""What all commands share: the app, the exit codes, how a user's mistake is told, and what files of results need."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sanseg.extras import need
from sanseg.version import VERSION

# Exit codes; 0 is all good.
SOME_FAILED = 1  # at least one picture could not be segmented or saved
BAD_USE = 2  # nothing was done: something is wrong with the arguments, the words, the model or the machine
INTERRUPTED = 130  # Ctrl-C, as shells say it

EXIT_CODES = (
    f"Exit codes: 0 all good; {SOME_FAILED} some pictures failed, and are named at the end; {BAD_USE} bad use,"
    f" nothing was done; {INTERRUPTED} interrupted."
)

app = typer.Typer(
    name="sanseg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Segment anything you can name.",
    epilog=EXIT_CODES,
)


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """A user's mistake is one line on stderr, not a traceback."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read our output has left: click ends quietly
    except (ValueError, OSError) as error:
        complain(f"sanseg: {error}")
        raise typer.Exit(BAD_USE) from error
    except KeyboardInterrupt:
        complain("sanseg: interrupted")
        raise typer.Exit(INTERRUPTED) from None


def complain(line: str) -> None:
    typer.echo(" ".join(line.split()), err=True)


def check_room(path: Path | None, suffix: str) -> None:
    """Finds out before hours of work that a result could not be written. PNGs here are drawn with matplotlib."""
    if path is None:
        return
    if path.suffix.lower() != suffix or path.is_dir():
        raise ValueError(f"{path} is no name for this file: let it end in {suffix}")
    if suffix == ".png":
        need("matplotlib", "plot", path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path.parent} cannot be written to: choose another folder for {path.name}")


def commit() -> str | None:
    """Of the checkout that this package runs from, with "-dirty" where it was changed; None where it is none."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        run = subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "version.py")  # not whatever repository an environment lies in
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def sanseg(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    pass
