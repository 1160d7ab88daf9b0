"""The form `folder`: images/, index masks of the same names in masks/, and labels beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sanseg.data.files import (
    Files,
    Picture,
    choose_split,
    is_index,
    lacking,
    read_json,
    read_labels,
    read_list,
    read_vocabulary,
    unique,
)
from sanseg.data.masks import IndexMasks
from sanseg.images import SUFFIXES
from sanseg.vocabulary import other_id

LISTS = ("train", "val", "test")  # the splits that a text file may list


def lacks(folder: Path) -> tuple[str, ...]:
    described = len(lacking(folder, "dataset.json", "labels.txt")) < 2
    return lacking(folder, "images/", "masks/") + (() if described else ("dataset.json or labels.txt",))


def find_splits(folder: Path) -> tuple[str, ...]:
    if (folder / "dataset.json").exists():
        return tuple(_described_splits(folder / "dataset.json", read_json(folder / "dataset.json")))
    return tuple(name for name in LISTS if (folder / f"{name}.txt").exists()) or ("train",)


def read_folder(folder: Path, split: str) -> Files:
    """`images/` and `masks/` (PNG of the same stem, one channel, a pixel is an index), 8 or 16 bits.

    dataset.json holds `labels` (` | ` between synonyms), `splits` ({name: [stems]}), and optionally `other`
    and `ignore`, the values of pixels that are none of the labels and that nobody labelled.
    Or labels.txt holds one label a line, and train.txt and val.txt, where they are, the stems of a split;
    where they are not, every picture is in the split "train".

    Unless dataset.json says otherwise, unknown is 255 (65535 in a set of more than 254 labels), and for a
    labels.txt other is 254 (65534). 65535 is always unknown too.
    """
    stems: tuple[str, ...] | None
    if (folder / "dataset.json").exists():
        labels, masks, stems = _read_described(folder / "dataset.json", split)
    else:
        labels = read_labels(folder / "labels.txt")
        read_vocabulary(labels, folder / "labels.txt")
        other = other_id(len(labels))
        doubtful = (254, 255) if len(labels) > 254 else ()
        masks = IndexMasks.of(len(labels), {other: other, other + 1: other + 1}, doubtful=doubtful)
        stems = _listed_stems(folder, split)
    images = _by_stem(folder / "images")
    drawn = {path.name for path in (folder / "masks").iterdir()}
    pictures, missing = [], []
    for stem in sorted(images) if stems is None else stems:
        name, mask = f"{folder.resolve().name}/{stem}", folder / "masks" / f"{stem}.png"
        image = images.get(stem)
        if image is None:
            why = f"{folder / 'images'} has no picture {stem!r}: split {split!r} names it, by stem"
            missing.append((name, why))
        elif mask.name not in drawn:
            missing.append((name, f"{mask} does not exist: {image} needs a mask, as PNG"))
        pictures.append(Picture(name, str(image or folder / "images" / stem), str(mask)))
    return Files(labels, tuple(pictures), masks, tuple(missing))


def _read_described(path: Path, split: str) -> tuple[tuple[str, ...], IndexMasks, tuple[str, ...]]:
    described = read_json(path)
    labels = described.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{path} describes no set: wanted labels, a list of strings")
    read_vocabulary(labels, path)
    splits = _described_splits(path, described)
    if split not in splits:
        raise ValueError(f"{path.parent} has no split {split!r}: use one of {', '.join(splits)}")
    other, unknown = other_id(len(labels)), described.get("ignore")
    special: dict[int, int] = {}
    for key, id_ in (("other", other), ("ignore", other + 1)):
        value = described.get(key)
        if key == "ignore" and value is None:
            value = other + 1
        if value is None:
            continue
        if not is_index(value, 65_536) or value < len(labels) or value in special:
            raise ValueError(
                f"{path} gives {key} the value {value!r}: wanted a number from {len(labels)}, the first that"
                f" is no label's index, to 65535, and another for other than for ignore"
            )
        special[value] = id_
    doubtful = (255,) if unknown is None and len(labels) > 255 else ()
    masks = IndexMasks.of(len(labels), special, doubtful=doubtful)
    return tuple(labels), masks, unique(splits[split], f"split {split!r} of {path}")


def _described_splits(path: Path, described: dict[str, Any]) -> dict[str, list[str]]:
    splits = described.get("splits")
    if not isinstance(splits, dict) or not all(
        isinstance(stems, list) and all(isinstance(stem, str) for stem in stems) for stems in splits.values()
    ):
        raise ValueError(
            f'{path} describes no set: wanted splits, as {{"train": ["stem", ...], "val": [...]}}'
        )
    return splits


def _listed_stems(folder: Path, split: str) -> tuple[str, ...] | None:
    """None for all pictures."""
    listed = [name for name in LISTS if (folder / f"{name}.txt").exists()]
    if listed:
        return read_list(folder / f"{choose_split(split, listed, folder)}.txt")
    if split != "train":
        raise ValueError(
            f"{folder} has no split {split!r}, all its pictures are in 'train': write the stems of some into"
            f" {folder / f'{split}.txt'} and of the others into {folder / 'train.txt'}, one a line"
        )
    return None


def _by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder. Raises ValueError for two with one stem: only one could have the mask."""
    found: dict[str, Path] = {}
    for path in folder.iterdir():
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        rival = found.setdefault(path.stem, path)
        if rival is not path:
            raise ValueError(f"{rival} and {path.name} share their stem: only one can have the mask, rename")
    return found
