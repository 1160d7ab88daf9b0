"""`sanseg segment`: photos and words in, label maps out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sanseg.cli.segment_screen import Screen
from sanseg.cli.shell import EXIT_CODES, INTERRUPTED, SOME_FAILED, app, complain, mistakes_in_one_line

if TYPE_CHECKING:
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
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Only such pictures of a folder: '*.jpg', 'trip/*', or a folder's name. Repeatable."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Not such pictures; as --include, and stronger. Repeatable.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Remove what an earlier run of a folder wrote, and do all again."),
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Processes that share the pictures; each loads the model.")
    ] = 1,
    keep_encoded: Annotated[
        bool,
        typer.Option(
            "--keep-encoded", help="Keep what the network says of each picture: new words need no network."
        ),
    ] = False,
    encoded: Annotated[
        Path | None, typer.Option(help="Keep that in this folder, not in OUT/.encoded.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Segment photos into the things named.

    Writes PHOTO.index.png, whose pixels are indices into the labels, and beside it the overlay and the numbers. A
    folder's tree is kept in OUT, with manifest.jsonl, index.html, and what is done already left alone.
    """
    with mistakes_in_one_line():
        if no_other and other != "auto":
            raise ValueError("--other and --no-other contradict each other: give one of them")
        vocabulary = read_words(classes, labels, None if no_other else other)
        patterns = tuple(include or ()), tuple(exclude or ())
        is_folder = any(Path(photo).is_dir() for photo in photos)
        if not is_folder and (overwrite or any(patterns)):
            raise ValueError("--include, --exclude and --overwrite are for folders: give one")
        from sanseg.devices import name_dtype
        from sanseg.folders.folder import Crew, segment_files, segment_folder
        from sanseg.folders.keep import ENCODED
        from sanseg.folders.walk import Patterns, find_files, find_folder
        from sanseg.folders.work import Settings
        from sanseg.segmenter import load

        kinds = {"overlay": overlay, "index": True, "json": json}
        formats = tuple(kind for kind, wanted in kinds.items() if wanted)
        kept = out / ENCODED if keep_encoded and encoded is None else encoded
        settings = Settings(out, vocabulary, formats, kept)
        found = find_folder(photos, out, Patterns(*patterns)) if is_folder else None
        paths = [] if is_folder else find_files(photos, out)
        loader = partial(load, model, device, dtype=dtype, clip=clip)
        crew = Crew(loader(), loader, workers)
        network = crew.segmenter.san
        screen = Screen(Console(quiet=quiet), out)
        screen.say(f"{model} on {crew.segmenter.device} in {name_dtype(network.nothing.dtype)}")
        with screen:
            screen.read_words(crew.segmenter, vocabulary)
            if found is None:
                screen.begin(len(paths))
                outcome = segment_files(paths, crew, settings, each=screen.table)
            else:
                outcome = segment_folder(
                    found, crew, settings, overwrite=overwrite, planned=screen.planned, each=screen.line
                )
        if crew.segmenter.text_cache.trouble:
            complain(crew.segmenter.text_cache.trouble)
        screen.end(outcome)
    for name, reason in outcome.failed:
        complain(f"failed: {reason if name in reason else f'{name}: {reason}'}")
    if outcome.stopped:
        complain(f"sanseg: interrupted{screen.how_to_go_on(outcome, overwrite=overwrite)}")
        raise typer.Exit(INTERRUPTED)
    if outcome.failed:
        raise typer.Exit(SOME_FAILED)


def read_words(classes: str, labels: Path | None, other: str | None) -> Vocabulary:
    from sanseg.vocabulary import Vocabulary

    if bool(classes) == bool(labels):
        raise ValueError("say what to look for, either -c 'sky, tree' or --labels FILE")
    vocabulary = Vocabulary.from_text(classes) if labels is None else Vocabulary.from_file(labels)
    return vocabulary.with_other(other)
