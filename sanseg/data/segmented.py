"""The form `segmented`: what `sanseg segment FOLDER` wrote, its label maps as masks, corrected or not.

A manifest is JSON, a line each: first what was asked, then a line for each picture, the last one of a picture counts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from sanseg.data.files import Files, Picture, lacking, read_vocabulary
from sanseg.data.masks import IndexMasks
from sanseg.vocabulary import other_id

MANIFEST = "manifest.jsonl"
CORRECTED = "corrected"  # the split of the pictures whose label map is not as it was written

Line = dict[str, Any]


def read_manifest(path: Path) -> tuple[Line, dict[str, Line]]:
    """What was asked, and the last line of each picture by its path.

    Lines that are torn or make no sense are left out: their pictures count as not done.
    Raises ValueError where its first line does not say what was asked, OSError where it cannot be read.
    """
    lines = [_parsed(line) for line in path.read_bytes().split(b"\n")]
    asked = lines[0]
    if asked is None or not _says(asked, {"folder": str, "vocabulary": str, "labels": list}):
        raise ValueError(f"the first line of {path} does not say what was asked: give another folder")
    pictures: dict[str, Line] = {}
    for line in lines[1:]:
        if line is not None and _says(line, {"input": str, "stem": str, "outputs": dict}) and _stays_in(line):
            pictures[line["input"]] = line
    return asked, pictures


def _parsed(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _says(line: Line, kinds: dict[str, type]) -> bool:
    return all(isinstance(line.get(key), kind) for key, kind in kinds.items())


def _stays_in(line: Line) -> bool:
    """A manifest may come from anywhere: it names no file outside the two folders."""
    places = [PurePosixPath(name) for name in (line["input"], line["stem"], *line["outputs"].values())]
    return not any(place.is_absolute() or ".." in place.parts or "\0" in str(place) for place in places)


def lacks(folder: Path) -> tuple[str, ...]:
    return lacking(folder, MANIFEST)


def find_splits(folder: Path) -> tuple[str, ...]:
    return ("train", CORRECTED)


def read_segmented(folder: Path, split: str) -> Files:
    """The pictures where they lie, and beside the manifest their label maps, as `Segmentation.save` writes them.

    Split "train" has all, "corrected" those whose label map was changed since. Pixels are indices of the labels;
    other is 254 (65534 for more than 254 labels), and the value after that is unknown.
    """
    if split not in ("train", CORRECTED):
        raise ValueError(f"{folder} has no split {split!r}: use train or {CORRECTED}")
    path = folder / MANIFEST
    asked, lines = read_manifest(path)
    labels = tuple(map(str, asked["labels"]))
    read_vocabulary(labels, path)
    other = other_id(len(labels))
    doubtful = (254, 255) if len(labels) > 254 else ()
    masks = IndexMasks.of(len(labels), {other: other, other + 1: other + 1}, doubtful=doubtful)
    root = folder.resolve() / asked["folder"]
    pictures, missing = [], []
    for name, line in sorted(lines.items()):
        if line.get("error") is not None or line.get("windows") or "index" not in line["outputs"]:
            continue  # what went by windows is too large to be read whole
        image, mask = root / name, folder / line["outputs"]["index"]
        if split == CORRECTED and not corrected(mask, line):
            continue
        called = f"{folder.resolve().name}/{line['stem']}"
        absent = [str(file) for file in (image, mask) if not file.is_file()]
        if absent:
            remedy = "put it back, or say in the manifest's first line where the pictures are"
            missing.append((called, f"{absent[0]} does not exist: {remedy}"))
        pictures.append(Picture(called, str(image), str(mask)))
    return Files(labels, tuple(pictures), masks, tuple(missing))


def corrected(mask: Path, line: Line) -> bool:
    """Whether a label map is there and is not as it was written."""
    try:
        with mask.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != line.get("mask_sha256")
    except FileNotFoundError:
        return False
