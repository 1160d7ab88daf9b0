"""Names withheld from a training: neither pictures nor masks nor labels of them are left in it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sanseg.data.datasets import SegmentationSet
from tests.recipes.conftest import OTHER, UNKNOWN, write_set

LABELS = ("grass", "sheep", "sky | heavens", "sailboat | yacht", "road")
MASKS = {
    "meadow": [0, 2, OTHER, UNKNOWN],
    "flock": [0, 1, 2],
    "harbour": [3, 2],
    "street": [4, 4, 2, 0],
    "nothing": [OTHER, UNKNOWN],
}


@pytest.fixture
def train(tmp_path: Path) -> SegmentationSet:
    return SegmentationSet.open(write_set(tmp_path / "tiny", LABELS, MASKS, "train"))


def names(one: SegmentationSet) -> list[str]:
    return [picture.name.partition("/")[2] for picture in one.files.pictures]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bird", "bird"),
        ("Birds", "bird"),
        ("birdhouse", "bird"),
        ("sheepdog", "sheep"),
        ("ship | sailboat", "boat"),
        ("a waterfall in the woods", "water"),
        ("bicycle-built-for-two", "bicycle"),
        ("sunglass", "sunglasses"),
        ("miniskirts", "skirt"),
        ("cauliflower", "flower"),
        ("hatchet", "hat"),  # the letter of the protocol: a word that contains the name
        ("A man that waits", "hat"),
        ("glasses", None),
        ("bicyclist", None),
        ("mountain bike", None),
        ("pavement | sidewalk", None),
        ("she epitomises", None),  # no word contains sheep
        ("boots", None),
    ],
)
def test_a_word_that_contains_a_name_holds_it(mini: ModuleType, text: str, name: str | None) -> None:
    assert mini.withheld.which(text) == name
    assert mini.withheld.holds(text) is (name is not None)
    assert mini.withheld.photo_kept(text) is mini.withheld.caption_kept(text) is (name is None)


def test_no_picture_whose_mask_holds_a_withheld_label_is_left_to_train_on(
    mini: ModuleType, train: SegmentationSet
) -> None:
    rest = mini.withheld.without(train)
    assert names(rest) == ["meadow", "street", "nothing"]
    assert rest.vocabulary.names == (("grass",), ("sky", "heavens"), ("road",))
    assert (rest.name, rest.split, rest.form) == (train.name, train.split, train.form)


def test_pixels_keep_the_names_that_they_had(mini: ModuleType, train: SegmentationSet) -> None:
    def words(one: SegmentationSet, index: int) -> list[str]:
        called = dict(enumerate(one.vocabulary.labels)) | {OTHER: "other", UNKNOWN: "unknown"}
        return [called[int(id_)] for id_ in one[index].index_map.ravel()]

    rest = mini.withheld.without(train)
    for index, name in enumerate(names(rest)):
        assert words(rest, index) == words(train, names(train).index(name))


def test_what_is_left_out_of_training_becomes_test_pictures(mini: ModuleType, train: SegmentationSet) -> None:
    tested, rest = mini.withheld.left_out(train), mini.withheld.without(train)
    assert names(tested) == ["flock", "harbour"]
    assert sorted(names(tested) + names(rest)) == sorted(MASKS)
    assert tested.files.labels == train.files.labels
    assert np.unique(tested[1].index_map).tolist() == [2, 3]


def test_a_set_without_the_names_stays_whole(mini: ModuleType, tmp_path: Path) -> None:
    one = SegmentationSet.open(write_set(tmp_path / "dry", ["grass", "sky"], {"a": [0, 1, OTHER]}, "train"))
    assert names(mini.withheld.without(one)) == ["a"]
    assert len(mini.withheld.left_out(one)) == 0


def test_the_sets_hold_the_ten_names_and_no_word_that_contains_one(mini: ModuleType, shared: Path) -> None:
    sets = {path.parent.name: path.parent for path in (shared / "data").glob("*/dataset.json")}
    held = {
        name: {label for label in SegmentationSet.open(folder).files.labels if mini.withheld.holds(label)}
        for name, folder in sets.items()
    }
    assert held == {
        "camvid": set(),
        "clothing": {"hat", "skirt", "sunglasses"},
        "coco_panoptic": {"bicycle", "bird", "boat", "book", "flower", "sheep", "water"},
        "coco_things": {"bicycle", "bird", "boat", "book", "sheep"},
        "facade": set(),
        "msrc": {"bicycle", "bird", "boat", "book", "flower", "sheep", "water"},
        "voc": {"bicycle", "bird", "boat", "sheep"},
    }
    assert set.union(*held.values()) == set(mini.withheld.WITHHELD)


def test_what_imagenet_knows_is_named_as_imagenet_names_it(mini: ModuleType, shared: Path) -> None:
    photos = mini.photos.read_photos(shared / "data" / "photos")
    classes = {photo.name for photo in photos if photo.source != mini.photos.CALTECH}
    assert tuple(mini.withheld.IMAGENET) == mini.withheld.WITHHELD
    assert {name for known in mini.withheld.IMAGENET.values() for name in known} <= classes


def test_five_photos_of_each_class_of_caltech_are_kept_from_training(mini: ModuleType, shared: Path) -> None:
    photos = mini.photos.read_photos(shared / "data" / "photos")
    kept = mini.photos.held_out(photos)
    assert len(kept) == 5 * 101
    assert len({photo.name for photo in kept}) == 101
    assert all(photo.file.name.startswith("cal_") and photo.file.is_file() for photo in kept)


def test_which_photos_are_held_out_does_not_depend_on_the_order_of_the_list(
    mini: ModuleType, tmp_path: Path
) -> None:
    rows = [f"cal_{name}_{n:02}.jpg\tcaltech-101\t{name}" for name in ("ant", "crab") for n in range(7)]
    rows.append("in_n01440764.jpg\timagenet-sample\tant")
    for order in (rows, rows[::-1]):
        (tmp_path / "labels.tsv").write_text("\n".join(order) + "\n")
        kept = mini.photos.held_out(mini.photos.read_photos(tmp_path))
        assert [photo.file.name for photo in kept] == [
            f"cal_{name}_{n:02}.jpg" for name in ("ant", "crab") for n in range(2, 7)
        ]
        assert kept[0].file.parent == tmp_path / "images"
