"""`sanseg calibrate`: a temperature for the confidence, fitted on labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sanseg.cli.model_options import Clip, Device, Dtype, Model, Quiet, what_computes
from sanseg.cli.shell import BAD_USE, INTERRUPTED, app, check_room, complain, mistakes_in_one_line
from sanseg.cli.words_options import HowAsked, NoOther, OtherWords, Synonyms, Templates

if TYPE_CHECKING:
    from sanseg.calibration import Calibration


@app.command(
    epilog=f"Exit codes: 0 all good; {BAD_USE} bad use, nothing was done; {INTERRUPTED} interrupted."
)
def calibrate(
    data: Annotated[Path, typer.Option(help="The folder of a data set, as sanseg evaluate reads it.")],
    model: Model = "mini",
    clip: Clip = None,
    split: Annotated[str, typer.Option(help="Which pictures of the set.")] = "val",
    form: Annotated[str, typer.Option(help="The form of the set; auto finds out.")] = "auto",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Words to ask for instead of the set's, a file as of sanseg segment: a label for each of the"
            " set's, in its order."
        ),
    ] = None,
    other: OtherWords = None,
    no_other: NoOther = False,
    templates: Templates = None,
    synonyms: Synonyms = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many pictures, the first.")] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the words with their temperature: .json, or .safetensors with their embeddings."
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the reliability before and after as a PNG (needs matplotlib).")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    quiet: Quiet = False,
) -> None:
    """Fit a temperature, so that what is called 80 % sure is right 80 % of the time.

    Every second picture is fitted on, the others are tested. Words competing as 'other' take part, as when pictures
    are segmented. 'sanseg segment -c @FILE' asks the words that --save wrote, with their temperature.
    """
    with mistakes_in_one_line():
        from dataclasses import replace

        check_room(figure, ".png")
        check_room(json, ".json")
        if save is not None:
            check_room(save, ".json" if save.suffix.lower() == ".json" else ".safetensors")
        from sanseg.calibration import calibrate as fit
        from sanseg.cli.evaluate import encode_words, watched
        from sanseg.data.datasets import SegmentationSet
        from sanseg.segmenter import load
        from sanseg.vocabulary import Vocabulary

        dataset = SegmentationSet.open(data, split, form)
        own = dataset.vocabulary if labels is None else Vocabulary.from_file(labels)
        words = HowAsked(other, no_other, templates, synonyms).of(own)
        segmenter = load(model, device, dtype=dtype, clip=clip)
        console = Console(quiet=quiet)
        console.print(what_computes(model, segmenter), markup=False, soft_wrap=True)
        with watched(dataset.name, console) as progress:
            encode_words(segmenter, words, progress)
            task = progress.add_task("pictures", total=len(range(len(dataset))[:limit]))
            found = fit(
                segmenter, dataset, words, limit=limit, progress=lambda done: progress.advance(task, done)
            )
        tell(found, console)
        calibrated = replace(words, temperature=found.temperature)
        if json is not None:
            from sanseg.images import write_json
            from sanseg.version import VERSION

            write_json(json, {"sanseg": VERSION, "vocabulary": calibrated.hash, **found.to_dict()})
        if figure is not None:
            from sanseg.figures import calibration_figure
            from sanseg.images import write_bytes

            write_bytes(figure, calibration_figure(found.before, found.after, found.temperature))
        if save is not None:
            segmenter.embed(calibrated, calibrated.other or None).save(save)
            # A file cannot say that nothing competes.
            alone = " --no-other" * (not words.other and bool(words.with_other("auto").other))
            console.print(escape(f"{save} written: sanseg segment PHOTOS -c @{save}{alone}"), soft_wrap=True)
        if segmenter.text_cache.trouble:
            complain(segmenter.text_cache.trouble)


def tell(found: Calibration, console: Console) -> None:
    console.print(
        f"temperature {found.temperature:.3f} of {escape(found.model)}, fitted on {found.pixels} pixels of"
        f" {found.pictures} pictures, tested on {found.tested} others, whose pixels are right"
        f" {found.before.pacc:.2f} % of the time"
    )
    table = Table("")
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    errors = (found.before.calibration_error, found.after.calibration_error)
    table.add_row("expected calibration error on the others, %", *(f"{error:.2f}" for error in errors))
    table.add_row("negative log likelihood on the others", *(f"{loss:.4f}" for loss in found.loss))
    console.print(table)
    if errors[1] >= errors[0]:
        console.print(
            "The confidence was as good without: fit on more pictures, or leave the temperature out."
        )
