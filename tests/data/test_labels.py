"""Label sets as data: names only, in the order of the class ids."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from sanseg.data import raw_ids
from sanseg.data.labelsets import LABELSETS, read_labelset
from sanseg.vocabulary import Vocabulary

COUNTS = {name: int(name.rpartition("_")[2]) for name in LABELSETS if name != "mini"}
TRAINED_ON = ("coco_panoptic", "coco_things", "voc", "clothing", "facade", "msrc", "camvid")


@pytest.mark.parametrize("name", LABELSETS)
def test_every_line_is_a_name_of_its_own(name: str) -> None:
    labels = read_labelset(name)
    assert len(labels) == COUNTS.get(name, len(labels))
    assert all(label and label == " ".join(label.split()) for label in labels)
    words = [word.casefold() for label in labels for word in label.split(" | ")]
    assert len(words) == len(set(words))
    assert len(Vocabulary.of(labels).names) == len(labels)


def test_every_file_of_labels_is_a_label_set() -> None:
    there = {path.name for path in files("sanseg").joinpath("data", "labels").iterdir()}
    assert there == set(LABELSETS.values())


def test_an_unknown_label_set_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"no label set 'coco': choose from coco-stuff, voc, context59, .*, mini"
    ):
        read_labelset("coco")


@pytest.mark.parametrize("name", [name for name in COUNTS if name not in ("cityscapes_19", "camvid_11")])
def test_names_are_those_of_the_protocol(name: str, shared: Path) -> None:
    rows = (shared / "labelsets" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert read_labelset(name) == tuple(row.split("\t")[-1] for row in rows)


def test_raw_ids_are_those_of_the_protocol(shared: Path) -> None:
    coco = [row.split("\t") for row in (shared / "labelsets" / "coco_stuff_171.txt").read_text().splitlines()]
    assert tuple(int(number) - 1 for number, _, _ in coco) == raw_ids.COCO_STUFF_171
    ade = [row.split("\t") for row in (shared / "labelsets" / "ade20k_847.txt").read_text().splitlines()]
    assert [int(place) for _, place, _ in ade] == list(range(847))
    assert tuple(int(number) for number, _, _ in ade) == raw_ids.ADE20K_847
    facts = (shared / "labelsets" / "README.md").read_text()
    assert f"are {' '.join(map(str, raw_ids.PASCAL_CONTEXT_59))}, in that order" in facts


def test_the_59_of_pascal_context_are_among_the_459() -> None:
    few, many = read_labelset("pascal_context_59"), read_labelset("pascal_context_459")
    same = [many[number - 1] for number in raw_ids.PASCAL_CONTEXT_59]
    assert [pair for pair in zip(few, same, strict=True) if pair[0] != pair[1]] == [("diningtable", "table")]


def test_camvid_is_as_in_the_training_set(shared: Path) -> None:
    described = json.loads((shared / "data" / "camvid" / "dataset.json").read_text())
    assert read_labelset("camvid_11") == tuple(described["labels"])


def test_mini_has_every_name_it_was_trained_on(shared: Path) -> None:
    """Synonyms stay together, but for groups that only partly agree: those are names of their own."""
    groups = [
        label.split(" | ")
        for name in TRAINED_ON
        for label in json.loads((shared / "data" / name / "dataset.json").read_text())["labels"]
    ]
    mini = [label.split(" | ") for label in read_labelset("mini")]
    assert [name for names in mini for name in names] == list(
        dict.fromkeys(name for names in groups for name in names)
    )
    owner = {name: set(names) for names in mini for name in names}
    for names in groups:
        overlapping = [other for other in groups if set(other) & set(names) and set(other) != set(names)]
        assert overlapping or owner[names[0]] == set(names)
        assert not overlapping or all(len(owner[name]) == 1 for name in names)
