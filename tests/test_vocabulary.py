"""Words are read as written, or refused with a reason."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sanseg.data.labelsets import read_labelset
from sanseg.vocabulary import FEW, MAX_CHARACTERS, MAX_LABELS, Vocabulary, other_id


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


@pytest.mark.parametrize(
    ("text", "labels", "negatives"),
    [
        ("red car, not toy car", [["red car"]], ["toy car"]),
        ("Not toy | model car,sky", [["sky"]], ["toy", "model car"]),
        ("nothing, not, knot", [["nothing"], ["not"], ["knot"]], []),
        ("\\not found, \\@home", [["not found"], ["@home"]], []),
        ("sky, not\u00a0tree", [["sky"]], ["tree"]),
    ],
)
def test_not_begins_a_negative_word(text: str, labels: list[list[str]], negatives: list[str]) -> None:
    words = Vocabulary.from_text(text)
    assert [list(names) for names in words.names] == labels
    assert list(words.negatives) == negatives
    listed = Vocabulary.of([" | ".join(names) for names in labels])
    assert listed.negatives == ()  # a list takes its labels whole
    assert Vocabulary.of(["not found"]).labels == ("not found",)


def test_negative_words_compete_whatever_else_does() -> None:
    words = Vocabulary.of("red car, not toy car")
    assert words.with_other(None).rivals == ("toy car",)
    assert words.with_other("wall, Toy car").rivals == ("toy car", "wall")
    assert "toy car" in words.with_other("auto").rivals
    assert words.hash != Vocabulary.of("red car").hash != Vocabulary.of("red car").with_other("toy car").hash
    for text, reason in (
        ("car, not Car", "'Car' is a label and a negative word"),
        ("not car", "no labels"),
        ("car, not toy | ", "empty in 'car, not toy | '"),
    ):
        with pytest.raises(ValueError, match=re.escape(reason)):
            Vocabulary.of(text)
    with pytest.raises(ValueError, match="leave the 'not' out"):
        words.with_other("wall, not sky")


def test_label_sets_by_name() -> None:
    assert Vocabulary.of("@ade150").labels == read_labelset("ade20k_150")
    assert Vocabulary.of(" @ade20k_150 ") == Vocabulary.named("ade150")
    words = Vocabulary.of("unicorn, @camvid, not toy car")
    assert words.labels == ("unicorn", *(line.split(" | ")[0] for line in read_labelset("camvid")))
    assert words.negatives == ("toy car",)
    assert Vocabulary.of(["@ade150"]).labels == ("@ade150",)
    with pytest.raises(ValueError, match=r"no label set 'ade': choose from coco-stuff, .*ade150.* mini"):
        Vocabulary.of("@ade")


def test_files_are_opened_where_the_caller_allows_it(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("bus, coach\nnot found\n")
    with pytest.raises(ValueError, match="no label set"):
        Vocabulary.of(f"@{path}")
    assert Vocabulary.from_text(f"@{path}", files=True).labels == ("bus, coach", "not found")
    assert Vocabulary.from_text(f"sky, @{path}", files=True).labels == ("sky", "bus, coach", "not found")
    with pytest.raises(ValueError, match="nor is there a file of this name"):
        Vocabulary.from_text("@absent.txt", files=True)
    own = tmp_path / "own.json"
    own.write_text('{"labels": ["sky"], "temperature": 2}')
    assert Vocabulary.from_text(f"@{own}", files=True).temperature == 2
    with pytest.raises(ValueError, match=r"says more than labels: give it alone"):
        Vocabulary.from_text(f"@{own}, tree", files=True)


def test_thresholds_are_of_labels() -> None:
    words = Vocabulary.of("sky, tree | woods")
    assert words.with_thresholds(0.3).thresholds == (0.3, 0.3)
    assert words.with_thresholds(0.3, {"Woods": 0.5}).thresholds == (0.3, 0.5)
    assert words.with_thresholds(0) == words
    assert words.with_thresholds(0).hash == words.hash != words.with_thresholds(0.3).hash
    with pytest.raises(ValueError, match="'wood' has a threshold and is no label: choose from sky, tree"):
        words.with_thresholds(0.3, {"wood": 0.5})
    for bad in (-0.1, 1.1, math.nan, "0.5", True):
        with pytest.raises(ValueError, match="wanted a confidence"):
            words.with_thresholds(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 thresholds for 2 labels"):
        replace(words, thresholds=(0.5,))


def test_settings_are_checked() -> None:
    words = Vocabulary.of("sky, tree")
    for temperature in (0, -1, math.inf, math.nan, 101, "2"):
        with pytest.raises(ValueError, match=r"temperature is .*: wanted 0\.01 to 100"):
            replace(words, temperature=temperature)  # type: ignore[arg-type]
    for colour in ((1, 2), (0, 0, 256), (0.5, 0, 0)):
        with pytest.raises(ValueError, match="wanted red, green and blue"):
            replace(words, colours=(colour, None))  # type: ignore[arg-type]
    assert replace(words, colours=(None, None)) == words
    with pytest.raises(ValueError, match="'poem' is unknown: use one of vild, plain, imagenet80"):
        replace(words, templates="poem")
    assert replace(words, templates="a {} \r\n\n the {}").templates == "a {}\nthe {}"
    hashes = {
        words.hash,
        replace(words, temperature=2).hash,
        replace(words, colours=((1, 2, 3), None)).hash,
        replace(words, negatives=("sea",)).hash,
        replace(words, templates="a {}").hash,
    }
    assert len(hashes) == 5
