"""A few words get rivals that are not themselves."""

from __future__ import annotations

import pytest

from sanseg.distractors import Taxonomy, distractors
from sanseg.vocabulary import Vocabulary


def silenced(*labels: str) -> set[str]:
    """The everyday words that do not compete with these labels."""
    everyday = set(distractors([]))
    return everyday - set(Vocabulary.of(labels).with_other("auto").other)


@pytest.mark.parametrize(
    ("label", "gone", "kept"),
    [
        ("cat", {"cat", "animal"}, {"dog", "sofa", "person"}),  # a kind silences what it is a kind of
        ("animal", {"cat", "dog", "bird"}, {"person", "car"}),  # and what is a kind of it
        ("kitten", {"cat", "animal"}, {"dog"}),
        ("couch", {"sofa", "furniture"}, {"chair", "table"}),  # synonyms
        ("furniture", {"sofa", "chair", "table", "bed"}, {"wall", "floor"}),
        ("car", {"car", "vehicle"}, {"bus", "road"}),
        ("vehicle", {"car", "bus", "train", "bicycle"}, {"road"}),
        ("wheel", {"car", "vehicle", "bicycle"}, {"road"}),  # a part silences its whole
        ("hair", {"hair", "person"}, {"face", "clothes"}),
        ("person", {"face", "hair", "hand", "clothes"}, {"dog", "bag"}),  # and a whole its parts
        ("people", {"person"}, {"dog"}),  # plurals
        ("buses", {"bus", "vehicle"}, {"car"}),
        ("leaves", {"tree", "plant"}, {"grass"}),
        ("Big Black Cats", {"cat", "animal"}, {"dog"}),  # the last word is what it is
        ("a cat on the sofa", {"cat", "animal"}, {"sofa"}),
        ("cat food", {"food"}, {"cat"}),
        ("group of people", {"person"}, {"dog"}),
        ("hot dog", {"food"}, {"dog", "animal"}),  # unless the whole is known
        ("chest of drawers", {"cabinet", "furniture"}, {"person"}),
        ("teddy-bear", {"toy"}, {"animal"}),
        ("vegetation | tree", {"tree", "plant", "grass"}, {"sky"}),
        ("street", {"road", "ground"}, {"sidewalk"}),
        ("pavement", {"sidewalk", "ground"}, {"road"}),
        ("bus, autobus", {"bus", "vehicle"}, {"car"}),
        ("background", set(distractors([])), set()),
        ("zorgblatt", set(), {"animal", "person"}),
    ],
)
def test_rivals_of_a_label_do_not_mean_the_label(label: str, gone: set[str], kept: set[str]) -> None:
    assert gone <= silenced(label)
    assert not kept & silenced(label)


def test_every_label_of_a_vocabulary_silences_its_own() -> None:
    assert silenced("cat", "couch") == silenced("cat") | silenced("couch")


def test_everyday_words_are_sound() -> None:
    words = distractors([])
    assert 60 <= len(words) <= 100
    for word in words:  # each can be a label: then it is no rival of itself
        assert word in silenced(word)
        assert word in silenced(f"small {word}s")


def test_a_taxonomy_is_read_by_indentation() -> None:
    lines = ["# comment", "a", "  * b | bee", "    c", "  d", "    c", "* b"]
    tree = Taxonomy.read(lines)
    assert tree.distractors == ("b",)
    assert tree.find("bee") == {"b"}
    assert tree.related({"c"}) == {"a", "b", "c", "d"}
    assert tree.related({"b"}) == {"a", "b", "c"}
    assert tree.related({"d"}) == {"a", "c", "d"}
