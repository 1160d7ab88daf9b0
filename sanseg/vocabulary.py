"""Words: labels, their synonyms, what competes with them, and how sure an answer must be. No model is needed.

A comma separates labels in a text, ` | ` separates synonyms everywhere, a file holds one label a line.
In a text, "not X" competes with the labels and is none of them, "@NAME" stands for a label set, and a backslash before
a label takes it as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from reprlib import repr as shown
from typing import TYPE_CHECKING, Any

from sanseg.data.labelsets import read_labelset
from sanseg.distractors import distractors
from sanseg.model.templates import TEMPLATES, prompts

if TYPE_CHECKING:
    from sanseg.vocabulary_files import Embeddings

Colour = tuple[int, int, int]
"""RGB, 0..255."""

FEW = 20  # below this many labels, distractors compete by default: an argmax over one word paints everything
MAX_CHARACTERS = 256  # CLIP reads 77 tokens at most; the longest benchmark name has 113 characters
MAX_LABELS = 65_534  # what a uint16 label map has room for, beside OTHER and unknown
COOLEST, HOTTEST = 0.01, 100.0  # temperatures beyond which shares are 0 and 1, or all the same

# How the synonyms of a label become rows of a classifier.
SYNONYMS = {
    "mean": "one row for each label, the mean of its names",
    "best": "a row for each name: the label scores what the best of its names does",
}


def other_id(labels: int) -> int:
    """The id of "other" in a label map with this many labels.

    254 in a uint8 map, for at most 254 labels; else 65534 in a uint16 map. The next id, 255 or 65535, means
    unknown in training masks, and no label map made here holds it.
    """
    return 254 if labels <= 254 else 65_534


@dataclass(frozen=True)
class Vocabulary:
    """What a picture is asked for. Compares and hashes by its contents.

    names: for each label its synonyms, at least one, in the order given. The first is the label itself.
        White space is folded. Labels made of the same names, whatever their case, are merged into the first.
    other: distractor words, each of which competes and means "other" where it wins.
    templates: the prompt set, as `model.templates.prompts` reads it; None is the one the model was trained with.
    synonyms: how a label is made of its names, a key of SYNONYMS.
    negatives: words that compete like those of `other`, whatever else does: "toy car" beside the label "red car".
    thresholds: for each label the confidence, in [0, 1], below which its pixels are "other"; () for none.
    temperature: the confidence of a pixel is the winner's share of the scores to the power of 1 / temperature.
        `calibration` fits it, for a model; it moves no pixel to another label, thresholds aside.
    colours: for each label its colour, or None for one that is chosen; () for none.
    embeddings: of these words, for a model; what they lack goes through the model's text tower. No part of `hash`.

    Raises ValueError for no labels, more than MAX_LABELS, names that are blank, over-long, unprintable or hold a bar,
    a word that belongs to two different labels, a distractor or negative that is also a label, an unknown
    `synonyms` or `templates`, and thresholds, temperature and colours that are out of range or not one a label.
    """

    names: tuple[tuple[str, ...], ...]
    other: tuple[str, ...] = ()
    templates: str | None = None
    synonyms: str = "mean"
    negatives: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    temperature: float = 1.0
    colours: tuple[Colour | None, ...] = ()
    embeddings: Embeddings | None = None

    def __post_init__(self) -> None:
        if any(isinstance(names, str) for names in self.names):
            raise ValueError(
                "names is a tuple of synonyms for each label: use Vocabulary.of for a list of strings"
            )
        object.__setattr__(self, "names", _merge(tuple(_clean(n) for n in names) for names in self.names))
        negatives = _unique(_clean(word) for word in self.negatives)
        object.__setattr__(self, "negatives", negatives)
        refused = {word.casefold() for word in negatives}
        other = (word for word in map(_clean, self.other) if word.casefold() not in refused)
        object.__setattr__(self, "other", _unique(other))
        if self.synonyms not in [*SYNONYMS]:  # files may hold what has no hash
            raise ValueError(
                f"synonyms cannot be taken as {shown(self.synonyms)}: choose from {', '.join(SYNONYMS)}"
            )
        if self.templates is not None and self.templates not in TEMPLATES:
            object.__setattr__(self, "templates", "\n".join(prompts(self.templates)))
        if not self.names:
            raise ValueError("there are no labels: name at least one, as in 'sky, tree'")
        if len(self.names) > MAX_LABELS:
            raise ValueError(f"{len(self.names)} labels, at most {MAX_LABELS} fit a label map: ask in parts")
        self._check_rivals()
        self._check_settings()

    def _check_rivals(self) -> None:
        spoken_for = {name.casefold() for names in self.names for name in names}
        for words, kind in ((self.other, "an other word"), (self.negatives, "a negative word")):
            for word in words:
                if word.casefold() in spoken_for:
                    raise ValueError(f"{word!r} is a label and {kind}: take it out of one of them")

    def _check_settings(self) -> None:
        for what, values in (("thresholds", self.thresholds), ("colours", self.colours)):
            if values and len(values) != len(self.names):
                raise ValueError(f"{len(values)} {what} for {len(self.names)} labels: give one for each")
        for threshold in self.thresholds:
            if not _is_number(threshold) or not 0 <= threshold <= 1:  # nor NaN
                raise ValueError(f"a threshold is {shown(threshold)}: wanted a confidence, from 0 to 1")
        if not _is_number(self.temperature) or not COOLEST <= self.temperature <= HOTTEST:
            raise ValueError(
                f"the temperature is {shown(self.temperature)}: wanted {COOLEST:g} to {HOTTEST:g}"
            )
        for colour in self.colours:
            if colour is not None and (
                len(colour) != 3 or not all(type(part) is int and 0 <= part <= 255 for part in colour)
            ):
                raise ValueError(
                    f"a colour is {shown(colour)}: wanted red, green and blue, from 0 to 255 each"
                )
        # Nothing said and nothing asked for is the same.
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "thresholds", tuple(map(float, self.thresholds)) * any(self.thresholds))
        object.__setattr__(
            self, "colours", self.colours if any(one is not None for one in self.colours) else ()
        )

    @classmethod
    def of(cls, words: str | Sequence[str] | Vocabulary) -> Vocabulary:
        """From a text ("sky, tree | woods"), a list of labels taken whole, or a Vocabulary, kept as it is."""
        if isinstance(words, Vocabulary):
            return words
        if isinstance(words, str):
            return cls.from_text(words)
        if not isinstance(words, Sequence) or isinstance(words, bytes):
            raise ValueError(
                f"a vocabulary cannot be read from {type(words).__name__}: give a list of strings,"
                " a text with commas, or Vocabulary.from_file(path)"
            )
        return cls(tuple(_synonyms(label) for label in words))

    @classmethod
    def from_text(cls, text: str, *, files: bool = False) -> Vocabulary:
        """From "sky, tree | woods, not toy tree": a comma separates labels, a bar synonyms.

        "not X" is a negative word (`negatives`), in any case; "nothing" and "not" alone are labels. "@NAME" stands
        for the labels of a built-in set, "@ade150". A backslash before a label takes it as it is: "\\not found".

        files: "@PATH" may also be a file, as `from_file` reads it; what it says beside labels holds where it is the
            whole text. False by default: a text may come from strangers.
        Raises ValueError for a text that makes no vocabulary, and for sets and files that are not there or, among
        other labels, say more than labels; OSError for a file that cannot be read.
        """
        if text.strip().startswith("@") and "," not in text:
            return cls._opened(text.strip()[1:], files)
        labels: list[tuple[str, ...]] = []
        negatives: list[str] = []
        for item in map(str.strip, text.split(",")):
            parts = item.split(maxsplit=1)
            if item.startswith("@"):
                labels += cls._opened(item[1:], files)._plain(item)
            elif len(parts) == 2 and parts[0].casefold() == "not":
                negatives += _synonyms(parts[1], text)
            else:
                labels.append(_synonyms(item.removeprefix("\\"), text))
        return cls(tuple(labels), negatives=tuple(negatives))

    @classmethod
    def named(cls, name: str) -> Vocabulary:
        """A label set that comes with the package: "ade150", "coco-stuff"; see `data.labelsets`.

        Raises ValueError, with the names there are, for another.
        """
        return cls(tuple(_synonyms(label) for label in read_labelset(name)))

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Vocabulary:
        """From a file: labels one a line, or what `save` and people write as .json and .safetensors.

        A file of lines is UTF-8; the whole line is the name, commas included, ` | ` separates synonyms, and blank
        lines are skipped. docs/VOCABULARY.md has what .json may hold. Raises OSError for a file that cannot be
        read, ValueError for what is not UTF-8 or makes no vocabulary.
        """
        from sanseg.vocabulary_files import READERS

        path = Path(path)
        if path.suffix.lower() in READERS:
            return READERS[path.suffix.lower()](path)
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
        labels = [line for line in lines if line.strip()]
        if not labels:
            raise ValueError(f"{path} holds no labels: write one a line")
        return cls(tuple(_synonyms(label) for label in labels))

    @classmethod
    def _opened(cls, name: str, files: bool) -> Vocabulary:
        try:
            return cls.named(name)
        except ValueError as error:
            if not files:
                raise
            if not Path(name).is_file():
                raise ValueError(f"{error}; nor is there a file of this name") from error
        return cls.from_file(name)

    def _plain(self, item: str) -> tuple[tuple[str, ...], ...]:
        if replace(self, embeddings=None) != Vocabulary(self.names):
            raise ValueError(f"{item} says more than labels: give it alone, as -c {item}")
        return self.names

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a file that `from_file` reads: .json, or .safetensors with the embeddings (`Segmenter.embed`).

        The file is whole or absent, and the same words give the same bytes. Raises ValueError for another ending,
        and for .safetensors without embeddings; OSError where the disk refuses.
        """
        from sanseg.vocabulary_files import WRITERS

        ending = Path(path).suffix.lower()
        if ending not in WRITERS:
            raise ValueError(f"{path} is no name for a vocabulary: let it end in {' or '.join(WRITERS)}")
        WRITERS[ending](Path(path), self)

    @property
    def labels(self) -> tuple[str, ...]:
        """The first name of each label: what ids in a label map are indices into."""
        return tuple(names[0] for names in self.names)

    @property
    def other_name(self) -> str:
        """What results call what is none of the labels: "other", in as many brackets as it takes to be no label's."""
        name = "other"
        while any(name in names for names in self.names):
            name = f"({name})"
        return name

    @property
    def meanings(self) -> dict[int, str]:
        """What the ids of a label map mean: the labels in order, then other."""
        return dict(enumerate(self.labels)) | {other_id(len(self.names)): self.other_name}

    @property
    def rivals(self) -> tuple[str, ...]:
        """All that competes with the labels and means "other": the negative words, then the distractors."""
        return (*self.negatives, *self.other)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the contents, 64 hexadecimal digits, the same on every machine."""
        contents: list[Any] = [self.names, self.other, self.templates]
        if self.synonyms != "mean":  # the hashes of files written before there was a choice stay true
            contents.append(self.synonyms)
        later = {
            "negatives": self.negatives,
            "thresholds": self.thresholds,
            "colours": self.colours,
            **({} if self.temperature == 1 else {"temperature": self.temperature}),
        }
        if said := {key: value for key, value in later.items() if value != ()}:
            contents.append(said)
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """How these words are asked, beside the labels, templates and distractors: plain values for results."""
        return {
            "synonyms": self.synonyms,
            "not": list(self.negatives),
            "thresholds": list(self.thresholds),
            "temperature": self.temperature,
        }

    def with_other(self, other: str | Sequence[str] | None) -> Vocabulary:
        """The same labels with other distractors; the negative words stay.

        "auto": with fewer than FEW labels everyday words, less those that a label already covers; else none.
        None: no distractors. Else these words, as a list or as a text with commas.
        """
        if other == "auto":
            words = distractors(self.names) if len(self.names) < FEW else ()
        elif other is None or len(other) == 0:
            words = ()
        else:
            read = Vocabulary.of(other)
            if read.negatives:
                raise ValueError(f"what competes is never 'not {read.negatives[0]}': leave the 'not' out")
            words = tuple(name for names in read.names for name in names)
        return self if words == self.other else replace(self, other=words)

    def with_thresholds(self, every: float = 0.0, each: Mapping[str, float] | None = None) -> Vocabulary:
        """The same words with other thresholds. every: of all labels. each: of labels, by any of their names.

        Raises ValueError for a name that is no label's, and for thresholds that are not within 0 to 1.
        """
        ids = {name.casefold(): id_ for id_, names in enumerate(self.names) for name in names}
        thresholds = [every] * len(self.names)
        for name, threshold in (each or {}).items():
            key = " ".join(name.split()).casefold()
            if key not in ids:
                raise ValueError(
                    f"{name!r} has a threshold and is no label: choose from {', '.join(self.labels[:10])}"
                    + ", ..." * (len(self.labels) > 10)
                )
            thresholds[ids[key]] = threshold
        return replace(self, thresholds=tuple(thresholds))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _synonyms(label: str, text: str | None = None) -> tuple[str, ...]:
    """ "car | automobile" to ("car", "automobile")."""
    if not isinstance(label, str):
        raise ValueError(
            f"a label is {label!r}, a {type(label).__name__}: give strings, as 'car' or 'car | automobile'"
        )
    names = tuple(label.split("|"))
    if any(not name.strip() for name in names):
        raise ValueError(
            f"a name is empty in {label if text is None else text!r}: remove a separator or fill it"
        )
    return names


def _clean(name: str) -> str:
    """White space folded, canonical Unicode. Raises ValueError for what cannot be a name."""
    name = " ".join(unicodedata.normalize("NFC", name).split())
    start = name if len(name) <= 40 else name[:40] + "..."
    kinds = {unicodedata.category(character) for character in name}
    if kinds & {"Cc", "Cs"}:
        raise ValueError(f"the name {start!r} holds control or broken characters: type it again")
    if not kinds - {"Cf", "Zs"}:
        raise ValueError("a name is blank: remove it, or write what to look for")
    if "|" in name:
        raise ValueError(f"the name {start!r} holds a bar, which separates synonyms: give each by itself")
    if len(name) > MAX_CHARACTERS:
        raise ValueError(
            f"the name {start!r} has {len(name)} characters, at most {MAX_CHARACTERS} can be read: shorten it"
        )
    return name


def _merge(labels: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Labels in order, each kind once. Raises ValueError where two different labels share a name."""
    merged: dict[frozenset[str], tuple[str, ...]] = {}
    owner: dict[str, frozenset[str]] = {}
    for names in labels:
        names = _unique(names)
        folded = frozenset(name.casefold() for name in names)
        for name in names:
            rival = owner.setdefault(name.casefold(), folded)
            if rival is not folded and rival != folded:  # sets are compared name by name
                raise ValueError(
                    f"{name!r} is a name of two labels, {' | '.join(merged[rival])!r} and"
                    f" {' | '.join(names)!r}: take it out of one of them"
                )
        merged.setdefault(folded, names)
    return tuple(merged.values())


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    """Words in order, each once, whatever their case."""
    first: dict[str, str] = {}
    for word in words:
        first.setdefault(word.casefold(), word)
    return tuple(first.values())
