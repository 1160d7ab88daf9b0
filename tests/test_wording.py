"""What is alike to a text tower, and what is odd to it, is told before pictures are asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sanseg.model.tokenizer import Tokenizer
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary
from sanseg.wording import _known, examine, find_oddities, find_pairs, near_in_meaning, suggest


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def test_pairs_are_ordered_by_their_cosine() -> None:
    cosines = np.array([[1, 0.2, 0.9], [0.2, 1, 1.0], [0.9, 1.0, 1]], np.float32)
    pairs = find_pairs(["a", "b", "c"], cosines, scale=20.0)
    assert [(one.first, one.second) for one in pairs] == [("b", "c"), ("a", "c"), ("a", "b")]
    # Two labels, a region that is the first one's row: the share is the softmax of the two logits.
    shares = [torch.tensor([20.0, 20.0 * one.cosine]).softmax(0)[0].item() for one in pairs]
    assert [one.share for one in pairs] == pytest.approx(shares)
    assert pairs[0].share == 0.5
    assert find_pairs(["a"], cosines[:1, :1], 20.0) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sofa", None),
        ("café au lait", None),
        ("t-shirt", None),
        ("xqzvbrtk", "falls into"),
        ("собака", "is not in Latin script"),
        ("1234", "has no letters"),
        ("🐈", "has no letters"),
        (" ".join(["sofa"] * 80)[:250] + " a b c d e f g h i j k l m n o p q r s t u v w", "are cut off"),
    ],
)
def test_odd_names(tokenizer: Tokenizer, name: str, reason: str | None) -> None:
    found = find_oddities(name, tokenizer, ["a photo of a {}."], 77)
    assert all(line.startswith(f"{name}: ") for line in found)
    assert any(reason in line for line in found) if reason else found == []


def test_what_is_cut_off_depends_on_the_prompts(tokenizer: Tokenizer) -> None:
    name = " ".join(["a"] * 75)
    assert find_oddities(name, tokenizer, ["{}"], 77) == []
    assert "77 tokens, all after 75 are cut off" in find_oddities(name, tokenizer, ["{}", "{} b c"], 77)[0]


def test_near_names_are_suggested_for_those_no_list_has() -> None:
    assert "bicycle" in suggest("bycicle")
    assert suggest("pavment")[0] == "pavement"
    assert suggest("Traffic  light") == ()
    assert suggest("edifice") == ()  # "building, edifice"
    assert suggest("zorgblatt") == ()
    assert len(suggest("tabel")) <= 3


def test_names_near_in_meaning_are_those_of_the_largest_cosine(segmenter: Segmenter) -> None:
    counts: list[tuple[int, int]] = []
    found = near_in_meaning(segmenter, ["dog", "zorgblatt", "gazelle"], lambda *both: counts.append(both), 5)
    assert [*found] == ["zorgblatt", "gazelle"], "dog is in a list"
    lists = [*dict.fromkeys(_known().values())]
    rows = segmenter.classifier(
        Vocabulary([(name,) for name in (*lists, "gazelle")], templates="plain")
    ).weight
    cosines = (rows[:-2] @ rows[-2]).numpy()  # the last is "nothing"
    best = np.argsort(-cosines)[:5]
    assert [name for name, _ in found["gazelle"]] == [lists[row] for row in best]
    assert [cosine for _, cosine in found["gazelle"]] == pytest.approx(cosines[best], abs=1e-5)
    assert counts[-1] == (len(lists), len(lists))
    assert [done for done, _ in counts] == sorted(done for done, _ in counts)
    counts.clear()
    assert near_in_meaning(segmenter, ["dog", "Sofa"], lambda *both: counts.append(both)) == {}
    assert counts == [], "nothing is read for words that the lists hold"
    again = near_in_meaning(segmenter, ["gazelle"], lambda *both: counts.append(both), 5)
    assert [name for name, _ in again["gazelle"]] == [name for name, _ in found["gazelle"]]
    assert counts == [], "they are read once"


def test_labels_and_negative_words_are_held_against_each_other(segmenter: Segmenter) -> None:
    words = Vocabulary.of("sofa | couch, dog, not toy dog").with_other("wall").with_thresholds(0.5)
    found = examine(segmenter, words)
    assert found.words == ("sofa", "dog", "not toy dog")
    assert len(found.pairs) == 3
    rows = segmenter.classifier(Vocabulary.of("sofa | couch, dog, toy dog")).weight[:3].numpy()
    np.testing.assert_allclose(found.cosines, rows @ rows.T, atol=1e-6)
    assert examine(segmenter, Vocabulary.of("fense, dog")).suggestions == {"fense": ("fence",)}


def test_the_best_of_synonyms_is_looked_at_as_their_mean(segmenter: Segmenter) -> None:
    names = (("sofa", "couch"), ("dog",))
    best, mean = (examine(segmenter, Vocabulary(names, synonyms=how)) for how in ("best", "mean"))
    np.testing.assert_array_equal(best.cosines, mean.cosines)
