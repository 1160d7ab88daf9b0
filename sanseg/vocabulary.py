"""Words: labels, their synonyms, and the distractors that compete with them. No model is needed to read this.

A comma separates labels in a text, ` | ` separates synonyms everywhere, a file holds one label a line.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path

FEW = 20  # below this many labels, distractors compete by default: an argmax over one word paints everything
MAX_CHARACTERS = 256  # CLIP reads 77 tokens at most; the longest benchmark name has 113 characters
MAX_LABELS = 65_534  # what a uint16 label map has room for, beside OTHER and unknown

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
    """What a picture is asked for: words only, no embeddings. Compares and hashes by its contents.

    names: for each label its synonyms, at least one, in the order given. The first is the label itself.
        White space is folded. Labels made of the same names, whatever their case, are merged into the first.
    other: distractor words, each of which competes and means "other" where it wins.
    templates: the prompt set, a key of `model.text.TEMPLATES`; None is the one the model was trained with.
    synonyms: how a label is made of its names, a key of SYNONYMS.

    Raises ValueError for no labels, more than MAX_LABELS, names that are blank, over-long or unprintable,
    a word that belongs to two different labels, a distractor that is also a label, and an unknown `synonyms`.
    """

    names: tuple[tuple[str, ...], ...]
    other: tuple[str, ...] = ()
    templates: str | None = None
    synonyms: str = "mean"

    def __post_init__(self) -> None:
        if any(isinstance(names, str) for names in self.names):
            raise ValueError(
                "names is a tuple of synonyms for each label: use Vocabulary.of for a list of strings"
            )
        object.__setattr__(self, "names", _merge(tuple(_clean(n) for n in names) for names in self.names))
        object.__setattr__(self, "other", _unique(_clean(word) for word in self.other))
        if self.synonyms not in SYNONYMS:
            raise ValueError(
                f"synonyms cannot be taken as {self.synonyms!r}: choose from {', '.join(SYNONYMS)}"
            )
        if not self.names:
            raise ValueError("there are no labels: name at least one, as in 'sky, tree'")
        if len(self.names) > MAX_LABELS:
            raise ValueError(f"{len(self.names)} labels, at most {MAX_LABELS} fit a label map: ask in parts")
        spoken_for = {name.casefold() for names in self.names for name in names}
        for word in self.other:
            if word.casefold() in spoken_for:
                raise ValueError(f"{word!r} is a label and an other word: take it out of one of them")

    @classmethod
    def of(cls, words: str | Sequence[str] | Vocabulary) -> Vocabulary:
        """From a text ("sky, tree | woods"), a list of labels, or a Vocabulary, kept as it is."""
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
    def from_text(cls, text: str) -> Vocabulary:
        """From "sky, tree | woods": a comma separates labels, a bar synonyms."""
        return cls(tuple(_synonyms(label, text) for label in text.split(",")))

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Vocabulary:
        """From a UTF-8 file with one label a line; commas belong to the name, ` | ` separates synonyms.

        Blank lines are skipped. Raises OSError for a file that cannot be read, ValueError if it is not UTF-8.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
        labels = [line for line in lines if line.strip()]
        if not labels:
            raise ValueError(f"{path} holds no labels: write one a line")
        return cls(tuple(_synonyms(label) for label in labels))

    @property
    def labels(self) -> tuple[str, ...]:
        """The first name of each label: what ids in a label map are indices into."""
        return tuple(names[0] for names in self.names)

    @property
    def hash(self) -> str:
        """SHA-256 of the contents, 64 hexadecimal digits, the same on every machine."""
        contents = [self.names, self.other, self.templates]
        if self.synonyms != "mean":  # the hashes of files written before there was a choice stay true
            contents.append(self.synonyms)
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()

    def with_other(self, other: str | Sequence[str] | None) -> Vocabulary:
        """The same labels with other distractors.

        "auto": with fewer than FEW labels everyday words, less those that a label already covers; else none.
        None: no distractors. Else these words, as a list or as a text with commas.
        """
        if other == "auto":
            words = distractors(self.names) if len(self.names) < FEW else ()
        elif other is None or len(other) == 0:
            words = ()
        else:
            words = tuple(name for names in Vocabulary.of(other).names for name in names)
        return replace(self, other=words)


def distractors(names: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Everyday words (distractors.txt) that compete with these labels, each given by its synonyms.

    Left out is what names the same as a label, something it is a kind or a part of, or a kind or part of it.
    """
    tree = _taxonomy()
    covered = tree.related(
        {concept for synonyms in names for name in synonyms for concept in tree.find(name)}
    )
    return tuple(word for word in tree.distractors if word not in covered)


@dataclass(frozen=True)
class Taxonomy:
    """distractors.txt, read: which concepts are kinds or parts of which. Each is called by its first word."""

    concepts: dict[str, set[str]]  # word -> the concepts it may mean
    parents: dict[str, set[str]]
    children: dict[str, set[str]]
    distractors: tuple[str, ...]

    @classmethod
    def read(cls, lines: Iterable[str]) -> Taxonomy:
        concepts: dict[str, set[str]] = {}
        parents: dict[str, set[str]] = {}
        children: dict[str, set[str]] = {}
        distracting: list[str] = []
        path: list[str] = []  # the concept at each depth above this line
        for line in lines:
            if not line.strip() or line.startswith("#"):
                continue
            depth = (len(line) - len(line.lstrip())) // 2
            words = [word.strip() for word in line.removeprefix("  " * depth).removeprefix("* ").split(" | ")]
            concept = words[0]
            if line.lstrip().startswith("* "):
                distracting.append(concept)
            for word in words:
                concepts.setdefault(_fold(word), set()).add(concept)
            del path[depth:]
            parents.setdefault(concept, set()).update(path[-1:])
            if path:
                children.setdefault(path[-1], set()).add(concept)
            path.append(concept)
        return cls(concepts, parents, children, _unique(distracting))

    def find(self, name: str) -> set[str]:
        """The concepts a name may mean, by the longest ending that is known; empty if none is."""
        found: set[str] = set()
        for part in name.split(","):  # benchmark names hold synonyms between commas
            found |= next((self.concepts[form] for form in _endings(part) if form in self.concepts), set())
        return found

    def related(self, concepts: set[str]) -> set[str]:
        """These concepts, all that is above them, and all that is below them."""
        return _reach(concepts, self.parents) | _reach(concepts, self.children)


@cache
def _taxonomy() -> Taxonomy:
    return Taxonomy.read(files("sanseg").joinpath("distractors.txt").read_text(encoding="utf-8").split("\n"))


def _reach(start: set[str], edges: dict[str, set[str]]) -> set[str]:
    reached, fresh = set(start), set(start)
    while fresh:
        fresh = {step for concept in fresh for step in edges.get(concept, ())} - reached
        reached |= fresh
    return reached


PREPOSITIONS = frozenset(
    ("above", "at", "behind", "by", "for", "from", "in", "near", "of", "on", "under", "with")
)


def _endings(name: str) -> Iterator[str]:
    """Forms of a name under which it may be known, nearest first.

    "big black cats on a sofa" gives itself, then the endings of "big black cats", then those of "a sofa"; the
    last word of each also in the singular.
    """
    words = _fold(name).split()
    pieces = [[]] if not words else [words]
    for number, word in enumerate(words):
        if word in PREPOSITIONS and number > 0:
            pieces = [words[:number], words[number + 1 :]]
            break
    yield " ".join(words)
    for piece in pieces:
        for start in range(len(piece)):
            for last in _singulars(piece[-1]):
                yield " ".join([*piece[start:-1], last])


def _singulars(word: str) -> Iterator[str]:
    yield word
    for plural, singular in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(plural) and len(word) > len(plural) + 1:
            yield word.removesuffix(plural) + singular


def _fold(text: str) -> str:
    """Lower case, hyphens as spaces: "T-Shirt" is "t shirt"."""
    return " ".join(text.casefold().replace("-", " ").replace("_", " ").split())


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
    shown = name if len(name) <= 40 else name[:40] + "..."
    kinds = {unicodedata.category(character) for character in name}
    if kinds & {"Cc", "Cs"}:
        raise ValueError(f"the name {shown!r} holds control or broken characters: type it again")
    if not kinds - {"Cf", "Zs"}:
        raise ValueError("a name is blank: remove it, or write what to look for")
    if len(name) > MAX_CHARACTERS:
        raise ValueError(
            f"the name {shown!r} has {len(name)} characters, at most {MAX_CHARACTERS} can be read: shorten it"
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
            if rival != folded:
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
