"""Figures from one tally: the official evaluator's, the boundary paper's, and calibration."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from sanseg.metrics import (
    Metrics,
    Tally,
    boundary_overlap,
    boundary_width,
    confusion,
    detectron2_overlap,
    inner_boundary,
    seen_before,
)
from sanseg.vocabulary import Vocabulary


def tallied(
    prediction: object, truth: object, labels: int, confidence: object = None, kind: type = np.uint8
) -> Tally:
    """Of one picture."""
    tally = Tally.empty(labels)
    sure = None if confidence is None else np.array(confidence, np.float32)
    tally.add(np.array(prediction, kind), np.array(truth, kind), sure)
    return tally


def names(labels: int) -> list[str]:
    return [f"label {number}" for number in range(labels)]


@pytest.fixture(scope="module")
def official(shared: Path) -> dict[str, float]:
    folder = shared / "golden" / "evaluator"
    results: dict[str, float | None] = json.loads((folder / "results.json").read_text())["results"]
    return {name: math.nan if value is None else value for name, value in results.items()}


@pytest.fixture(scope="module")
def golden(shared: Path) -> Metrics:
    folder = shared / "golden" / "evaluator"
    class_names = json.loads((folder / "results.json").read_text())["class_names"]
    tally = Tally.empty(8)
    with np.load(folder / "pairs.npz") as pairs:
        for prediction, truth in zip(pairs["pred"], pairs["gt"], strict=True):
            tally.add(prediction, truth)
        assert (tally.counts[:8] == pairs["conf_matrix"][:8, :8]).all()
    return Metrics.of(tally, class_names)


def test_all_figures_equal_the_official_evaluators(golden: Metrics, official: dict[str, float]) -> None:
    assert golden.miou_present == pytest.approx(official.pop("mIoU"), rel=1e-12)
    assert golden.fwiou == pytest.approx(official.pop("fwIoU"), rel=1e-12)
    assert golden.macc == pytest.approx(official.pop("mACC"), rel=1e-12)
    assert golden.pacc == pytest.approx(official.pop("pACC"), rel=1e-12)
    for figures, key in (
        (golden.iou, "IoU"),
        (golden.acc, "ACC"),
        (golden.detectron2_boundary_iou, "BoundaryIoU"),
        (golden.detectron2_min_iou, "min(IoU, B-Iou)"),
    ):
        expected = [official.pop(f"{key}-{name}") for name in golden.labels]
        assert figures == pytest.approx(expected, rel=1e-12, nan_ok=True), key
    assert not official, "a figure of the official evaluator was left out"


def test_the_other_convention_divides_by_what_was_predicted_too(golden: Metrics) -> None:
    assert golden.miou_union == pytest.approx(golden.miou_present * 6 / 7, rel=1e-12), (
        "class6: only predicted"
    )


def test_the_true_boundary_measure_is_not_detectron2s(golden: Metrics) -> None:
    assert golden.boundary_iou[1] == pytest.approx(37.42, abs=0.005)
    assert golden.detectron2_boundary_iou[1] == pytest.approx(11.45, abs=0.005)


def test_what_is_not_a_label_is_not_counted_as_truth_and_wrong_as_an_answer() -> None:
    truth = np.array([[0, 1, 254, 255]], dtype=np.uint8)
    assert confusion(np.array([[0, 1, 0, 1]], dtype=np.uint8), truth, 2).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert confusion(np.array([[254, 254, 0, 1]], dtype=np.uint8), truth, 2).tolist() == [
        [0, 0],
        [0, 0],
        [1, 1],
    ]


def test_more_labels_than_8_bits_count() -> None:
    truth = np.array([[299, 65_534, 65_535]], dtype=np.uint16)
    assert confusion(truth, truth, 300)[299, 299] == 1
    assert confusion(truth, truth, 300).sum() == 1
    narrow = np.zeros((1, 3), np.uint8)  # a prediction may be of a type that cannot hold every label
    tally = Tally.empty(300)
    tally.add(narrow, truth)
    assert tally.counts[0, 299] == 1


def test_maps_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="2x1, the mask 1x2: predict at the picture's own size"):
        confusion(np.zeros((1, 2), np.uint8), np.zeros((2, 1), np.uint8), 2)


def test_no_labelled_pixel_is_an_error_rather_than_a_nan() -> None:
    with pytest.raises(ValueError, match="no pixel has a label"):
        Metrics.of(Tally.empty(2), ["a", "b"])


def test_a_tally_for_other_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="for 3 labels"):
        Metrics.of(Tally.empty(2), ["a", "b", "c"])
    with pytest.raises(ValueError, match="`seen` for each label"):
        Metrics.of(tallied([[0]], [[0]], 2), ["a", "b"], [True])


def test_a_boundary_is_two_hundredths_of_the_diagonal_wide() -> None:
    assert boundary_width((300, 400)) == 10
    assert boundary_width((3, 4)) == 1
    assert boundary_width((640, 853)) == 21


def test_the_pictures_border_is_a_boundary() -> None:
    """Ten by ten, d = 1. The truth is one mask, its boundary the outer ring of 36 pixels. The prediction cuts
    it in halves of 10x5, whose boundaries have 50 - 24 = 26 pixels, 18 of them on the ring."""
    truth = np.zeros((10, 10), np.uint8)
    halves = truth.copy()
    halves[:, 5:] = 1
    assert boundary_overlap(halves, truth, 2).tolist() == [[18, 0], [36, 0], [26, 26]]
    metrics = Metrics.of(tallied(halves, truth, 2), ["a", "b"])
    assert metrics.boundary_iou == pytest.approx((100 * 18 / (36 + 26 - 18), math.nan), nan_ok=True)
    assert metrics.miou_boundary == metrics.boundary_iou[0]


def test_a_shifted_square_by_hand() -> None:
    """100x100, d = 3: a square of 20x20 has a boundary of 400 - 14 * 14 = 204 pixels. Shifted by one, 19x20 of
    both squares overlap, and 13x14 of both insides; what only one has inside is two columns of 14."""
    truth = np.zeros((100, 100), np.uint8)
    truth[40:60, 40:60] = 1
    both, own, other = boundary_overlap(np.roll(truth, 1, axis=1), truth, 2)[:, 1].tolist()
    assert (own, other) == (204, 204)
    assert both == 19 * 20 - 13 * 14 - 2 * 14


def test_the_same_map_has_the_same_boundaries() -> None:
    truth = np.random.default_rng(0).integers(0, 4, (30, 40)).astype(np.uint8)
    metrics = Metrics.of(tallied(truth, truth, 4), names(4))
    assert metrics.boundary_iou == (100,) * 4


maps = st.tuples(
    st.integers(1, 70),
    st.integers(1, 120),
    st.sampled_from([(3, np.uint8), (254, np.uint8), (300, np.uint16)]),
)


def random_maps(
    height: int, width: int, labels: int, kind: type, seed: int
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]:
    """Coarse patches, with pixels of no label in the truth and in the answer."""
    rng = np.random.default_rng(seed)
    other = 254 if kind is np.uint8 else 65_534
    shape = (-(-height // 6), -(-width // 9))
    found = []
    for unknown in (other, other + 1):
        low = rng.integers(max(0, labels - 5), labels, shape)
        low[rng.random(shape) < 0.2] = unknown
        found.append(np.kron(low, np.ones((6, 9), int))[:height, :width].astype(kind))
    return found[0], found[1]


@settings(max_examples=60, deadline=None)
@given(case=maps, seed=st.integers(0, 1000))
def test_boundaries_are_those_of_the_paper_label_by_label(
    case: tuple[int, int, tuple[int, type]], seed: int
) -> None:
    """The paper erodes each mask by 3x3, d times, with nothing beyond the picture."""
    height, width, (labels, kind) = case
    prediction, truth = random_maps(height, width, labels, kind, seed)
    overlap = boundary_overlap(prediction, truth, labels)
    counted, d = truth < labels, boundary_width(truth.shape)
    for label in range(max(0, labels - 5), labels):
        edges = []
        for index_map in (prediction, truth):
            mask = index_map == label
            eroded = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=d, border_value=0)
            edges.append(mask & ~eroded & counted)
        expected = [(edges[0] & edges[1]).sum(), edges[1].sum(), edges[0].sum()]
        assert overlap[:, label].tolist() == expected
    assert overlap[:, : max(0, labels - 5)].sum() == 0


@settings(max_examples=60, deadline=None)
@given(case=maps, seed=st.integers(0, 1000))
def test_detectron2s_boundaries_are_grey_erosions(case: tuple[int, int, tuple[int, type]], seed: int) -> None:
    height, width, (labels, kind) = case
    prediction, truth = random_maps(height, width, labels, kind, seed)
    overlap = detectron2_overlap(prediction, truth, labels)
    grey = [np.minimum(index_map, labels).astype(np.uint8) for index_map in (prediction, truth)]
    size = 2 * boundary_width(truth.shape) + 1
    edges = [one - ndimage.minimum_filter(one, size, mode="constant", cval=0) for one in grey]
    matrix = np.zeros((labels + 1, labels + 1), int)
    np.add.at(matrix, (edges[0].ravel(), edges[1].ravel()), 1)
    inside = matrix[:-1, :-1]
    expected = [inside.diagonal(), inside.sum(0), inside.sum(1)]
    np.testing.assert_array_equal(overlap, expected)


def test_all_that_is_no_label_is_one_region() -> None:
    """Between "other" and "unknown" there is no boundary of a label."""
    index_map = np.full((200, 200), 254, np.uint8)
    index_map[:, 100:] = 255
    edge = inner_boundary(index_map, 2)
    assert not edge[100, 90:110].any()
    assert edge[0].all()


def test_boundaries_that_are_not_counted_have_no_figures() -> None:
    tally = Tally.empty(2, edges=False)
    tally.add(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    metrics = Metrics.of(tally, names(2))
    assert math.isnan(metrics.miou_boundary)
    assert all(map(math.isnan, metrics.boundary_iou + metrics.detectron2_boundary_iou))
    assert metrics.iou[0] == 100


def test_labels_at_exactly_zero_are_a_share_of_those_present() -> None:
    metrics = Metrics.of(tallied([[0, 0, 0, 0]], [[0, 1, 2, 3]], 6), names(6))
    assert metrics.zero == 75
    assert metrics.pixels == (1, 1, 1, 1, 0, 0)


def test_seen_and_unseen_apart_with_their_harmonic_mean() -> None:
    """IoU: 0 has 1/2, 1 has 1/1, 2 has 1/1, 3 has 0; 4 is not present."""
    tally = tallied([[0, 1, 2, 0]], [[0, 1, 2, 3]], 5)
    metrics = Metrics.of(tally, names(5), [True, False, True, False, True])
    assert metrics.seen == (True, False, True, False, True)
    assert (metrics.miou_seen, metrics.miou_unseen) == (75, 50)
    assert metrics.miou_harmonic == 60
    nothing_said = Metrics.of(tally, names(5))
    assert nothing_said.seen == (None,) * 5
    assert math.isnan(nothing_said.miou_seen)
    only_seen = Metrics.of(tally, names(5), [True] * 5)
    assert only_seen.miou_seen == metrics.miou_present
    assert math.isnan(only_seen.miou_unseen)
    assert math.isnan(only_seen.miou_harmonic)
    none_right = Metrics.of(tallied([[1, 0]], [[0, 1]], 2), names(2), [True, False])
    assert none_right.miou_harmonic == 0


def test_a_label_is_seen_by_any_of_its_names_whatever_the_case() -> None:
    vocabulary = Vocabulary.of(
        ["Sofa | couch", "building, edifice", "cat", "dining  table", "catalogue", "tree"]
    )
    trained_on = ["armchair | Couch", "Edifice", "CAT", "dining table", "bush, tree"]
    assert seen_before(vocabulary, trained_on) == (True, True, True, True, False, True)
    assert seen_before(vocabulary, []) == (False,) * 6


def test_a_perfectly_calibrated_answer_has_no_error() -> None:
    """Ten pixels at 0.9, nine right; ten at 0.5, five right."""
    prediction = [[0] * 20]
    truth = [[0] * 9 + [1] + [0] * 5 + [1] * 5]
    confidence = [[0.9] * 10 + [0.5] * 10]
    metrics = Metrics.of(tallied(prediction, truth, 2, confidence), names(2))
    assert metrics.calibration_error == pytest.approx(0, abs=1e-5)
    full = {number: one for number, one in enumerate(metrics.reliability) if one.pixels}
    assert full.keys() == {7, 13}  # of 15: 0.5 and 0.9
    assert (full[13].pixels, full[13].accuracy) == (10, 90)
    assert full[13].confidence == pytest.approx(90)
    assert math.isnan(metrics.reliability[0].accuracy)


def test_overconfidence_is_weighted_by_pixels() -> None:
    """Three pixels at 1, one right: off by 2/3. One at 0.5 and wrong: off by 0.5. Not counted: unknown."""
    metrics = Metrics.of(tallied([[0, 0, 0, 0, 0]], [[0, 1, 1, 1, 255]], 2, [[1, 1, 1, 0.5, 0]]), names(2))
    assert metrics.calibration_error == pytest.approx(100 * (3 * 2 / 3 + 0.5) / 4)
    assert [one.pixels for one in metrics.reliability] == [0] * 7 + [1] + [0] * 6 + [3]


def test_too_sure_and_not_sure_enough_do_not_make_up_for_each_other() -> None:
    """Two pixels at 0.9 and wrong, two at 0.1 and right."""
    metrics = Metrics.of(tallied([[0, 0, 0, 0]], [[1, 1, 0, 0]], 2, [[0.9, 0.9, 0.1, 0.1]]), names(2))
    assert metrics.calibration_error == pytest.approx(90)


def test_an_answer_without_confidence_has_no_calibration() -> None:
    metrics = Metrics.of(tallied([[0]], [[0]], 1), names(1))
    assert math.isnan(metrics.calibration_error)
    assert metrics.reliability == ()


@pytest.mark.parametrize("wrong", [[[1.5]], [[-0.1]], [[math.nan]]])
def test_confidence_out_of_range_is_refused_and_nothing_is_counted(wrong: list[list[float]]) -> None:
    tally = Tally.empty(1)
    with pytest.raises(ValueError, match="not within 0 to 1"):
        tally.add(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), np.array(wrong, np.float32))
    with pytest.raises(ValueError, match=r"confidence of shape \(2, 1\)"):
        tally.add(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), np.ones((2, 1), np.float32))
    assert not tally.counts.any()
    assert not tally.bins.any()


def test_tallies_of_parts_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(1)
    pictures = [
        (*random_maps(20, 30, 4, np.uint8, seed), rng.random((20, 30), np.float32)) for seed in range(4)
    ]
    whole, first, second = (Tally.empty(4) for _ in range(3))
    for number, picture in enumerate(pictures):
        whole.add(*picture)
        (first if number % 2 else second).add(*picture)
    others = iter([second.counts, second.boundary, second.detectron2, second.bins])
    summed = first.summed(lambda array: array + next(others))
    np.testing.assert_allclose(summed.bins, whole.bins)
    got, wanted = (Metrics.of(tally, names(4)).to_dict() for tally in (summed, whole))
    assert got.pop("calibration_error") == pytest.approx(wanted.pop("calibration_error"))
    assert len(got.pop("reliability")) == len(wanted.pop("reliability")) == 15
    assert got == wanted


def test_the_dictionary_is_plain_json() -> None:
    metrics = Metrics.of(tallied([[0, 0]], [[0, 1]], 3, [[1, 1]]), ["a", "b", "c"], [True, True, False])
    values = metrics.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["iou"] == [50, 0, None]
    assert values["seen"] == [True, True, False]
    assert values["miou_unseen"] is None
    assert values["reliability"][14] == {"pixels": 2, "accuracy": 50, "confidence": 100}
