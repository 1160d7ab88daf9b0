"""Synonyms that no list of training holds, and all labels at once: whatever is asked leads back to the set's labels."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

from sanseg.data.datasets import SegmentationSet
from sanseg.vocabulary import Vocabulary

# The protocol names it itself; ADE20K-847 has it between commas: "car, auto, automobile, machine, motorcar".
NAMED_BY_THE_PROTOCOL = {"automobile"}

SEVERAL = [
    Vocabulary.of(["sky", "Tree | woods", "road"]),
    Vocabulary.of(["vegetation | tree", "way | path", "car"]),
    Vocabulary.of(["street", "road | way", "SKY"]),
]


def vocabularies(shared: Path) -> dict[str, Vocabulary]:
    sets = sorted((shared / "data").glob("*/dataset.json"))
    return {path.parent.name: SegmentationSet.open(path.parent).vocabulary for path in sets}


def listed(lines: list[str]) -> set[str]:
    """All names in lines of a list, case folded: the last column, its synonyms, and their parts between commas."""
    names = {name.casefold() for line in lines for name in line.split("\t")[-1].split(" | ")}
    return {part.strip() for name in names for part in (name, *name.split(","))}


def test_no_list_of_training_holds_a_synonym(mini: ModuleType, shared: Path) -> None:
    pairs = mini.vocabularies.read_pairs()
    labels = {name for words in vocabularies(shared).values() for names in words.names for name in names}
    lists = [
        shared / "data" / "photos" / "labels.tsv",
        *(shared / "labelsets").glob("*.txt"),
        *(path for path in files("sanseg").joinpath("data", "labels").iterdir()),
    ]
    known = labels | {name for file in lists for name in listed(file.read_text(encoding="utf-8").split("\n"))}
    assert set(pairs) <= labels
    assert {synonym for synonym in pairs.values() if synonym.casefold() in known} == NAMED_BY_THE_PROTOCOL
    assert not set(pairs) & {synonym.casefold() for synonym in pairs.values()}


def test_each_label_has_one_synonym_and_each_synonym_one_label(mini: ModuleType) -> None:
    lines = mini.vocabularies.SYNONYMS.read_text(encoding="utf-8").splitlines()
    pairs = mini.vocabularies.read_pairs()
    assert len(pairs) == len(set(pairs.values())) == len(lines) >= 45
    assert list(pairs) == sorted(pairs)


@pytest.mark.parametrize("name", ["msrc", "voc", "facade", "camvid", "coco_panoptic", "clothing"])
def test_every_set_can_be_asked_by_synonyms(mini: ModuleType, shared: Path, name: str) -> None:
    words, pairs = vocabularies(shared)[name], mini.vocabularies.read_pairs()
    asked, chosen = mini.vocabularies.renamed(words, pairs), mini.vocabularies.paired(words, pairs)
    assert len(asked.names) == len(words.names)
    assert sum(one is not None for one in chosen) >= 8
    for label, (before, after) in zip(chosen, zip(words.names, asked.names, strict=True), strict=True):
        assert after == (before if label is None else (pairs[label],))


def test_a_label_is_replaced_by_the_synonym_of_any_of_its_names(mini: ModuleType) -> None:
    words = Vocabulary.of(["vegetation | tree", "sky"])
    assert mini.vocabularies.renamed(words, {"tree": "woods"}).names == (("woods",), ("sky",))
    assert mini.vocabularies.paired(words, {"tree": "woods"}) == ("tree", None)


@pytest.mark.parametrize("words", [["tree", "bush"], ["tree", "woods"]])
def test_two_labels_that_become_one_are_refused(mini: ModuleType, words: list[str]) -> None:
    with pytest.raises(ValueError, match="one synonym: give each its own"):
        mini.vocabularies.renamed(Vocabulary.of(words), {"tree": "woods", "bush": "woods"})


def test_labels_that_share_a_name_are_merged_however_they_are_linked(mini: ModuleType) -> None:
    assert mini.vocabularies.united(SEVERAL).names == (
        ("sky",),
        ("Tree", "woods", "vegetation"),
        ("road", "way", "path"),
        ("car",),
        ("street",),
    )


def test_every_label_of_every_set_comes_back_to_itself(mini: ModuleType, shared: Path) -> None:
    for some in (SEVERAL, list(vocabularies(shared).values())):
        large = mini.vocabularies.united(some)
        place = {name.casefold(): index for index, names in enumerate(large.names) for name in names}
        for words in some:
            back = mini.vocabularies.places(large, words)
            for index, names in enumerate(words.names):
                assert {int(back[place[name.casefold()]]) for name in names} == {index}
            own = {place[name.casefold()] for names in words.names for name in names}
            assert all(back[index] == 255 for index in range(len(large.names)) if index not in own)


def test_about_two_hundred_labels_are_asked_at_once(mini: ModuleType, shared: Path) -> None:
    some = vocabularies(shared).values()
    large = mini.vocabularies.united(some)
    spoken = [name.casefold() for names in large.names for name in names]
    assert sorted(spoken) == sorted(
        {name.casefold() for one in some for names in one.names for name in names}
    )
    assert 190 < len(large.names) < 210


def test_a_set_whose_own_labels_would_be_merged_is_refused(mini: ModuleType) -> None:
    apart = Vocabulary.of(["tree", "vegetation"])
    large = mini.vocabularies.united([apart, SEVERAL[1]])
    with pytest.raises(ValueError, match=r"tree \| vegetation merges labels of one set"):
        mini.vocabularies.places(large, apart)
