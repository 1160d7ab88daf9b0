"""What every form of set gives: labels, pictures, and a way to their index maps. And what reading them shares.

H W pixels of the picture as it is stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sanseg.vocabulary import Vocabulary, other_id

IndexMap = NDArray[np.unsignedinteger[Any]]

SYNONYMS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}  # of names of splits


class Picture(NamedTuple):
    """One picture of a split.

    name: of the set and of the picture, unique in the split. image: its path.
    mask: what the set's `Masks` know it by, a path or a row of theirs.
    """

    name: str
    image: str
    mask: str | int


class Masks(Protocol):
    """Where index maps come from: files, or annotations to be drawn."""

    def read(self, picture: Picture, size: tuple[int, int]) -> IndexMap:
        """The index map (H, W) of a picture whose size (H, W) is given, in the convention of `Sample`.

        Raises ValueError for annotations of another size, or that mean nothing; OSError as the system does.
        """
        ...


@dataclass(frozen=True)
class Files:
    """What a form finds in a folder.

    labels: in the order of their indices, ` | ` between synonyms.
    pictures: of the split, in order, whether or not their files are there.
    missing: (name, why) of the pictures whose file or annotation is not there.
    """

    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    masks: Masks
    missing: tuple[tuple[str, str], ...] = ()


def map_type(labels: int) -> type[np.uint8] | type[np.uint16]:
    """The numbers of an index map with this many labels."""
    return np.uint8 if other_id(labels) < 256 else np.uint16


def check_size(mask: str, found: tuple[int, int], size: tuple[int, int]) -> None:
    """Raises ValueError where a mask is not of the size, (H, W), of its picture."""
    if found == size:
        return
    (h, w), (height, width) = found, size
    remedy = "resize the mask, or give the picture's own"
    if (w, h) == size:
        remedy = "the picture's EXIF may turn it, save it upright without"
    raise ValueError(f"{mask} is {w}x{h}, its picture {width}x{height}: {remedy}")


def read_text(path: Path) -> str:
    """A text file. Raises ValueError where it is not there or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist: a set of this form needs it") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """The object in a JSON file. hook: what stands for each object in it, called as soon as that is read.

    Raises ValueError where the file is not there, or is not one JSON object.
    """
    text = read_text(path)
    try:
        document = json.loads(text, object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): save it again") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds a {type(document).__name__}: wanted an object with keys")
    return document


def is_index(value: object, below: int = 2**63) -> bool:
    """A whole number from 0 on; JSON's true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


def read_vocabulary(labels: Sequence[str], where: str | Path) -> Vocabulary:
    """A label for each, ` | ` between its synonyms. Raises ValueError for labels that cannot be told apart.

    Vocabulary merges labels of the same names; here that would shift every index after them.
    """
    try:
        vocabulary = Vocabulary.of(labels if isinstance(labels, list) else list(labels))
    except ValueError as error:
        raise ValueError(f"the labels of {where} cannot be used: {error}") from error
    if len(vocabulary.names) != len(labels):
        seen: dict[frozenset[str], str] = {}
        for label in labels:
            names = frozenset(" ".join(name.split()).casefold() for name in label.split("|"))
            rival = seen.setdefault(names, label)
            if rival is not label:
                break
        raise ValueError(
            f"the labels of {where} name the same thing twice, {rival!r} and {label!r}: give each its own names"
        )
    return vocabulary


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line. A label's line is its index, so a blank line between labels is refused.

    Raises ValueError for that, for a file without labels, and as `read_text`.
    """
    labels = [line.strip() for line in read_text(path).rstrip().split("\n")]
    if labels == [""]:
        raise ValueError(f"{path} holds no labels: write one a line")
    if "" in labels:
        number = labels.index("") + 1
        raise ValueError(f"line {number} of {path} is blank, and lines are indices: name it, or remove it")
    return tuple(labels)


def read_list(path: Path) -> tuple[str, ...]:
    """One name a line, blank lines skipped. Raises ValueError for a name that is there twice."""
    names = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    return unique(names, str(path))


def unique(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names in order. Raises ValueError for one that is there twice."""
    once = tuple(dict.fromkeys(names))
    if len(once) != len(names):
        twice = next((name for name, other in zip(names, once, strict=False) if name != other), names[-1])
        raise ValueError(f"{where} names {twice!r} twice: name each picture once")
    return once


def choose_split(wanted: str, found: Iterable[str], where: Path) -> str:
    """The name that a split has: its own, "valid" for "val", or with a year, "train2017" for "train".

    Raises ValueError where none has, or several.
    """
    found = tuple(found)
    if wanted in found:
        return wanted
    for synonym in SYNONYMS.get(wanted, (wanted,)):
        fitting = [name for name in found if re.fullmatch(re.escape(synonym) + r"([\d_.-].*)?", name)]
        if len(fitting) > 1:
            raise ValueError(f"{where} has {len(fitting)} splits {wanted!r}: use one of {', '.join(fitting)}")
        if fitting:
            return fitting[0]
    raise ValueError(
        f"{where} has no split {wanted!r}: " + (f"use one of {', '.join(found)}" if found else "it has none")
    )


def lacking(folder: Path, *names: str) -> tuple[str, ...]:
    """Which of these are not in a folder; a name that ends in / is a folder's."""
    return tuple(
        name
        for name in names
        if not ((folder / name).is_dir() if name.endswith("/") else (folder / name).is_file())
    )


class Listing:
    """Whether files are there, from one reading of each folder instead of a question for each file."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def __contains__(self, path: Path) -> bool:
        names = self._names.get(path.parent)
        if names is None:
            listed = path.parent.iterdir() if path.parent.is_dir() else ()
            names = self._names[path.parent] = frozenset(found.name for found in listed)
        return path.name in names
