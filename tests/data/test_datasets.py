"""Sets on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sanseg.data.datasets import SegmentationSet


def write_set(folder: Path, masks: dict[str, NDArray[Any]], labels: list[str], **described: Any) -> Path:
    """A set of random pictures with these masks, all of them in the split "train"."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    for stem, mask in masks.items():
        picture = rng.integers(0, 255, (*mask.shape[:2], 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{stem}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")
    described = {"labels": labels, "splits": {"train": list(masks), "val": []}, **described}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def stripes(dtype: Any = np.uint8, values: tuple[int, ...] = (0, 1, 254, 255)) -> NDArray[Any]:
    return np.tile(np.repeat(np.array(values, dtype=dtype), 4), (12, 1))


def test_a_folder_gives_pictures_maps_and_words(tmp_path: Path) -> None:
    folder = write_set(
        tmp_path / "pets", {"b": stripes(), "a": stripes().T}, ["cat | kitten", "dog"], other=254
    )
    opened = SegmentationSet.open(folder)
    assert opened.name == "pets"
    assert opened.vocabulary.names == (("cat", "kitten"), ("dog",))
    assert [opened[index].name for index in range(len(opened))] == ["pets/b", "pets/a"]
    assert opened[0].image.shape == (12, 16, 3)
    assert opened[0].image.dtype == opened[0].index_map.dtype == np.uint8
    assert (opened[0].index_map == stripes()).all()
    assert (opened[1].index_map == stripes().T).all()


def test_more_labels_than_8_bits(tmp_path: Path) -> None:
    labels = [f"label {number}" for number in range(300)]
    mask = stripes(np.uint16, (0, 299, 254, 999))
    opened = SegmentationSet.open(write_set(tmp_path / "wide", {"a": mask}, labels, ignore=999))
    assert opened[0].index_map.dtype == np.uint16
    assert opened[0].index_map[0, ::4].tolist() == [0, 299, 254, 65_535]


def test_other_values_of_a_file_become_the_usual_ones(tmp_path: Path) -> None:
    mask = stripes(values=(0, 1, 99, 0))
    opened = SegmentationSet.open(write_set(tmp_path / "set", {"a": mask}, ["cat"], other=99, ignore=1))
    assert opened[0].index_map[0, ::4].tolist() == [0, 255, 254, 0]


def test_palette_masks_are_indices(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {"a": stripes()}, ["cat", "dog"], other=254)
    palette = Image.fromarray(stripes()).convert("P")
    palette.putdata(stripes().flatten().tolist())
    palette.save(folder / "masks" / "a.png")
    assert (SegmentationSet.open(folder)[0].index_map == stripes()).all()


def test_what_is_wrong_with_a_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a folder: give the folder of a data set"):
        SegmentationSet.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"dataset\.json does not exist"):
        SegmentationSet.open(tmp_path)
    folder = write_set(tmp_path / "set", {"a": stripes(), "b": stripes()}, ["cat", "dog"])
    with pytest.raises(ValueError, match="no split 'test': use one of train, val"):
        SegmentationSet.open(folder, "test")
    with pytest.raises(ValueError, match="form 'yolo' is unknown: use one of folder"):
        SegmentationSet.open(folder, form="yolo")
    with pytest.raises(
        ValueError, match=r"a\.png holds the value 254, the set has 2 labels: use indices below 2"
    ):
        SegmentationSet.open(folder)[0]
    Image.fromarray(stripes()[1:]).save(folder / "masks" / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is 16x11, its picture 16x12: resize the mask"):
        SegmentationSet.open(folder)[1]
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(folder / "masks" / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is a mask of mode RGB"):
        SegmentationSet.open(folder)[1]
    (folder / "masks" / "b.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as a mask"):
        SegmentationSet.open(folder)[1]
    (folder / "masks" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b\.png does not exist: .* needs a mask"):
        SegmentationSet.open(folder)
    (folder / "images" / "a.png").unlink()
    with pytest.raises(ValueError, match="no picture 'a': split 'train' names it"):
        SegmentationSet.open(folder)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="describes no set"):
        SegmentationSet.open(folder)


def test_labels_that_name_the_same_are_refused(tmp_path: Path) -> None:
    """Merging them would shift every index after them."""
    with pytest.raises(ValueError, match="the labels of set name the same thing twice"):
        SegmentationSet.open(write_set(tmp_path / "set", {"a": stripes()}, ["cat", "Cat", "dog"]))
