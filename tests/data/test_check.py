"""What the check finds, and that it finds it whatever the order of threads."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanseg.data.check import Findings, LabelUse, check
from sanseg.data.datasets import Sample, SegmentationSet
from tests.data.test_datasets import stripes, write_set


def open_set(folder: Path, split: str = "train") -> SegmentationSet:
    return SegmentationSet.open(folder, split, allow_missing=True)


def write_pets(folder: Path) -> Path:
    """Four pictures, 12x16, of cats and dogs; the third shows neither, the fourth is unknown throughout."""
    masks = {
        "a": stripes(),
        "b": stripes(values=(0, 0, 0, 254)),
        "c": stripes(values=(254, 254, 254, 255)),
        "d": stripes(values=(255,) * 4),
    }
    return write_set(folder / "pets", masks, ["cat", "dog", "fox"], other=254)


def test_labels_and_pixels_are_counted(tmp_path: Path) -> None:
    findings = check(open_set(write_pets(tmp_path)))
    assert findings == Findings(
        pictures=4,
        bad=(),
        empty=("pets/c", "pets/d"),
        duplicates=(),
        labels=(LabelUse("cat", 2, 4 * 48), LabelUse("dog", 1, 48), LabelUse("fox", 0, 0)),
        other=(1 + 1 + 3) * 48,
        unknown=(1 + 1 + 4) * 48,
    )
    assert findings.unused == ("fox",)
    assert findings.labelled == 5 * 48
    assert findings.problem() is None
    assert json.loads(json.dumps(findings.to_dict()))["labels"][1] == {
        "label": "dog",
        "pictures": 1,
        "pixels": 48,
    }


def test_bad_pictures_are_listed_each_with_its_reason(tmp_path: Path) -> None:
    masks = {stem: stripes() for stem in "abcdefg"}
    folder = write_set(tmp_path / "pets", masks, ["cat", "dog"], other=254)
    Image.fromarray(stripes()[1:]).save(folder / "masks" / "b.png")
    Image.fromarray(stripes(values=(0, 1, 2, 3))).save(folder / "masks" / "c.png")
    (folder / "images" / "d.png").write_bytes(b"no picture")
    (folder / "masks" / "e.png").write_bytes(b"")
    (folder / "images" / "f.png").unlink()
    dataset = open_set(folder)
    findings = check(dataset)
    reasons = ("16x11, its picture 16x12", "holds the value 3", "is no picture", "no PNG", "there is no file")
    assert [name for name, _ in findings.bad] == [f"pets/{stem}" for stem in "bcdef"]
    for (_, why), reason in zip(findings.bad, reasons, strict=True):
        assert reason in why
        assert "\n" not in why
    assert findings.labels == (LabelUse("cat", 2, 2 * 48), LabelUse("dog", 2, 2 * 48))
    problem = findings.problem()
    assert problem is not None
    assert problem.startswith("5 of 7 pictures cannot be used, mend or skip them (pets/b: ")
    assert problem.endswith("; and 2 more)")
    assert findings.problem(skip_bad=True) is None
    good = check(dataset.without(name for name, _ in findings.bad))
    assert (good.pictures, good.bad, good.labels) == (2, (), findings.labels)


def test_a_set_with_nothing_labelled_is_a_problem(tmp_path: Path) -> None:
    masks = {"a": stripes(values=(254, 255, 254, 255)), "b": stripes(values=(0, 0, 0, 0))}
    folder = write_set(tmp_path / "pets", masks, ["cat", "dog"], other=254)
    (folder / "images" / "b.png").unlink()
    findings = check(open_set(folder))
    problem = findings.problem(skip_bad=True)
    assert problem is not None
    assert problem.startswith("no pixel is labelled in the 1 pictures that can be read: look at the values")
    assert check(open_set(folder, "val")).problem() == "there is no picture: give a split that has some"


def test_duplicates_are_found_by_what_they_show(tmp_path: Path) -> None:
    folder = write_pets(tmp_path)
    shutil.copy(folder / "images" / "a.png", folder / "images" / "c.png")
    with Image.open(folder / "images" / "a.png") as picture:
        picture.save(folder / "images" / "d.png", compress_level=0)  # other bytes, the same pixels
    assert (folder / "images" / "a.png").read_bytes() != (folder / "images" / "d.png").read_bytes()
    assert check(open_set(folder)).duplicates == (("pets/a", "pets/c", "pets/d"),)


def test_the_same_bytes_in_another_shape_are_another_picture(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "pets", {"a": stripes(), "b": stripes().T}, ["cat", "dog"], other=254)
    for stem, shape in (("a", (12, 16, 3)), ("b", (16, 12, 3))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(folder / "images" / f"{stem}.png")
    assert check(open_set(folder)).duplicates == ()


def test_duplicates_are_found_across_splits(tmp_path: Path) -> None:
    folder = write_pets(tmp_path)
    described = json.loads((folder / "dataset.json").read_text())
    described["splits"] = {"train": ["a", "b"], "val": ["b", "c"]}
    (folder / "dataset.json").write_text(json.dumps(described))
    findings = check(open_set(folder), open_set(folder, "val"))
    assert findings.pictures == 4
    assert findings.duplicates == (("pets/b (train)", "pets/b (val)"),)
    assert findings.labels[0] == LabelUse("cat", 3, 7 * 48)


def test_sets_with_other_labels_are_not_checked_as_one(tmp_path: Path) -> None:
    pets = open_set(write_pets(tmp_path))
    more = open_set(write_set(tmp_path / "swapped", {"a": stripes()}, ["dog", "cat", "fox"], other=254))
    with pytest.raises(ValueError, match="splits train and train of swapped differ in their labels"):
        check(pets, more)
    with pytest.raises(ValueError, match="there is no set to check"):
        check()


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    masks = {f"{number:02d}": stripes(values=(number % 3, 0, 254, 255)) for number in range(40)}
    dataset = open_set(write_set(tmp_path / "pets", masks, ["cat", "dog", "fox"], other=254))
    seen: list[int] = []
    findings = check(dataset, threads=1, progress=seen.append)
    assert seen == [1] * 40
    assert check(dataset, threads=7) == findings


def test_threads_stay_near_and_stop_with_the_check(tmp_path: Path) -> None:
    """Pictures are not read far ahead of what is counted, and an interruption ends the threads."""
    read: list[str] = []

    class Watched(SegmentationSet):
        def __getitem__(self, index: int) -> Sample:
            read.append(self.files.pictures[index].name)
            return super().__getitem__(index)

    folder = write_set(
        tmp_path / "pets", {f"{n:02d}": stripes() for n in range(60)}, ["cat", "dog"], other=254
    )
    opened = open_set(folder)

    def interrupt(done: int) -> None:
        time.sleep(0.2)  # for the threads to read what they have been given
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        check(Watched(opened.name, opened.files), threads=3, progress=interrupt)
    assert 0 < len(read) <= 2 * 3 + 1
    assert threading.active_count() == before
