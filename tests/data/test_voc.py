"""PASCAL VOC's folders, in miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sanseg.data.datasets import SegmentationSet, find_splits
from tests.data.test_datasets import stripes, write_picture


def write_voc(folder: Path, masks: dict[str, NDArray[Any]], **lists: str) -> Path:
    for name in ("SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for stem, mask in masks.items():
        write_picture(folder / "JPEGImages" / f"{stem}.jpg", *mask.shape)
        picture = Image.fromarray(mask)
        if mask.dtype == np.uint8:
            picture.putpalette(np.random.default_rng(0).integers(0, 255, 768, dtype=np.uint8).tobytes())
        picture.save(folder / "SegmentationClass" / f"{stem}.png")
    write_picture(folder / "JPEGImages" / "not_segmented.jpg", 5, 5)
    for name, stems in lists.items():
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(stems)
    return folder


def test_background_is_other_and_the_border_unknown(tmp_path: Path) -> None:
    masks = {"2007_1": stripes(values=(0, 1, 20, 255)), "2007_2": stripes(values=(20, 0, 0, 7))}
    folder = write_voc(
        tmp_path / "VOC2012", masks, train="2007_2\n", val="2007_1\n", trainval="2007_1\n2007_2\n"
    )
    opened = SegmentationSet.open(folder, "val")
    assert (opened.form, opened[0].name) == ("voc", "VOC2012/2007_1")
    assert (len(opened.files.labels), opened.files.labels[0], opened.files.labels[19]) == (
        20,
        "aeroplane",
        "tv",
    )
    assert opened[0].index_map[0, ::4].tolist() == [254, 0, 19, 255]
    assert (opened[0].index_map == opened[0].index_map[:1]).all()
    assert SegmentationSet.open(folder)[0].index_map[0, ::4].tolist() == [19, 254, 254, 6]
    assert find_splits(folder) == ("train", "val")
    assert len(SegmentationSet.open(folder, "trainval")) == 2


@pytest.mark.parametrize("head", ["", "_background_\n", "background\n"])
def test_labels_of_ones_own(tmp_path: Path, head: str) -> None:
    folder = write_voc(tmp_path, {"a": stripes(values=(0, 1, 2, 255))}, train="a")
    (folder / "labels.txt").write_text(f"{head}tabby\nlabrador\n")
    opened = SegmentationSet.open(folder)
    assert opened.files.labels == ("tabby", "labrador")
    assert opened[0].index_map[0, ::4].tolist() == [254, 0, 1, 255]


def test_many_labels_of_ones_own(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, {"a": stripes(np.uint16, (0, 300, 255, 65_535))}, train="a")
    (folder / "labels.txt").write_text("\n".join(f"label {number}" for number in range(300)))
    assert SegmentationSet.open(folder)[0].index_map[0, ::4].tolist() == [65_534, 299, 254, 65_535]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, {"a": stripes(values=(0, 1, 21, 255))}, train="a\nb\n")
    with pytest.raises(ValueError, match=r"b\.jpg does not exist: split 'train' names it"):
        SegmentationSet.open(folder)
    with pytest.raises(ValueError, match="no split 'val': use one of train"):
        SegmentationSet.open(folder, "val")
    with pytest.raises(
        ValueError, match=r"a\.png holds the value 21, the set has 20 labels: use 1 to 20, 255 for"
    ):
        SegmentationSet.open(folder, allow_missing=True)[0]
