"""The form `yolo`: data.yaml, pictures below images/, and polygons in text files below labels/."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sanseg.data.files import (
    Files,
    IndexMap,
    Listing,
    Picture,
    choose_split,
    lacking,
    read_list,
    read_text,
    read_vocabulary,
)
from sanseg.data.outlines import draw, polygon_runs
from sanseg.images import SUFFIXES

SPLITS = ("train", "val", "test")  # the keys of data.yaml that name pictures
SLACK = 0.01  # of the picture's side: how far rounding takes points outside


def lacks(folder: Path) -> tuple[str, ...]:
    return lacking(folder, "data.yaml")


def find_splits(folder: Path) -> tuple[str, ...]:
    described = _read_yaml(folder / "data.yaml")
    return tuple(split for split in SPLITS if described.get(split))


def read_yolo(folder: Path, split: str) -> Files:
    """data.yaml: `names`, and for each split a folder of pictures, a text file that lists them, or several.

    A picture's polygons are in the file of its name in labels/ instead of images/, one a line: the class, then
    x and y in turns, from 0 to 1 of the width and height. Smaller ones cover larger ones; what none covers is
    other, so a picture without such a file is all other.
    """
    path = folder / "data.yaml"
    described = _read_yaml(path)
    labels = _read_names(path, described)
    read_vocabulary(labels, path)
    split = choose_split(split, find_splits(folder), folder)
    images = [image for place in _places(path, described, split) for image in _find_pictures(place)]
    if not images:
        raise ValueError(f"{path} names pictures for {split!r}, and none are there: mend its paths")
    images = list(dict.fromkeys(images))
    there, pictures, missing = Listing(), [], []
    for name, image in zip(_names(images, folder), images, strict=True):
        outlines = _outlines_of(image)
        pictures.append(Picture(name, str(image), str(outlines) if outlines in there else ""))
        if image not in there:
            missing.append((name, f"{image} does not exist: {path} names it"))
    if not any(picture.mask for picture in pictures):
        raise ValueError(
            f"there is no {_outlines_of(images[0])}, nor one for any other picture: put them there"
        )
    return Files(labels, tuple(pictures), YoloMasks(len(labels)), tuple(missing))


@dataclass(frozen=True)
class YoloMasks:
    labels: int

    def read(self, picture: Picture, size: tuple[int, int]) -> IndexMap:
        path = str(picture.mask)
        lines = read_text(Path(path)).splitlines() if path else []
        height, width = size
        shapes = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                index, points_P2 = _read_line(line, self.labels)
                ring = (points_P2 * (width, height)).reshape(-1)
                shapes.append((polygon_runs([ring], size), index))
            except ValueError as error:
                raise ValueError(f"line {number} of {path} has {error}") from error
        return draw(shapes, size, self.labels)


def _read_line(line: str, labels: int) -> tuple[int, np.ndarray[Any, np.dtype[np.float64]]]:
    """The class, and points (P, 2) over 0..1."""
    try:
        numbers = np.array(line.split(), dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{line[:80]!r}: wanted numbers, the class and x y of each point") from error
    index, points = numbers[0], numbers[1:]
    if not (0 <= index < labels and index == int(index)):
        raise ValueError(f"the class {index:g}, the set has {labels} labels: use indices below {labels}")
    if len(points) == 4:
        raise ValueError("4 numbers after the class, a box: this form needs polygons of at least 3 points")
    if len(points) < 6 or len(points) % 2:
        raise ValueError(f"{len(points)} numbers after the class: wanted x y of at least 3 points")
    if not ((points >= -SLACK) & (points <= 1 + SLACK)).all():
        raise ValueError(f"points from {points.min():g} to {points.max():g}: divide by the picture's size")
    return int(index), points.reshape(-1, 2)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ValueError(
            f"{path} is read by PyYAML, which is not installed: pip install 'sanseg[train]'"
        ) from error
    try:
        described = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}): mend it") from error
    if not isinstance(described, dict):
        raise ValueError(f"{path} describes no set: wanted names, train and val")
    return described


def _read_names(path: Path, described: dict[str, Any]) -> tuple[str, ...]:
    names = described.get("names")
    if isinstance(names, dict):
        if sorted(names, key=repr) != sorted(range(len(names)), key=repr):
            raise ValueError(f"{path} numbers its names in another way than 0, 1, 2, ...: leave none out")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise ValueError(f"{path} describes no set: wanted names, as a list or as numbers with names")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"{path} has the name {name!r}, which YAML reads as no text: put it into quotes")
    if described.get("nc", len(names)) != len(names):
        raise ValueError(f"{path} has {len(names)} names, its nc is {described['nc']!r}: mend one of them")
    return tuple(names)


def _places(path: Path, described: dict[str, Any], split: str) -> Iterator[Path]:
    """The folders and lists of a split. `path`, its root, is often that of another machine, or left out."""
    values = described[split] if isinstance(described[split], list) else [described[split]]
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{path} gives {split} as {described[split]!r}: wanted a path, or a list of paths")
    root = described.get("path")
    roots = [path.parent / root, path.parent] if isinstance(root, str) else [path.parent]
    for value in values:
        inside = value.removeprefix("../")  # Roboflow writes ../train/images for train/images
        tried = [root / place for root in roots for place in dict.fromkeys((value, inside))]
        found = next((place for place in tried if place.exists()), None)
        if found is None:
            raise ValueError(
                f"{path} gives {split} as {value!r}, and {tried[-1]} does not exist: mend the path"
            )
        yield found


def _find_pictures(place: Path) -> Iterator[Path]:
    """All pictures below a folder, or those that a text file lists, by paths from where it is."""
    if place.is_file():
        for line in read_list(place):
            yield place.parent / line.removeprefix("./")
        return
    for folder, folders, files in os.walk(place):
        folders.sort()
        for file in sorted(files):
            if Path(file).suffix.lower() in SUFFIXES and not file.startswith("."):
                yield Path(folder) / file


def _outlines_of(image: Path) -> Path:
    """.../labels/a.txt for .../images/a.jpg, by the last folder that is called images."""
    above, below = _split(image)
    return Path(*above[:-1], "labels" if above else "", *below).with_suffix(".txt")


def _split(image: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parts of a path down to the last folder that is called images, and below it."""
    folders = image.parts[:-1]
    place = next((number for number in range(len(folders), 0, -1) if folders[number - 1] == "images"), 0)
    return image.parts[:place], image.parts[place:]


def _names(images: Sequence[Path], folder: Path) -> list[str]:
    """From below images/ and without suffix; whole where two would be alike."""
    stems = [
        str(Path(*(below if above else below[-1:])).with_suffix("")) for above, below in map(_split, images)
    ]
    if len(set(stems)) < len(stems):
        stems = [image.as_posix().removeprefix(f"{folder.as_posix()}/") for image in images]
    return [f"{folder.resolve().name}/{stem}" for stem in stems]
