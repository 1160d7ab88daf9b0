"""What all commands share: the app, the exit codes, and how a user's mistake is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

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
