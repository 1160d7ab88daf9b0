"""`sanseg words`: what a model makes of words, before any picture is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from sanseg.cli.model_options import Clip, Device, Dtype, Model, Quiet, what_computes
from sanseg.cli.shell import BAD_USE, INTERRUPTED, app, check_room, complain, mistakes_in_one_line
from sanseg.cli.words_options import (
    HowAsked,
    NoOther,
    OtherWords,
    Synonyms,
    Temperature,
    Templates,
    Threshold,
)

if TYPE_CHECKING:
    from sanseg.wording import Wording


@app.command(
    epilog=f"Exit codes: 0 all good; {BAD_USE} bad use, nothing was done; {INTERRUPTED} interrupted."
)
def words(
    classes: Annotated[
        str, typer.Argument(metavar="WORDS", help="As -c of sanseg segment: 'sofa, couch', @ade150, @FILE.")
    ],
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
    top: Annotated[int, typer.Option(min=0, help="How many pairs to list, the most alike first.")] = 10,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the cosines of all words as a PNG (needs matplotlib).")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the words for later: .safetensors with their embeddings, or .json without."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Look at words before pictures: which are alike to the model, which are odd to it, and which near them it knows.

    --save keeps them with all that was said of them; 'sanseg segment -c @FILE' asks them again.
    """
    with mistakes_in_one_line():
        from sanseg.vocabulary import Vocabulary

        check_room(picture, ".png")
        how = HowAsked(other, no_other, templates, synonyms, threshold, temperature)
        vocabulary = how.of(Vocabulary.from_text(classes, files=True))
        if save is not None:
            check_room(save, ".json" if save.suffix.lower() == ".json" else ".safetensors")
        from sanseg.segmenter import load
        from sanseg.wording import examine

        segmenter = load(model, device, dtype=dtype, clip=clip)
        console = Console(quiet=quiet)
        console.print(what_computes(model, segmenter), markup=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
            reading = bar.add_task("names of the built-in lists, once", visible=False)
            found = examine(
                segmenter,
                vocabulary,
                lambda done, of: bar.update(reading, completed=done, total=of, visible=True),
            )
        tell(found, top, console)
        if picture is not None:
            from sanseg.figures import cosines_figure
            from sanseg.images import write_bytes

            write_bytes(picture, cosines_figure(found.words, found.cosines))
        if save is not None:
            asked = segmenter.embed(vocabulary, vocabulary.other or None)
            asked.save(save)
        if segmenter.text_cache.trouble:
            complain(segmenter.text_cache.trouble)


def tell(found: Wording, top: int, console: Console) -> None:
    from sanseg.wording import MIXED_UP

    if found.pairs and top:
        table = Table("word", "and word", title="most alike")
        table.add_column("cosine", justify="right")
        table.add_column("at best", justify="right")
        for pair in found.pairs[:top]:
            hardly = " hardly" * (pair.share < MIXED_UP)
            told = Text(f"{100 * pair.share:.0f} %{hardly}")
            table.add_row(Text(pair.first), Text(pair.second), f"{pair.cosine:.3f}", told)
        console.print(table)
        console.print(
            "At best: what a word gets, of the two, in a region that looks exactly like it; 50 % is a guess."
        )
    for line in found.oddities:
        console.print(f"odd: {line}", markup=False, soft_wrap=True)
    for name, near in found.suggestions.items():
        console.print(
            f"{name}: no built-in list has it; they have {', '.join(near)}", markup=False, soft_wrap=True
        )
    for name, alike in found.meanings.items():
        listed = ", ".join(f"{other} ({cosine:.2f})" for other, cosine in alike)
        console.print(f"{name}: nearest to it in the built-in lists: {listed}", markup=False, soft_wrap=True)
