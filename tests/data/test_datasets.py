"""Sets on disk, and the order of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sanseg.data.datasets import Batch, Example, SegmentationSet, Stream
from sanseg.data.transforms import Augmentation

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)


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


@pytest.fixture
def sets(tmp_path: Path) -> list[SegmentationSet]:
    pets = {f"p{number}": stripes() for number in range(6)}
    plants = {f"q{number}": stripes(values=(0, 0, 255, 255)) for number in range(4)}
    return [
        SegmentationSet.open(write_set(tmp_path / "pets", pets, ["cat", "dog"], other=254)),
        SegmentationSet.open(write_set(tmp_path / "plants", plants, ["fern"])),
    ]


def stream(sets: list[SegmentationSet], seed: int = 0, **options: Any) -> Stream:
    augmentation = Augmentation(short_side=12, crop=16, scale=(0.5, 1.5))
    return Stream(sets, augmentation, MEAN, STD, seed, **options)


def same(one: Example, other: Example) -> bool:
    return one.name == other.name and one.image.equal(other.image) and one.index_map.equal(other.index_map)


def test_each_epoch_shows_every_picture_once_in_another_order(sets: list[SegmentationSet]) -> None:
    endless = stream(sets)
    assert len(endless) == 10
    first, second = ([endless[n].name for n in range(start, start + 10)] for start in (0, 10))
    assert (
        sorted(first)
        == sorted(second)
        == sorted(f"pets/p{n}" for n in range(6)) + [f"plants/q{n}" for n in range(4)]
    )
    assert first != second
    assert {endless[n].name.split("/")[0]: endless[n].source for n in range(10)} == {"pets": 0, "plants": 1}


def test_an_example_depends_on_seed_and_number_only(sets: list[SegmentationSet]) -> None:
    forwards = stream(sets)
    examples = [forwards[n] for n in range(25)]
    backwards = stream(sets)
    assert all(same(backwards[n], examples[n]) for n in reversed(range(25)))
    assert not all(same(stream(sets, seed=1)[n], examples[n]) for n in range(25))


def test_the_same_picture_looks_different_in_the_next_epoch(sets: list[SegmentationSet]) -> None:
    endless = stream(sets[1:])
    views = [[endless[n] for n in range(start, start + 4)] for start in (0, 4)]
    by_name = [{example.name: example.image for example in view} for view in views]
    assert not any(by_name[0][name].equal(by_name[1][name]) for name in by_name[0])


def test_repeats_weigh_the_sets(sets: list[SegmentationSet]) -> None:
    weighted = stream(sets, repeats=(0.5, 2))
    names = [weighted[n].name for n in range(len(weighted))]
    assert len([name for name in names if name.startswith("pets")]) == len(set(names) - set("pq")) - 4 == 3
    assert all(names.count(f"plants/q{n}") == 2 for n in range(4))
    with pytest.raises(ValueError, match="1 repeats for 2 sets"):
        stream(sets, repeats=(1,))
    with pytest.raises(ValueError, match="no picture to train on"):
        stream(sets, repeats=(0, 0))


def test_examples_are_padded_alike_and_stack(sets: list[SegmentationSet]) -> None:
    endless = stream(sets)
    batch = Batch.of([endless[n] for n in range(10)])
    assert batch.images.shape == (10, 3, 16, 16)
    assert batch.images.dtype == torch.float32
    assert batch.index_maps.shape == (10, 16, 16)
    assert batch.index_maps.dtype == torch.int64
    assert set(torch.unique(batch.index_maps).tolist()) == {0, 1, 254, 255}
    assert batch.names[3] == endless[3].name
    assert batch.sources[3] == endless[3].source
