"""queries.py: what the queries say, before their masks became one label map, agrees with that map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sanseg.images import Geometry
from sanseg.labelmap import label_map
from sanseg.model.san import SAN
from sanseg.queries import Queries
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary


@pytest.fixture(params=["mean", "best"])
def seg(request: pytest.FixtureRequest, tiny_san: SAN) -> Segmentation:
    image = np.random.default_rng(0).integers(0, 256, (50, 71, 3), dtype=np.uint8)
    words = Vocabulary((("sky", "air"), ("tree",)), other=("wall", "floor"), synonyms=request.param)
    return Segmenter(tiny_san)(image, words, proposals=True)


def test_the_label_map_is_where_scores_are_largest(seg: Segmentation) -> None:
    scores, total = seg.scores(seg.label_map.shape)  # type: ignore[arg-type]
    assert scores.shape == (3, 50, 71)
    assert scores.dtype == total.dtype == np.float32
    best = np.array([0, 1, 254])[scores.argmax(axis=0)]
    first, second = np.sort(scores, axis=0)[[-1, -2]]
    clear = first - second > 1e-5 * first
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(best[clear], seg.label_map[clear])
    np.testing.assert_allclose(scores.max(axis=0) / total, seg.confidence, rtol=1e-4)


def test_padding_is_no_part_of_the_picture() -> None:
    """Half of the mask grid lies on what was added right and below."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 12, 16, generator=generator)
    probabilities = torch.rand(5, 3, generator=generator)
    geometry = Geometry((37, 41), (40, 45), (64, 96))
    queries = Queries(logits, torch.randn(5, 4), probabilities, (0, 1, 2), geometry)
    ids, confidence = label_map(logits, probabilities, (0, 1, 2), geometry)
    scores, total = queries.scores((37, 41))
    np.testing.assert_array_equal(scores[:3].argmax(axis=0), ids)
    np.testing.assert_allclose(scores.max(axis=0) / total, confidence, rtol=1e-4)
    assert queries.grid == (8, 8)
    assert queries.masks().shape == (5, 8, 8)


def test_scores_are_made_of_the_proposals(seg: Segmentation) -> None:
    proposals = seg.proposals()
    queries, labels = proposals.scores.shape
    assert (queries, labels) == (7, 3)
    assert proposals.embeddings.shape[0] == proposals.masks.shape[0] == queries
    np.testing.assert_allclose(np.linalg.norm(proposals.embeddings, axis=1), 1, rtol=1e-5)
    assert proposals.masks.min() >= 0
    assert proposals.masks.max() <= 1
    assert (proposals.scores.sum(axis=1) <= 1 + 1e-6).all()
    rows = np.einsum("qk,qyx->kyx", proposals.scores, proposals.masks)
    scores, _ = seg.scores()
    # A label's score is that of its best row, so where each label has one row they agree.
    if seg.vocabulary.synonyms == "mean":
        np.testing.assert_allclose(rows[:2], scores[:2], rtol=1e-5)


def test_masks_come_in_the_size_asked_for(seg: Segmentation) -> None:
    assert seg.proposals((50, 71)).masks.shape == (7, 50, 71)
    assert seg.proposals((5, 7)).masks.shape == (7, 5, 7)
    grid = seg.proposals().masks.shape[1:]
    assert grid[0] < grid[1] < 71
    with pytest.raises(ValueError, match=r"size is .0, 7.: give a height and a width of at least 1"):
        seg.proposals((0, 7))


def test_scores_need_the_queries(tiny_san: SAN) -> None:
    seg = Segmenter(tiny_san)(np.zeros((20, 30, 3), np.uint8), "sky")
    for ask in (seg.scores, seg.proposals):
        with pytest.raises(ValueError, match="ask with proposals=True"):
            ask()


def test_other_scores_nothing_where_nothing_competes(tiny_san: SAN) -> None:
    seg = Segmenter(tiny_san)(np.zeros((20, 30, 3), np.uint8), "sky, tree", None, proposals=True)
    scores, total = seg.scores()
    assert (scores[2] == 0).all()
    np.testing.assert_allclose(scores.sum(axis=0), total, rtol=1e-5)
