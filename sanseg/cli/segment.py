"""`sanseg segment`: photos and words in, label maps out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sanseg.cli.shell import EXIT_CODES, SOME_FAILED, app, complain, mistakes_in_one_line
from sanseg.cli.words_options import (
    Classes,
    Labels,
    NoOther,
    OtherWords,
    Synonyms,
    Temperature,
    Templates,
    Threshold,
    read_words,
)

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
    classes: Classes = "",
    labels: Labels = None,
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
    other: OtherWords = None,
    no_other: NoOther = False,
    templates: Templates = None,
    synonyms: Synonyms = None,
    threshold: Threshold = None,
    temperature: Temperature = None,
    formats: Annotated[
        str, typer.Option("--format", help="What to write, with commas; docs/FORMATS.md says what each is.")
    ] = "overlay,index,json",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Segment photos into the things named.

    Writes PHOTO.index.png, whose pixels are indices into the labels, and beside it the overlay and the numbers; or
    other formats: masks, csv, confidence, scores, coco-rle, coco-polygons, yolo, labelme, label-studio, cvat, geojson.
    """
    with mistakes_in_one_line():
        vocabulary = read_words(
            classes,
            labels,
            other,
            no_other,
            templates=templates,
            synonyms=synonyms,
            threshold=threshold,
            temperature=temperature,
        )
        from sanseg.devices import name_dtype
        from sanseg.formats import check
        from sanseg.images import find_images
        from sanseg.segmenter import load

        chosen = check(name.strip() for name in formats.split(","))
        paths = find_images(photos)
        segmenter = load(model, device, dtype=dtype, clip=clip)
        console = Console(quiet=quiet)
        console.print(f"{escape(model)} on {segmenter.device} in {name_dtype(segmenter.san.nothing.dtype)}")
        failed = segment_all(segmenter, vocabulary, paths, out, console, chosen)
        if segmenter.text_cache.trouble:
            complain(segmenter.text_cache.trouble)
        console.print(
            f"{len(paths) - len(failed)} of {len(paths)} segmented into {escape(str(out.resolve()))}"
        )
    for line in failed:
        complain(f"failed: {line}")
    if failed:
        raise typer.Exit(SOME_FAILED)


def segment_all(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    paths: Sequence[Path],
    out: Path,
    console: Console,
    formats: Sequence[str],
) -> list[str]:
    """Segments, saves and tells of each picture. Returns a line for each that failed."""
    from sanseg.formats import FORMATS
    from sanseg.segmenter import Failure

    stem_of = dict(zip(paths, stems(paths), strict=True))

    def save(path: ImageSource, result: Segmentation) -> tuple[str, Table]:
        assert isinstance(path, Path)
        files = result.save(out, stem_of[path], formats, picture=path.name)
        return ", ".join(map(str, files.values())), result.table()

    failed = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        words = progress.add_task("words", total=sum(map(len, vocabulary.names)) + len(vocabulary.rivals))
        segmenter.classifier(vocabulary, lambda encoded: progress.advance(words, encoded))
        progress.remove_task(words)
        # vocabulary.other, even if it is (): "auto" would find some.
        queries = any(FORMATS[name].queries for name in formats)
        with closing(
            segmenter.segment_each(paths, vocabulary, save, vocabulary.other, proposals=queries)
        ) as saved:
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
