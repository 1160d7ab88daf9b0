"""`sanseg evaluate`: what a model is worth on labelled pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sanseg.cli.evaluation_results import Looks, document, tell, tell_differences, tell_how, write_figures
from sanseg.cli.model_options import Clip, Device, Dtype, Model, Quiet
from sanseg.cli.shell import (
    BAD_USE,
    INTERRUPTED,
    SOME_FAILED,
    app,
    check_room,
    complain,
    mistakes_in_one_line,
)
from sanseg.cli.team import Team, joined
from sanseg.cli.words_options import Templates, read_templates

if TYPE_CHECKING:
    import torch

    from sanseg.data.datasets import SegmentationSet
    from sanseg.evaluate import Answers, Evaluation
    from sanseg.expect import Figures
    from sanseg.segmenter import Segmenter
    from sanseg.vocabulary import Vocabulary

EXIT_CODES = (
    f"Exit codes: 0 all good; {SOME_FAILED} pictures were left out, or the figures are not those expected;"
    f" {BAD_USE} bad use, nothing was done; {INTERRUPTED} interrupted."
)
FEW = 4  # pictures in the figure, of the worst and of the best

# What the model in each name was trained on, where its file cannot say it: a label set.
TRAINED_ON = {"mini": "mini", "san-vit-b-16": "coco_stuff_171", "san-vit-l-14": "coco_stuff_171"}


@app.command(epilog=EXIT_CODES)
def evaluate(
    data: Annotated[list[Path], typer.Option(help="The folder of a data set; give it again for more sets.")],
    model: Model = "mini",
    clip: Clip = None,
    method: Annotated[
        str,
        typer.Option(help="What names the model's masks: san, or the slower ways simseg or maskclip."),
    ] = "san",
    split: Annotated[str, typer.Option(help="Which pictures of the set.")] = "val",
    form: Annotated[str, typer.Option(help="The form of the set; auto finds out.")] = "auto",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Words to ask for instead of the set's: a line for each of its labels, in its order."
        ),
    ] = None,
    synonyms: Annotated[
        str, typer.Option(help="How a label is made of its names: mean, or best to let the best one count.")
    ] = "mean",
    templates: Templates = None,
    flip: Annotated[bool, typer.Option("--flip", help="Look at each picture mirrored as well.")] = False,
    scales: Annotated[
        str, typer.Option(help="Look at each picture in several sizes: '0.75,1,1.25' of the model's own.")
    ] = "1",
    seen: Annotated[
        str | None,
        typer.Option(
            help="What the model was trained on, if it does not say: a file of labels, or a label set."
        ),
    ] = None,
    boundary: Annotated[bool, typer.Option(help="Measure boundaries as well.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many pictures of each set.")] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write all figures; docs/reproducing-the-paper.md says their form.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Write a PNG: worst and best pictures, confusions, reliability.")
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            help="Compare with 'authors', 'authors:ade20k_150', or a file that --json wrote;"
            " exit 1 where the mIoU differs by more than 0.1."
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    quiet: Quiet = False,
) -> None:
    """Measure a model on labelled pictures.

    Pictures are resized the evaluation's way; each set is asked its own labels, and nothing competes with them.
    Started by torchrun or accelerate launch, the processes share the pictures out.
    """
    with mistakes_in_one_line():
        check_room(json, ".json")
        check_room(figure, ".png")
        looks = Looks(model, clip, method, dtype, read_scales(scales), flip)
        sets = open_sets(data, split, form)
        words = {name: choose_words(one, labels, synonyms, templates) for name, one in sets.items()}
        with joined(device) as team:
            segmenter, answers = load_model(looks, team)
            known = read_seen(seen, model)
            expected = find_expected(expect, looks, segmenter, sets)
            console = Console(quiet=quiet or not team.leads)
            found: dict[str, Evaluation] = {}
            for name, dataset in sets.items():
                with watched(name, console) as progress:
                    encode_words(segmenter, words[name], progress)
                    found[name] = measure(
                        answers,
                        segmenter.device,
                        dataset,
                        words[name],
                        known,
                        boundary,
                        limit,
                        team,
                        progress,
                    )
                tell(name, found[name], split, console)
            differing = [
                line
                for name, figures in expected.items()
                for line in tell_differences(found[name].metrics, figures, console)
            ]
            tell_how(segmenter, looks, found.values(), console)
            if team.leads and json is not None:
                from sanseg.images import write_json

                write_json(json, document(found, sets, words, segmenter, looks))
            if team.leads and figure is not None:
                write_figures(figure, found, sets, words, answers)
    left_out = [line for one in found.values() for line in one.failures]
    if team.leads:
        for line in differing:
            complain(line)
        for line in left_out:
            complain(f"left out: {line}")
    if differing or left_out:
        raise typer.Exit(SOME_FAILED)


def read_scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError as error:
        raise ValueError(f"the scales are {text!r}: give numbers, as '0.75,1,1.25'") from error


def open_sets(folders: Sequence[Path], split: str, form: str) -> dict[str, SegmentationSet]:
    """By name; by folder, where several have the same name."""
    from sanseg.data.datasets import SegmentationSet

    opened = [(path, SegmentationSet.open(path, split, form, allow_missing=True)) for path in folders]
    names = [one.name for _, one in opened]
    sets = {one.name if names.count(one.name) == 1 else str(path): one for path, one in opened}
    if len(sets) < len(opened):
        raise ValueError("--data names the same folder twice: name each once")
    for name, one in sets.items():
        if len(one) == 0:
            raise ValueError(f"{name} has no pictures in {split!r}: choose another with --split")
    return sets


def choose_words(
    dataset: SegmentationSet, labels: Path | None, synonyms: str, templates: str | None
) -> Vocabulary:
    from dataclasses import replace

    from sanseg.data.files import read_labels, read_vocabulary

    words = dataset.vocabulary if labels is None else read_vocabulary(read_labels(labels), labels)
    if len(words.names) != len(dataset.vocabulary.names):
        raise ValueError(
            f"{labels} has {len(words.names)} labels, {dataset.name} has {len(dataset.vocabulary.names)}:"
            " write a line for each, in the order of the set"
        )
    return replace(
        words, synonyms=synonyms, templates=None if templates is None else read_templates(templates)
    )


def read_seen(seen: str | None, model: str) -> tuple[str, ...] | None:
    """What the model was trained on: as said, as its file says, or as is known of its name."""
    from sanseg.data.files import read_labels
    from sanseg.data.labelsets import LABELSETS, read_labelset
    from sanseg.model.fresh import OPEN_CLIP
    from sanseg.model.weights import seen_labels

    if seen is not None:
        return read_labelset(seen) if seen in LABELSETS else read_labels(Path(seen))
    told = () if model.startswith(OPEN_CLIP) else seen_labels(model)  # the former is not trained yet
    if not told and model in TRAINED_ON:
        return read_labelset(TRAINED_ON[model])
    return told or None


def load_model(looks: Looks, team: Team) -> tuple[Segmenter, Answers]:
    """The model with its method, and what answers: itself, or its several views."""
    from sanseg.baselines import METHODS
    from sanseg.segmenter import Segmenter, load
    from sanseg.views import MultiView

    if looks.method not in METHODS:
        raise ValueError(f"method is {looks.method!r}: choose from {', '.join(METHODS)}")
    with team.first():  # one downloads and converts
        loaded = load(looks.model, team.device, dtype=looks.dtype, clip=looks.clip)
    proposer = METHODS[looks.method](loaded.san)
    segmenter = Segmenter(loaded.san, proposer=proposer, text_cache=loaded.text_cache)
    if looks.scales == (1.0,) and not looks.flip:
        return segmenter, segmenter
    return segmenter, MultiView(segmenter, looks.scales, flip=looks.flip)


def find_expected(
    expect: str | None, looks: Looks, segmenter: Segmenter, sets: Mapping[str, SegmentationSet]
) -> dict[str, Figures]:
    """The figures to compare with, of each set."""
    if expect is None:
        return {}
    from sanseg.expect import AUTHORS, authors_figures, check_labels, find_labelset, read_figures

    figures = {}
    whose, _, benchmark = expect.partition(":")
    if whose == "authors" and looks.method != "san":
        raise ValueError(f"the authors' figures are of SAN, the method is {looks.method}: leave --method out")
    for name, dataset in sets.items():
        if whose == "authors":
            labelset = benchmark or find_labelset(dataset.vocabulary)
            if labelset is None:
                raise ValueError(
                    f"the labels of {name} are no benchmark's: say which it is, as --expect authors:ade20k_150"
                )
            figures[name] = authors_figures(
                looks.model if looks.model in AUTHORS else segmenter.san.config.name, labelset
            )
        else:
            figures[name] = read_figures(expect, name)
        check_labels(dataset.vocabulary.labels, figures[name])
    return figures


@contextmanager
def watched(name: str, console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Console(stderr=True)
    disable = console.quiet or not shown.is_terminal
    with Progress(*columns, console=shown, disable=disable, transient=True) as progress:
        yield progress


def encode_words(segmenter: Segmenter, words: Vocabulary, progress: Progress) -> None:
    task = progress.add_task("words", total=sum(map(len, words.names)) + len(words.rivals))
    segmenter.classifier(words, lambda encoded: progress.advance(task, encoded))
    progress.remove_task(task)


def measure(
    answers: Answers,
    device: torch.device,
    dataset: SegmentationSet,
    words: Vocabulary,
    seen: Sequence[str] | None,
    boundary: bool,
    limit: int | None,
    team: Team,
    progress: Progress,
) -> Evaluation:
    from sanseg.evaluate import evaluate, without_rivals

    pictures = range(len(dataset))[:limit]
    task = progress.add_task("pictures", total=len(pictures[team.rank :: team.count]))
    return evaluate(
        without_rivals(answers),
        dataset,
        lambda done: progress.advance(task, done),
        device=device,
        vocabulary=words,
        seen=seen,
        boundary=boundary,
        share=(team.rank, team.count),
        reduce=team.reduce,
        limit=limit,
        extremes=FEW,
        skip_failures=True,
    )
