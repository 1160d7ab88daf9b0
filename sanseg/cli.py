"""The command `sanseg`. Whatever loads torch is imported inside the commands, so that --help answers at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from sanseg.version import VERSION

if TYPE_CHECKING:
    from sanseg.segmenter import Segmenter
    from sanseg.vocabulary import Vocabulary

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


def main() -> None:
    """The entry point."""
    app()


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


@app.command(epilog=EXIT_CODES)
def segment(
    photos: Annotated[
        list[str], typer.Argument(help="Pictures, folders of pictures, or patterns: 'trip/*.jpg'.")
    ],
    classes: Annotated[
        str, typer.Option("--classes", "-c", help="What to look for: 'sky, tree | woods, building'.")
    ] = "",
    labels: Annotated[
        Path | None, typer.Option(help="A file instead, one label a line, ' | ' between synonyms.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for results; files of the same name are replaced.")
    ] = Path("segmented"),
    model: Annotated[str, typer.Option(help="A name ('sanseg models' lists them) or a checkpoint.")] = "mini",
    clip: Annotated[
        str | None,
        typer.Option(help="For a checkpoint that is only an adapter: the one whose CLIP it needs."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:1, mps or cpu.")] = "auto",
    other: Annotated[
        str,
        typer.Option(
            help="What competes with the labels and means 'other': 'wall, floor'. auto: everyday words."
        ),
    ] = "auto",
    no_other: Annotated[
        bool, typer.Option("--no-other", help="Nothing competes: the labels share the whole picture.")
    ] = False,
    overlay: Annotated[bool, typer.Option(help="Write PHOTO.overlay.png, the picture painted.")] = True,
    json: Annotated[bool, typer.Option(help="Write PHOTO.json, the numbers.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Segment photos into the things named.

    Writes PHOTO.index.png, whose pixels are indices into the labels, and beside it the overlay and the numbers.
    """
    with mistakes_in_one_line():
        if no_other and other != "auto":
            raise ValueError("--other and --no-other contradict each other: give one of them")
        vocabulary = read_words(classes, labels, None if no_other else other)
        from sanseg.images import find_images
        from sanseg.segmenter import load

        paths = find_images(photos)
        segmenter = load(model, device, clip=clip)
        console = Console(quiet=quiet)
        failed = segment_all(segmenter, vocabulary, paths, out, console, overlay=overlay, json=json)
        if segmenter.text_cache.trouble:
            complain(segmenter.text_cache.trouble)
        console.print(
            f"{len(paths) - len(failed)} of {len(paths)} segmented into {escape(str(out.resolve()))}"
        )
    for line in failed:
        complain(f"failed: {line}")
    if failed:
        raise typer.Exit(SOME_FAILED)


def read_words(classes: str, labels: Path | None, other: str | None) -> Vocabulary:
    from sanseg.vocabulary import Vocabulary

    if bool(classes) == bool(labels):
        raise ValueError("say what to look for, either -c 'sky, tree' or --labels FILE")
    vocabulary = Vocabulary.from_text(classes) if labels is None else Vocabulary.from_file(labels)
    return vocabulary.with_other(other)


def segment_all(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    paths: Sequence[Path],
    out: Path,
    console: Console,
    *,
    overlay: bool,
    json: bool,
) -> list[str]:
    """Segments, saves and tells of each picture. Returns a line for each that failed."""
    from sanseg.segmenter import Failure

    failed = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        words = progress.add_task("words", total=sum(map(len, vocabulary.names)) + len(vocabulary.other))
        segmenter.classifier(vocabulary, lambda encoded: progress.advance(words, encoded))
        progress.remove_task(words)
        results = segmenter.segment_many(
            paths, vocabulary, vocabulary.other
        )  # () too: "auto" would find some
        named = zip(progress.track(paths, description="pictures"), stems(paths), results, strict=True)
        for path, stem, result in named:
            try:
                if isinstance(result, Failure):
                    raise result.error
                files = result.save(out, stem, overlay=overlay, json=json)
            except (OSError, ValueError) as error:
                reason = str(error)
                failed.append(reason if str(path) in reason else f"{path}: {reason}")
                continue
            console.print(
                f"\n{escape(str(path))} -> {escape(', '.join(map(str, files.values())))}", soft_wrap=True
            )
            console.print(result.table())
    return failed


def stems(paths: Sequence[Path]) -> list[str]:
    """A file name without suffix for each picture: its own, numbered where several share it."""
    taken: set[str] = set()
    chosen = []
    for path in paths:
        names = (path.stem if number == 1 else f"{path.stem}-{number}" for number in count(1))
        stem = next(name for name in names if name.casefold() not in taken)
        taken.add(stem.casefold())  # some file systems do not tell Cat from cat
        chosen.append(stem)
    return chosen


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
