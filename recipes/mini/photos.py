"""The photos that only have a name, and those of Caltech's that no training sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CALTECH = "caltech-101"
IMAGENET_SAMPLE = "imagenet-sample"
HELD_OUT = 5  # photos of each of Caltech's classes


@dataclass(frozen=True)
class Photo:
    """file: its path. source: the collection it comes from. name: what it shows."""

    file: Path
    source: str
    name: str


def read_photos(folder: Path) -> tuple[Photo, ...]:
    """All photos that `folder`/labels.tsv names, in the order of their files' names."""
    lines = (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()
    rows = sorted(line.split("\t") for line in lines)
    return tuple(Photo(folder / "images" / file, source, name.strip()) for file, source, name in rows)


def held_out(photos: Sequence[Photo]) -> tuple[Photo, ...]:
    """Of each class of Caltech's the last HELD_OUT, in the order of `read_photos`: for measuring only."""
    classes: dict[str, list[Photo]] = {}
    for photo in photos:
        if photo.source == CALTECH:
            classes.setdefault(photo.name, []).append(photo)
    return tuple(photo for some in classes.values() for photo in some[-HELD_OUT:])
