"""Pictures with index masks: one class of set, and a dict of the forms it is read from.

H W pixels of the picture as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sanseg.data import coco, folder, segmented, voc, yolo
from sanseg.data.files import Files, IndexMap, read_vocabulary
from sanseg.images import read_image

__all__ = ["FORMATS", "Files", "Format", "IndexMap", "Sample", "SegmentationSet", "find_form", "find_splits"]


@dataclass(frozen=True)
class Format:
    """A form of data set.

    needs: what a folder of it holds, in words. lacks: what of that is not there, nothing where the form fits.
    splits: their names. read: one of them.
    """

    needs: str
    lacks: Callable[[Path], tuple[str, ...]]
    splits: Callable[[Path], tuple[str, ...]]
    read: Callable[[Path, str], Files]


FORMATS: dict[str, Format] = {
    "folder": Format(
        "images/, masks/ (PNGs of indices, of the same names), and dataset.json or labels.txt",
        folder.lacks,
        folder.find_splits,
        folder.read_folder,
    ),
    "segmented": Format(
        f"{segmented.MANIFEST} and label maps, as sanseg segment FOLDER writes them",
        segmented.lacks,
        segmented.find_splits,
        segmented.read_segmented,
    ),
    "coco-panoptic": Format(
        "annotations/panoptic_SPLIT.json, the PNGs in annotations/panoptic_SPLIT/, pictures in SPLIT/",
        partial(coco.lacks, kind="panoptic"),
        partial(coco.find_splits, kind="panoptic"),
        coco.read_panoptic,
    ),
    "coco-instances": Format(
        f"annotations/instances_SPLIT.json and pictures in SPLIT/, or SPLIT/{coco.EXPORTED}",
        partial(coco.lacks, kind="instances"),
        partial(coco.find_splits, kind="instances"),
        coco.read_instances,
    ),
    "voc": Format(
        "JPEGImages/, SegmentationClass/, ImageSets/Segmentation/", voc.lacks, voc.find_splits, voc.read_voc
    ),
    "yolo": Format(
        "data.yaml, pictures below images/, polygons below labels/",
        yolo.lacks,
        yolo.find_splits,
        yolo.read_yolo,
    ),
}


def find_form(folder: str | PathLike[str]) -> str:
    """The key of FORMATS that a folder is of, by the names in it.

    Raises ValueError where it is no folder, where no form fits, and where several do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the folder of a data set")
    lacking = {form: format.lacks(folder) for form, format in FORMATS.items()}
    fitting = [form for form, lacks in lacking.items() if not lacks]
    if len(fitting) > 1:
        raise ValueError(f"{folder} fits {len(fitting)} forms: say which it is, {' or '.join(fitting)}")
    if fitting:
        return fitting[0]
    told = "; ".join(f"{', '.join(lacks)} for {form}" for form, lacks in lacking.items())
    inside = (
        f"{one} is of form {form}, give that; "
        for one in sorted(folder.iterdir())
        if one.is_dir()
        for form, format in FORMATS.items()
        if not format.lacks(one)
    )
    raise ValueError(f"{folder} fits no form of data set: {next(inside, '')}it lacks {told}")


def find_splits(folder: str | PathLike[str], form: str = "auto") -> tuple[str, ...]:
    """The names of the splits of a set. Raises ValueError as `SegmentationSet.open`."""
    return FORMATS[_choose_form(Path(folder), form)].splits(Path(folder))


def _choose_form(folder: Path, form: str) -> str:
    if form == "auto":
        return find_form(folder)
    if form not in FORMATS:
        raise ValueError(f"form {form!r} is unknown: use auto, or one of {', '.join(FORMATS)}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the folder of a data set")
    if lacks := FORMATS[form].lacks(folder):
        raise ValueError(
            f"{folder} is not of form {form}, it has no {' and no '.join(lacks)}: wanted {FORMATS[form].needs}"
        )
    return form


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
    """One split of one set, with the vocabulary that all its pictures are labelled with.

    Nothing but names is held in memory, and COCO's outlines: pictures and masks are read when asked for.
    """

    def __init__(self, name: str, files: Files, form: str = "folder", split: str = "train") -> None:
        self.name = name
        self.files = files
        self.form = form
        self.split = split
        self.vocabulary = read_vocabulary(files.labels, name)

    @classmethod
    def open(
        cls,
        folder: str | PathLike[str],
        split: str = "train",
        form: str = "auto",
        *,
        allow_missing: bool = False,
    ) -> SegmentationSet:
        """The split of a set on disk, in one of the forms of FORMATS; by default in the one that fits.

        allow_missing: take a set some of whose pictures or masks are not there. They fail when they are read.

        Raises ValueError where no form fits, or several; for an unknown form or split; for labels, lists and
        annotations that cannot be read; and for pictures and masks that are missing.
        """
        folder = Path(folder)
        form = _choose_form(folder, form)
        opened = cls(folder.resolve().name, FORMATS[form].read(folder, split), form, split)
        missing = opened.files.missing
        if missing and not allow_missing:
            raise ValueError(
                missing[0][1]
                + (f" (and {len(missing) - 1} more of {len(opened)} are missing)" if len(missing) > 1 else "")
            )
        return opened

    def without(self, names: Iterable[str]) -> SegmentationSet:
        """The same set without the pictures of these names. Raises ValueError for a name it does not have."""
        names = set(names)
        if unknown := names - {picture.name for picture in self.files.pictures}:
            raise ValueError(f"{self.name} has no picture {min(unknown)!r}: give names of its samples")
        pictures = tuple(picture for picture in self.files.pictures if picture.name not in names)
        missing = tuple(one for one in self.files.missing if one[0] not in names)
        files = replace(self.files, pictures=pictures, missing=missing)
        return SegmentationSet(self.name, files, self.form, self.split)

    def __len__(self) -> int:
        return len(self.files.pictures)

    def __getitem__(self, index: int) -> Sample:
        """Raises ValueError for a picture or mask that cannot be read, a mask of another size than its picture,
        and values that mean nothing; OSError for a file that cannot be opened."""
        picture = self.files.pictures[index]
        image = read_image(picture.image)
        height, width = image.shape[:2]
        return Sample(picture.name, image, self.files.masks.read(picture, (height, width)))
