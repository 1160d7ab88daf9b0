"""`sanseg segment`: photos and words in, label maps out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sanseg.cli import segment_large
from sanseg.cli.model_options import Clip, Device, Dtype, Model, Quiet, what_computes
from sanseg.cli.segment_screen import Screen
from sanseg.cli.shell import EXIT_CODES, app, complain, mistakes_in_one_line
from sanseg.cli.words_options import (
    Classes,
    HowAsked,
    Labels,
    NoOther,
    OtherWords,
    Synonyms,
    Temperature,
    Templates,
    Threshold,
    read_words,
)
from sanseg.folders.start import begin_early


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
    model: Model = "mini",
    clip: Clip = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    other: OtherWords = None,
    no_other: NoOther = False,
    templates: Templates = None,
    synonyms: Synonyms = None,
    threshold: Threshold = None,
    temperature: Temperature = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="What to write, with commas: overlay, index, masks, json, csv, confidence, scores, coco-rle,"
            " coco-polygons, yolo, labelme, label-studio, cvat, geojson (docs/FORMATS.md).",
        ),
    ] = "overlay,index,json",
    simplify: Annotated[
        float,
        typer.Option(
            metavar="PIXELS",
            help="How far polygons (coco-polygons, yolo, labelme, geojson) may stray from the borders of pixels;"
            " 0 is exact.",
        ),
    ] = 0.0,
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
    window: segment_large.Window = None,
    overlap: segment_large.Overlap = None,
    bands: segment_large.Bands = "",
    stretch: segment_large.Stretch = "",
    max_megapixels: segment_large.MaxMegapixels = None,
    quiet: Quiet = False,
) -> None:
    """Segment photos into the things named.

    Writes PHOTO.index.png, whose pixels are indices into the labels, PHOTO.overlay.png and PHOTO.json.

    A folder's tree is kept in OUT, with manifest.jsonl and index.html; the same command again goes on.

    Large TIFFs go by windows, into PHOTO.index.tif and PHOTO.confidence.tif.
    """
    with mistakes_in_one_line():
        how = HowAsked(other, no_other, templates, synonyms, threshold, temperature)
        vocabulary = how.of(read_words(classes, labels))
        patterns = tuple(include or ()), tuple(exclude or ())
        large = segment_large.Large(window, overlap, bands, stretch, max_megapixels)
        is_folder = any(Path(photo).is_dir() for photo in photos)
        if not is_folder and (overwrite or any(patterns)):
            raise ValueError("--include, --exclude and --overwrite are for folders: give one")
        if workers > 1:
            begin_early()
        from sanseg.folders.folder import Crew, segment_files, segment_folder
        from sanseg.folders.keep import ENCODED, holds_earlier
        from sanseg.folders.manifest import check_folder
        from sanseg.folders.walk import Patterns, find_files, find_folder, stems
        from sanseg.folders.work import Settings
        from sanseg.formats import check, check_installed, check_simplify
        from sanseg.segmenter import load

        check_folder(out)
        chosen = check(name.strip() for name in formats.split(","))
        kept = out / ENCODED if keep_encoded and encoded is None else encoded
        check_simplify(simplify, chosen)
        settings = Settings(out, vocabulary, chosen, kept, simplify=simplify)
        found = find_folder(photos, out, Patterns(*patterns)) if is_folder else None
        paths = [] if is_folder else find_files(photos, out)
        stem_of = dict(zip(paths, stems([path.name for path in paths]), strict=True))
        by_windows = {path: stem_of.pop(path) for path in paths if large.takes(path)}
        options = large.options(chosen, simplify) if by_windows else None
        if is_folder or stem_of:
            check_installed(chosen)
        loader = partial(load, model, device, dtype=dtype, clip=clip)
        crew = Crew(loader(), loader, workers)
        console = Console(quiet=quiet)
        screen = Screen(console, out)
        screen.say(what_computes(model, crew.segmenter))
        if kept is not None and holds_earlier(kept):
            complain(f"sanseg: pictures kept in {kept} by an earlier version are encoded again")
        with screen:
            screen.read_words(crew.segmenter, vocabulary)
            if found is None:
                screen.begin(len(stem_of))
                outcome = segment_files(stem_of, crew, settings, each=screen.table)
            else:
                outcome = segment_folder(
                    found,
                    crew,
                    settings,
                    overwrite=overwrite,
                    by_windows=large.of_a_folder(screen.windows),
                    planned=screen.planned,
                    each=screen.line,
                )
        if options is not None and not outcome.stopped:
            failed = segment_large.segment_by_windows(
                crew.segmenter, vocabulary, by_windows, out, options, console
            )
            outcome = outcome.and_by_windows(len(by_windows), failed)
        if crew.segmenter.text_cache.trouble:
            complain(crew.segmenter.text_cache.trouble)
        screen.end(outcome)
    screen.end_with_code(outcome, overwrite=overwrite)
