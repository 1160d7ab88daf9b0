"""The options that say what to look for, and how the words are asked: what several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sanseg.vocabulary import Vocabulary

Classes = Annotated[
    str,
    typer.Option(
        "--classes",
        "-c",
        help="What to look for: 'sky, tree | woods, not toy tree'. @ade150: a set that comes along; @FILE: as"
        " --labels.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="A file instead: one label a line, ' | ' between synonyms; or .json or .safetensors, see"
        " docs/VOCABULARY.md."
    ),
]
OtherWords = Annotated[
    str | None,
    typer.Option(
        "--other",
        help="What competes with the labels and means 'other': 'wall, floor'. auto: everyday words, with fewer"
        " than 20 labels. By default what the labels' file says, else auto.",
    ),
]
NoOther = Annotated[
    bool, typer.Option("--no-other", help="Nothing competes but 'not' words: the labels share the picture.")
]
Templates = Annotated[
    str | None,
    typer.Option(
        help="The prompts around each word: vild, imagenet80, plain, or a file with one a line and {} in it. By"
        " default the model's own."
    ),
]
Synonyms = Annotated[
    str | None,
    typer.Option(help="How a label is made of its names: mean, or best to let the best one count."),
]
Threshold = Annotated[
    list[str] | None,
    typer.Option(
        help="The confidence below which pixels are 'other': 0.3 for all labels, cat=0.5 for one; give it again"
        " for more."
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="Of the confidence, as sanseg calibrate fits it. By default what the labels' file says, else 1."
    ),
]


@dataclass(frozen=True)
class HowAsked:
    """What the options say of how words are asked. What is None is as a file of labels says."""

    other: str | None = None
    no_other: bool = False
    templates: str | None = None
    synonyms: str | None = None
    threshold: Sequence[str] | None = None
    temperature: float | None = None

    def of(self, vocabulary: Vocabulary) -> Vocabulary:
        """A vocabulary with what the options say in place of its own. Raises ValueError for what is wrong."""
        if self.no_other and self.other is not None:
            raise ValueError("--other and --no-other contradict each other: give one of them")
        if self.no_other:
            vocabulary = vocabulary.with_other(None)
        elif self.other is not None or not vocabulary.other:
            vocabulary = vocabulary.with_other("auto" if self.other is None else self.other)
        if self.templates is not None:
            vocabulary = replace(vocabulary, templates=read_templates(self.templates))
        if self.synonyms is not None:
            vocabulary = replace(vocabulary, synonyms=self.synonyms)
        if self.threshold:
            vocabulary = with_thresholds(vocabulary, self.threshold)
        if self.temperature is not None:
            vocabulary = replace(vocabulary, temperature=self.temperature)
        return vocabulary


def read_words(classes: str, labels: Path | None) -> Vocabulary:
    """The words of -c or of a file. Raises ValueError for none, for both, and for what is wrong with them."""
    from sanseg.vocabulary import Vocabulary

    if bool(classes) == bool(labels):
        raise ValueError("say what to look for, either -c 'sky, tree' or --labels FILE")
    return Vocabulary.from_file(labels) if labels else Vocabulary.from_text(classes, files=True)


def with_thresholds(vocabulary: Vocabulary, told: Sequence[str]) -> Vocabulary:
    """ "0.3" is the threshold of all labels, "cat=0.5" of one."""
    every, each = 0.0, {}
    for one in told:
        label, _, number = one.rpartition("=")
        try:
            threshold = float(number)
        except ValueError as error:
            raise ValueError(f"--threshold is {one!r}: give a confidence, as 0.3, or cat=0.5") from error
        if label:
            each[label] = threshold
        else:
            every = threshold
    return vocabulary.with_thresholds(every, each)


def read_templates(told: str) -> str:
    """The name of a template set, or the prompts in a file."""
    from sanseg.model.templates import TEMPLATES, prompts

    if told in TEMPLATES:
        return told
    path = Path(told)
    if not path.is_file():
        raise ValueError(
            f"--templates is {told!r}: choose from {', '.join(TEMPLATES)}, or give a file with one prompt a line"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        return "\n".join(prompts(text))
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{path} holds no prompts: {error}") from error
