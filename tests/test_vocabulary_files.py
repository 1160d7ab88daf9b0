"""A vocabulary on disk says the same when it is read again, and what is wrong with a file is said in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sanseg.vocabulary import Vocabulary
from sanseg.vocabulary_files import METADATA, Embeddings, from_document, to_document

WORDS = Vocabulary(
    (("sky",), (["tree", "oak"][0], "woods"), ("not found",)),
    other=("wall",),
    templates="a {}\nthe {}",
    synonyms="best",
    negatives=("toy tree",),
    thresholds=(0.0, 0.25, 0.5),
    temperature=1.75,
    colours=((1, 2, 255), None, None),
)


def embedded(words: Vocabulary = WORDS) -> Vocabulary:
    names = (*(name for names in words.names for name in names), *words.rivals)
    rows = np.random.default_rng(0).normal(size=(len(names), 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return replace(words, embeddings=Embeddings("tiny", "abc", "plain", names, rows))


@given(
    count=st.integers(1, 5),
    other=st.booleans(),
    templates=st.sampled_from([None, "plain", "a {}\nthe {}", "a {}"]),
    synonyms=st.sampled_from(["mean", "best"]),
    thresholds=st.lists(st.floats(0, 1), min_size=5, max_size=5),
    temperature=st.floats(0.01, 100),
    colours=st.lists(st.none() | st.tuples(*[st.integers(0, 255)] * 3), min_size=5, max_size=5),
)
def test_json_says_everything(
    count: int,
    other: bool,
    templates: str | None,
    synonyms: str,
    thresholds: list[float],
    temperature: float,
    colours: list[tuple[int, int, int] | None],
) -> None:
    words = Vocabulary(
        tuple((f"label {number}", f"name, {number}") for number in range(count)),
        other=("wall", "not a wall") if other else (),
        templates=templates,
        synonyms=synonyms,
        negatives=("toy",) * other,
        thresholds=tuple(thresholds[:count]),
        temperature=temperature,
        colours=tuple(colours[:count]),
    )
    read = from_document(json.loads(json.dumps(to_document(words))), "here")
    assert read == words
    assert read.hash == words.hash


def test_files_are_read_by_their_ending_and_always_the_same(tmp_path: Path) -> None:
    words = embedded()
    for name in ("a.json", "A.JSON", "a.safetensors"):
        words.save(tmp_path / name)
        first = (tmp_path / name).read_bytes()
        read = Vocabulary.from_file(tmp_path / name)
        assert replace(read, embeddings=None) == WORDS
        read.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == first
    assert read == words
    assert read.embeddings is not None
    np.testing.assert_array_equal(read.embeddings.rows, words.embeddings.rows)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"let it end in \.json or \.safetensors"):
        words.save(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"have none: embed them with Segmenter\.embed"):
        WORDS.save(tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_lists_and_objects() -> None:
    assert from_document(["sky", "bus, coach | bus", "not found"], "x").names == (
        ("sky",),
        ("bus, coach", "bus"),
        ("not found",),
    )
    labels = [{"name": "a, b", "id": 1}, {"id": 0, "name": "c", "synonyms": ["d"], "colour": "#FF0080"}]
    read = from_document({"labels": labels, "threshold": 0.2}, "x")
    assert read.names == (("c", "d"), ("a, b",))  # in the order of the ids; a name is taken whole
    assert read.colours == ((255, 0, 128), None)
    assert read.thresholds == (0.2, 0.2)
    assert len(from_document({"labels": ["cat"], "other": "auto"}, "x").other) > 30


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (3, "holds no labels"),
        ({"names": []}, "holds no labels"),
        ([], "there are no labels"),
        ([3], "a label is 3: wanted a string, or an object with a name"),
        (["sky", ""], "blank"),
        (["sky", "Sky"], "two labels have the same names"),
        ([{"name": "sky", "color": "red"}], "'color' means nothing here: choose from id, name"),
        ({"labels": ["sky"], "temp": 2}, "'temp' means nothing here: choose from labels, other"),
        ([{"name": "sky", "id": 1}], r"the ids are \[1\]: a label map holds 0 to 0"),
        ([{"name": "sky", "id": 0}, "tree"], "leave all ids out"),
        ([{"name": "sky", "id": True}], "wanted a number"),
        ([{"name": "sky", "colour": "red"}], "a colour is 'red': wanted '#rrggbb'"),
        ([{"name": "sky", "colour": [1, 2, 300]}], "from 0 to 255"),
        ([{"name": "sky", "threshold": "high"}], "wanted a confidence"),
        ([{"name": "sky", "synonyms": "heaven"}], "synonyms is 'heaven': wanted a list of strings"),
        ({"labels": ["sky"], "temperature": None}, "the temperature is None"),
        ({"labels": ["sky"], "templates": ["a photo"]}, "is unknown"),
        ({"labels": ["sky"], "templates": 3}, "wanted a name, or a list of prompts"),
        ({"labels": ["sky"], "synonyms": []}, "cannot be taken as"),
        ({"labels": ["sky"], "other": "wall"}, "other is 'wall': wanted a list of strings"),
        ([{"name": "a | b"}], r"the name 'a \| b' holds a bar, which separates synonyms"),
        ({"labels": ["sky"], "temperature": 10**400}, "the temperature is 1000"),
        ({"labels": ["sky"], "threshold": 10**400}, "a threshold is 1000"),
        ({"labels": ["sky"], "threshold": ["x"] * 10_000}, "a threshold is .{,80}: wanted a confidence"),
        ({"labels": ["sky"], "templates": {"x": "x" * 10_000}}, "templates is .{,80}: wanted a name"),
        ({"labels": ["sky"], "synonyms": "x" * 10_000}, "cannot be taken as .{,80}: choose from"),
    ],
)
def test_what_json_cannot_say(document: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=reason) as told:
        Vocabulary.from_file(path)
    assert "words.json" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("depth", [*range(800, 1010, 3)])  # somewhere there, what can be read cannot be shown
def test_json_of_any_depth_is_a_mistake_in_one_line(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text('{"labels": ["sky"], "threshold": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(ValueError, match=r"words\.json"):
        Vocabulary.from_file(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    embedded().save(path)
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[-2] ^= 1
    for data in (b"", whole[: len(whole) // 2], bytes(spoilt), b"x" * 100):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"words\.safetensors is (no vocabulary|damaged)"):
            Vocabulary.from_file(path)
    save_file({"weights": np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match="sanseg words WORDS --save"):
        Vocabulary.from_file(path)
    for told in ("[]", '{"format": 9}', '{"format": 1}'):
        save_file({"embeddings": np.eye(3, dtype=np.float32)}, path, {METADATA: told})
        with pytest.raises(ValueError, match="damaged"):
            Vocabulary.from_file(path)
    with pytest.raises(FileNotFoundError):
        Vocabulary.from_file(tmp_path / "absent.safetensors")
    path.with_suffix(".json").write_bytes(b'["sk\xff"]')
    with pytest.raises(ValueError, match="is not JSON"):
        Vocabulary.from_file(path.with_suffix(".json"))
    with pytest.raises(ValueError, match="no unit rows"):
        Embeddings("tiny", "abc", "plain", ("a",), np.full((1, 3), np.nan, np.float32))
