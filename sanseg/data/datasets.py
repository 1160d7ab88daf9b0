"""Pictures with index masks: one class of set, and a dict of the forms it is read from.

H W pixels of the picture as it is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sanseg.images import read_image
from sanseg.vocabulary import Vocabulary, other_id

IndexMap = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Files:
    """What a reader finds in a folder: labels, the meaning of mask values, and the files.

    other: the value of pixels known to be none of the labels; None where the set has no such pixels.
    unknown: the value of pixels that nobody labelled.
    pictures: (name, picture, mask) of each picture of the split, in order.
    """

    labels: tuple[str, ...]
    other: int | None
    unknown: int
    pictures: tuple[tuple[str, Path, Path], ...]


def read_folder(folder: Path, split: str) -> Files:
    """`images/`, `masks/` (PNG of the same stem, one channel, pixel = index) and `dataset.json`.

    dataset.json holds `labels` (` | ` between synonyms), `splits` ({name: [stems]}), and optionally `other`
    and `ignore`, the two values with a meaning of their own (none and 255 where absent).
    """
    path = folder / "dataset.json"
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        labels = tuple(described["labels"])
        splits: dict[str, list[str]] = described["splits"]
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist: a set of this form needs one") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} describes no set ({error!r}): give it labels and splits") from error
    if split not in splits:
        raise ValueError(f"{folder} has no split {split!r}: use one of {', '.join(splits)}")
    images = {found.stem: found for found in sorted((folder / "images").glob("*"))}
    pictures = []
    for stem in splits[split]:
        mask = folder / "masks" / f"{stem}.png"
        if stem not in images:
            raise ValueError(f"{folder / 'images'} has no picture {stem!r}: split {split!r} names it")
        if not mask.exists():
            raise ValueError(f"{mask} does not exist: {images[stem]} needs a mask, or leave it out of {path}")
        pictures.append((f"{folder.name}/{stem}", images[stem], mask))
    unknown = described.get("ignore")
    return Files(labels, described.get("other"), 255 if unknown is None else unknown, tuple(pictures))


FORMATS: dict[str, Callable[[Path, str], Files]] = {"folder": read_folder}


@dataclass(frozen=True)
class Sample:
    """One picture as it is stored.

    image: uint8 (H, W, 3), RGB.
    index_map: uint8 (H, W), uint16 for more than 254 labels: index into the set's labels, `other_id` for none
    of them, the id after that for unknown.
    """

    name: str
    image: NDArray[np.uint8]
    index_map: IndexMap


class SegmentationSet:
    """One split of one set, with the vocabulary that all its pictures are labelled with."""

    def __init__(self, name: str, files: Files) -> None:
        self.name = name
        self.files = files
        self.vocabulary = Vocabulary.of(list(files.labels))
        if len(self.vocabulary.names) != len(files.labels):
            raise ValueError(f"the labels of {name} name the same thing twice: give each its own names")

    @classmethod
    def open(cls, folder: str | PathLike[str], split: str = "train", form: str = "folder") -> SegmentationSet:
        """The split of a set on disk, in one of the forms of FORMATS.

        Raises ValueError for an unknown form or split, and for pictures and masks that are missing.
        """
        if form not in FORMATS:
            raise ValueError(f"form {form!r} is unknown: use one of {', '.join(FORMATS)}")
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder: give the folder of a data set")
        return cls(folder.resolve().name, FORMATS[form](folder, split))

    def __len__(self) -> int:
        return len(self.files.pictures)

    def __getitem__(self, index: int) -> Sample:
        """Raises ValueError for a mask of another size than its picture, or with values that mean nothing."""
        name, picture, mask = self.files.pictures[index]
        image = read_image(picture)
        stored = _read_mask(mask)
        if stored.shape != image.shape[:2]:
            (h, w), (height, width) = stored.shape, image.shape[:2]
            raise ValueError(
                f"{mask} is {w}x{h}, its picture {width}x{height}: resize the mask, or give the picture's own"
            )
        return Sample(name, image, self._index_map(stored, mask))

    def _index_map(self, stored: NDArray[np.int32], path: Path) -> IndexMap:
        """The file's values in our convention."""
        labels = len(self.files.labels)
        other = other_id(labels)
        index_map = np.where(stored < labels, stored, -1)
        if self.files.other is not None:
            index_map[stored == self.files.other] = other
        index_map[stored == self.files.unknown] = other + 1
        if (index_map < 0).any():
            value = stored[index_map < 0].max()
            raise ValueError(
                f"{path} holds the value {value}, the set has {labels} labels: use indices below {labels},"
                f" {self.files.unknown} for unknown and {self.files.other} for other"
            )
        return index_map.astype(np.uint8 if other < 256 else np.uint16)


def _read_mask(path: Path) -> NDArray[np.int32]:
    try:
        with Image.open(path, formats=("PNG",)) as mask:
            if mask.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
                raise ValueError(f"{path} is a mask of mode {mask.mode}: save it with one channel of indices")
            return np.asarray(mask).astype(np.int32)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a mask ({error}): save it as PNG again") from error
