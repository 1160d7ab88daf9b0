"""`sanseg segment`: photos and words in, label maps out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sanseg.cli import segment_large
from sanseg.cli.shell import EXIT_CODES, SOME_FAILED, app, complain, mistakes_in_one_line

if TYPE_CHECKING:
    from rich.table import Table

    from sanseg.images import ImageSource
    from sanseg.segmentation import Segmentation
    from sanseg.segmenter import Segmenter
    from sanseg.vocabulary import Vocabulary


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
    dtype: Annotated[
        str,
        typer.Option(help="float32, bfloat16, float16. auto: bfloat16 where the device has it natively."),
    ] = "float32",
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
    window: segment_large.Window = None,
    overlap: segment_large.Overlap = None,
    bands: segment_large.Bands = "",
    stretch: segment_large.Stretch = "",
    max_megapixels: segment_large.MaxMegapixels = None,
    geojson: segment_large.GeoJSON = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Segment photos into the things named.

    Writes PHOTO.index.png, whose pixels are indices into the labels, and beside it the overlay and the numbers.
    Large TIFFs go by windows, into PHOTO.index.tif and PHOTO.confidence.tif.
    """
    with mistakes_in_one_line():
        if no_other and other != "auto":
            raise ValueError("--other and --no-other contradict each other: give one of them")
        vocabulary = read_words(classes, labels, None if no_other else other)
        large = segment_large.Large(window, overlap, bands, stretch, max_megapixels, geojson)
        large_options = large.options(overlay=overlay, json=json)
        from sanseg.devices import name_dtype
        from sanseg.images import find_images
        from sanseg.segmenter import load

        paths = find_images(photos)
        segmenter = load(model, device, dtype=dtype, clip=clip)
        console = Console(quiet=quiet)
        console.print(f"{escape(model)} on {segmenter.device} in {name_dtype(segmenter.san.nothing.dtype)}")
        stem_of = dict(zip(paths, stems(paths), strict=True))
        plain, by_windows = segment_large.apart(paths, large)
        stem_of_plain = {path: stem_of[path] for path in plain}
        failed = segment_all(segmenter, vocabulary, stem_of_plain, out, console, overlay=overlay, json=json)
        stem_of_large = {path: stem_of[path] for path in by_windows}
        failed += segment_large.segment_by_windows(
            segmenter, vocabulary, stem_of_large, out, large_options, console
        )
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
    stem_of: Mapping[Path, str],
    out: Path,
    console: Console,
    *,
    overlay: bool,
    json: bool,
) -> list[str]:
    """Segments, saves and tells of each picture. Returns a line for each that failed."""
    from sanseg.segmenter import Failure

    paths = list(stem_of)

    def save(path: ImageSource, result: Segmentation) -> tuple[str, Table]:
        assert isinstance(path, Path)
        files = result.save(out, stem_of[path], overlay=overlay, json=json)
        return ", ".join(map(str, files.values())), result.table()

    failed = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        words = progress.add_task("words", total=sum(map(len, vocabulary.names)) + len(vocabulary.other))
        segmenter.classifier(vocabulary, lambda encoded: progress.advance(words, encoded))
        progress.remove_task(words)
        # vocabulary.other, even if it is (): "auto" would find some.
        with closing(segmenter.segment_each(paths, vocabulary, save, vocabulary.other)) as saved:
            tracked = progress.track(paths, description="pictures")
            for path, done in zip(tracked, saved, strict=True):
                if isinstance(done, Failure):
                    reason = str(done.error)
                    failed.append(reason if str(path) in reason else f"{path}: {reason}")
                else:
                    files, table = done
                    console.print(f"\n{escape(str(path))} -> {escape(files)}", soft_wrap=True)
                    console.print(table)
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
