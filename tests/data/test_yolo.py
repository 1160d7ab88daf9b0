"""YOLO's text files, in the layouts that Ultralytics and Roboflow write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sanseg.data.datasets import SegmentationSet, find_splits
from tests.data.test_datasets import write_picture

YAML = "path: ../datasets/pets\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog, any\n"


def polygon(index: int, left: int, top: int, right: int, bottom: int) -> str:
    """A line for a picture of 30x20."""
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return " ".join([str(index), *(f"{x / 30:.6f} {y / 20:.6f}" for x, y in corners)])


def write_yolo(
    folder: Path, yaml: str = YAML, place: str = "images/train", lines: tuple[str, ...] = ()
) -> Path:
    """Two pictures, a with an outline for each of the lines, b without."""
    folder.mkdir(exist_ok=True)
    (folder / "data.yaml").write_text(yaml)
    for seed, stem in enumerate("ab"):
        write_picture(folder / place / f"{stem}.png", 20, 30, seed)
    labels = folder / place.replace("images", "labels")
    labels.mkdir(parents=True, exist_ok=True)
    (labels / "a.txt").write_text("\n".join(lines or (polygon(1, 12, 6, 18, 10), polygon(0, 3, 2, 24, 14))))
    return folder


WANTED = np.full((20, 30), 254)
WANTED[2:14, 3:24] = 0
WANTED[6:10, 12:18] = 1


def test_polygons_become_labels(tmp_path: Path) -> None:
    """The smaller is drawn over the larger, though its line comes first."""
    folder = write_yolo(tmp_path / "pets")
    opened = SegmentationSet.open(folder)
    assert (opened.form, opened.vocabulary.labels) == ("yolo", ("cat", "dog, any"))
    assert [opened[index].name for index in (0, 1)] == ["pets/train/a", "pets/train/b"]
    assert (opened[0].index_map == WANTED).all()
    assert (opened[1].index_map == 254).all()
    assert find_splits(folder) == ("train", "val")
    with pytest.raises(ValueError, match=r"gives val as 'images/val', and .*pets/images/val does not exist"):
        SegmentationSet.open(folder, "val")
    with pytest.raises(ValueError, match="no split 'test': use one of train, val"):
        SegmentationSet.open(folder, "test")


@pytest.mark.parametrize(
    ("place", "yaml"),
    [
        ("train/images", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']"),
        ("images/train", "path: .\ntrain: [images/train]\nnames: [cat, dog]"),
        ("images", "train: images\nnames: [cat, dog]"),
        ("images/train", "train: train.txt\nnames: [cat, dog]"),
    ],
)
def test_the_layouts_of_others(tmp_path: Path, place: str, yaml: str) -> None:
    folder = write_yolo(tmp_path / "set", yaml, place)
    (folder / "train.txt").write_text("./images/train/a.png\nimages/train/b.png\n")
    opened = SegmentationSet.open(folder)
    assert len(opened) == 2
    assert (opened[0].index_map == WANTED).all()


def test_a_list_may_name_what_is_missing(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, "train: train.txt\nnames: [cat, dog]")
    (folder / "train.txt").write_text("images/train/a.png\nimages/train/c.png\n")
    with pytest.raises(ValueError, match=r"c\.png does not exist: .*data\.yaml names it"):
        SegmentationSet.open(folder)
    assert (SegmentationSet.open(folder, allow_missing=True)[0].index_map == WANTED).all()


def test_the_folder_may_be_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_yolo(tmp_path / "images"))
    opened = SegmentationSet.open(".")
    assert opened[0].name == "images/train/a"
    assert (opened[0].index_map == WANTED).all()


def test_outlines_may_lie_beside_their_pictures(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set", "train: train\nnames: [cat, dog]", place="train")
    opened = SegmentationSet.open(folder)
    assert [picture.name for picture in opened.files.pictures] == ["set/a", "set/b"]
    assert (opened[0].index_map == WANTED).all()


def test_two_pictures_of_one_stem_keep_their_names_apart(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set")
    write_picture(folder / "images" / "train" / "a.jpg", 20, 30)
    names = [picture.name for picture in SegmentationSet.open(folder).files.pictures]
    assert names == ["set/images/train/a.jpg", "set/images/train/a.png", "set/images/train/b.png"]
    (folder / "data.yaml").write_text("train: train.txt\nnames: [cat, dog]")
    (folder / "train.txt").write_text("images/train/a.png\nimages/train/a.bmp")
    assert SegmentationSet.open(folder, allow_missing=True).files.missing[0][0] == "set/images/train/a.bmp"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 0.5 0.5 0.2 0.2", "4 numbers after the class, a box: this form needs polygons"),
        ("0 0.1 0.1 0.2 0.2 0.3", "5 numbers after the class"),
        ("0", "0 numbers after the class"),
        ("2 0 0 0 1 1 1", "the class 2, the set has 2 labels: use indices below 2"),
        ("-1 0 0 0 1 1 1", "the class -1"),
        ("0.5 0 0 0 1 1 1", "the class 0.5"),
        ("nan 0 0 0 1 1 1", "the class nan"),
        ("0 0 0 0 20 30 20", "points from 0 to 30: divide by the picture's size"),
        ("0 0 0 0 nan 1 1", "points from nan"),
        ("cat 0 0 0 1 1 1", "wanted numbers, the class and x y of each point"),
    ],
)
def test_lines_that_mean_nothing_are_refused(tmp_path: Path, line: str, told: str) -> None:
    folder = write_yolo(tmp_path, lines=(polygon(0, 3, 2, 24, 14), "", line))
    with pytest.raises(ValueError, match=rf"line 3 of .*a\.txt has .*{told}"):
        SegmentationSet.open(folder)[0]


def test_points_just_outside_are_at_the_border(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, lines=("1 -0.001 -0.001 1.002 -0.001 1.002 1.002 -0.001 1.002",))
    assert (SegmentationSet.open(folder)[0].index_map == 1).all()


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("train: images/train", "wanted names, as a list or as numbers with names"),
        (
            "train: images/train\nnames: [cat, yes]",
            "has the name True, which YAML reads as no text: put it into",
        ),
        ("train: images/train\nnames: {0: cat, 2: dog}", "numbers its names in another way than 0, 1, 2"),
        ("train: images/train\nnames: {0: cat, a: dog}", "numbers its names in another way"),
        ("train: images/train\nnames: [cat]\nnc: 2", "has 1 names, its nc is 2"),
        ("train: images/train\nnames: []", "there are no labels"),
        ("train: images/train\nnames: [cat, Cat]", "the same thing twice"),
        ("train: {a: b}\nnames: [cat]", "wanted a path, or a list of paths"),
        ("train: [3]\nnames: [cat]", "wanted a path, or a list of paths"),
        ("train: labels\nnames: [cat]", "names pictures for 'train', and none are there"),
        ("names: [cat]", "no split 'train': it has none"),
        ("a: [", "is not YAML"),
        ("[" * 1_500, "is not YAML"),
        ("!!python/object/apply:os.system [ls]", "is not YAML"),
        ("just text", "describes no set"),
    ],
)
def test_a_description_that_is_wrong_is_refused(tmp_path: Path, yaml: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SegmentationSet.open(write_yolo(tmp_path, yaml))


def test_a_set_without_any_outlines_is_refused(tmp_path: Path) -> None:
    """All would be other: most likely the folder of labels has another name."""
    folder = write_yolo(tmp_path)
    (folder / "labels").rename(folder / "polygons")
    with pytest.raises(ValueError, match=r"there is no .*labels/train/a\.txt, nor one for any other picture"):
        SegmentationSet.open(folder)
