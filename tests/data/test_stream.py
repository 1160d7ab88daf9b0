"""The order of training, and what an example depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sanseg.data.datasets import SegmentationSet
from sanseg.data.stream import Batch, Example, Stream
from sanseg.data.transforms import Augmentation
from tests.data.test_datasets import stripes, write_set

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)


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
    sources = [endless[n].source for n in range(10)]
    assert sources != sorted(sources), "the sets are mixed"
    assert {endless[n].name.split("/")[0]: endless[n].source for n in range(10)} == {"pets": 0, "plants": 1}


def test_an_example_depends_on_seed_and_number_only(sets: list[SegmentationSet]) -> None:
    forwards = stream(sets)
    examples = [forwards[n] for n in range(25)]
    backwards = stream(sets)
    assert all(same(backwards[n], examples[n]) for n in reversed(range(25)))
    assert not all(same(stream(sets, seed=1)[n], examples[n]) for n in range(25))


def test_augmentation_differs_with_the_seed_too(sets: list[SegmentationSet], tmp_path: Path) -> None:
    lone = [SegmentationSet.open(write_set(tmp_path / "lone", {"a": stripes()}, ["cat", "dog"], other=254))]
    assert not all(same(stream(lone)[n], stream(lone, seed=1)[n]) for n in range(5))


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
    assert all(
        name.startswith(("pets", "plants")[source])
        for name, source in zip(batch.names, batch.sources, strict=True)
    )


def test_padding_is_unknown(tmp_path: Path) -> None:
    known = write_set(tmp_path / "known", {"a": stripes(values=(0, 1, 1, 0))}, ["cat", "dog"])
    examples = [stream([SegmentationSet.open(known)])[n] for n in range(20)]
    smallest = min(examples, key=lambda example: int(example.image.ne(0).sum()))
    assert set(torch.unique(smallest.index_map).tolist()) == {0, 1, 255}
