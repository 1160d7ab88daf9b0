"""Words are read as written, refused with a reason, and a few of them get rivals that are not themselves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from sanseg.vocabulary import (
    FEW,
    MAX_CHARACTERS,
    MAX_LABELS,
    Taxonomy,
    Vocabulary,
    distractors,
    other_id,
)


def silenced(*labels: str) -> set[str]:
    """The everyday words that do not compete with these labels."""
    everyday = set(distractors([]))
    return everyday - set(Vocabulary.of(labels).with_other("auto").other)


def test_a_text_and_a_list_mean_the_same() -> None:
    expected = (("sky",), ("tree", "woods"), ("car", "automobile"))
    assert Vocabulary.from_text(" sky, tree | woods ,car|automobile").names == expected
    assert Vocabulary.of("sky, tree | woods, car | automobile").names == expected
    assert Vocabulary.of(["sky", "tree | woods", "car | automobile"]).names == expected
    assert Vocabulary.of(expected_vocabulary := Vocabulary(expected)) is expected_vocabulary


def test_commas_belong_to_names_in_lists_and_files(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("bus, autobus, coach\nsky\n", encoding="utf-8")
    assert Vocabulary.from_file(path) == Vocabulary.of(["bus, autobus, coach", "sky"])
    assert Vocabulary.from_file(path).labels == ("bus, autobus, coach", "sky")


@pytest.mark.parametrize(
    "contents",
    [
        "sky\ncafé | coffee  shop\n",
        "\ufeffsky\ncafé | coffee shop",
        "sky\r\ncafé|coffee shop\r\n\r\n\n",
        "sky\rcafe\u0301 | coffee\tshop",
        "sky\ncafé | coffee\u2028shop",
    ],
)
def test_a_file_may_come_from_any_editor(tmp_path: Path, contents: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(contents.encode())
    assert Vocabulary.from_file(path).names == (("sky",), ("café", "coffee shop"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"sk\xff\xfey\n")
    with pytest.raises(ValueError, match=r"labels\.txt is not UTF-8"):
        Vocabulary.from_file(path)
    path.write_text("\n \n")
    with pytest.raises(ValueError, match=r"labels\.txt holds no labels"):
        Vocabulary.from_file(path)
    with pytest.raises(FileNotFoundError):
        Vocabulary.from_file(tmp_path / "absent.txt")


def test_order_is_kept_and_duplicates_are_merged() -> None:
    vocabulary = Vocabulary.of(
        ["Tree", "sky", "tree", "car | auto", "  SKY ", "Auto|CAR", "Straße", "strasse"]
    )
    assert vocabulary.names == (("Tree",), ("sky",), ("car", "auto"), ("Straße",))
    assert Vocabulary.of("car | Car | auto").names == (("car", "auto"),)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "empty"),
        ("sky,,tree", "empty in 'sky,,tree'"),
        ("sky, tree,", "empty"),
        ("sky, tree |", "empty"),
        ([], "no labels"),
        (["sky", "  "], "empty"),
        (["sky", "\u200b"], "blank"),
        (["sky", "a\x00b"], "control or broken"),
        (["sky", "a\udcffb"], "control or broken"),
        (["x" * (MAX_CHARACTERS + 1)], rf"has {MAX_CHARACTERS + 1} characters, at most {MAX_CHARACTERS}"),
        (["car | auto", "truck | Auto"], "'Auto' is a name of two labels, 'car | auto' and 'truck | Auto'"),
        (["sky", 3], "a label is 3, a int"),
        ({"sky", "tree"}, "from set"),
        ({"sky": 1}, "from dict"),
        (b"sky", "from bytes"),
        (None, "from NoneType"),
        (Path("labels.txt"), "from_file"),
    ],
)
def test_what_cannot_be_a_vocabulary_is_refused_with_the_reason(words: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Vocabulary.of(words)  # type: ignore[arg-type]


def test_flat_names_are_not_taken_apart_letter_by_letter() -> None:
    with pytest.raises(ValueError, match=r"Vocabulary\.of"):
        Vocabulary(("sky", "tree"))  # type: ignore[arg-type]


def test_names_of_any_script_and_of_the_longest_length_are_kept() -> None:
    names = ["небо", "树", "🐈", "x" * MAX_CHARACTERS, "l'été", "AT&amp;T"]
    assert list(Vocabulary.of(names).labels) == names


def test_one_label_and_two_thousand() -> None:
    assert Vocabulary.of("cat").labels == ("cat",)
    names = [f"thing number {i}" for i in range(2000)]
    assert Vocabulary.of(names).labels == tuple(names)


def test_more_labels_than_a_map_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_LABELS}"):
        Vocabulary(tuple((str(i),) for i in range(MAX_LABELS + 1)))


def test_other_id_never_meets_a_label() -> None:
    assert [other_id(n) for n in (1, 254, 255, MAX_LABELS)] == [254, 254, 65_534, 65_534]


def test_equal_words_are_equal_and_hash_alike() -> None:
    one, same = Vocabulary.of("sky, tree | woods"), Vocabulary.of(["sky", "tree  |woods"])
    assert one == same
    assert hash(one) == hash(same)
    assert one.hash == same.hash
    # Outputs carry the hash: it may not change from one release or machine to the next.
    assert one.hash == "443e2bca95b6b425a9f541c66d6a6784b6071b63cd0734d8de56c48f824d969f"
    others = [
        Vocabulary.of("tree | woods, sky"),
        Vocabulary.of("sky, tree, woods"),
        one.with_other(["wall"]),
        Vocabulary(one.names, templates="plain"),
    ]
    assert len({one.hash, *(other.hash for other in others)}) == 5


def test_few_labels_get_rivals_and_many_do_not() -> None:
    few = [f"thing number {i}" for i in range(FEW - 1)]
    assert len(Vocabulary.of(few).with_other("auto").other) > 30
    assert Vocabulary.of([*few, "one more"]).with_other("auto").other == ()
    assert Vocabulary.of("cat").other == ()
    assert Vocabulary.of("cat").with_other("auto").with_other(None).other == ()


def test_a_list_replaces_the_rivals() -> None:
    vocabulary = Vocabulary.of("cat").with_other("auto")
    assert vocabulary.with_other(["sofa", "wall | brick wall", "Sofa"]).other == (
        "sofa",
        "wall",
        "brick wall",
    )
    assert vocabulary.with_other("sofa, wall").other == ("sofa", "wall")
    assert vocabulary.with_other([]).other == ()
    assert vocabulary.with_other(["sofa"]).labels == ("cat",)
    with pytest.raises(ValueError, match="'Cat' is a label and an other word"):
        vocabulary.with_other(["sofa", "Cat"])


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


def test_how_synonyms_are_taken_is_part_of_a_vocabulary() -> None:
    mean, best = (Vocabulary((("sofa", "couch"),), synonyms=synonyms) for synonyms in ("mean", "best"))
    assert mean == Vocabulary.of("sofa | couch")
    assert mean != best
    assert mean.hash != best.hash
    assert best.with_other("auto").synonyms == "best"
    with pytest.raises(ValueError, match="cannot be taken as 'first': choose from mean, best"):
        Vocabulary((("sofa", "couch"),), synonyms="first")


def test_hashes_in_files_written_before_stay_true() -> None:
    contents = [[["sofa", "couch"]], ["wall"], None]
    expected = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    assert Vocabulary((("sofa", "couch"),), ("wall",)).hash == expected
