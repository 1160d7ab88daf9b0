"""A temperature makes the confidence honest where it was not, and moves no pixel to another label."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanseg import calibration
from sanseg.calibration import _Asked, calibrate, fit_temperature, loss
from sanseg.data.datasets import SegmentationSet
from sanseg.metrics import Metrics, Tally
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary


def drawn(
    temperature: float, seed: int = 0, pixels: int = 20_000, rows: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, R), and those of the truth (N,), which is drawn from their shares at a temperature."""
    generator = np.random.default_rng(seed)
    z_NR = generator.normal(scale=3, size=(pixels, rows)).astype(np.float32)
    noise = generator.gumbel(size=z_NR.shape)  # the largest of z / T + Gumbel noise is drawn from the softmax
    truth = (z_NR / temperature + noise).argmax(1)
    return z_NR, z_NR[np.arange(pixels), truth]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_drawn_from_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.1, 10), other=st.floats(0.02, 50))
def test_no_other_temperature_is_likelier(seed: int, temperature: float, other: float) -> None:
    z_NR, truth_N = drawn(temperature, seed, pixels=200)
    found = fit_temperature(z_NR, truth_N)
    assert loss(z_NR, truth_N, found) <= loss(z_NR, truth_N, other) + 1e-5


def test_what_is_always_right_or_always_wrong_stays_in_range() -> None:
    z_NR = np.array([[5.0, 0.0, 1.0]] * 4, np.float32)
    assert 0.01 <= fit_temperature(z_NR, z_NR[:, 0]) < 0.3
    assert fit_temperature(z_NR, z_NR[:, 1]) == pytest.approx(100)


def sure(segmenter: Segmenter, dataset: SegmentationSet, words: Vocabulary, first: int) -> Metrics:
    """Of every second picture, as a user would have it."""
    tally = Tally.empty(len(words.names), edges=False)
    for index in range(first, len(dataset), 2):
        sample = dataset[index]
        answer = segmenter(sample.image, words, other=words.other or None)
        tally.add(answer.label_map, sample.index_map, answer.confidence)
    return Metrics.of(tally, words.labels)


@pytest.mark.parametrize("synonyms", ["mean", "best"])
@pytest.mark.parametrize("other", [(), ("wall", "floor")])
def test_what_is_reported_is_what_the_words_then_answer(
    segmenter: Segmenter, sets: list[SegmentationSet], synonyms: str, other: tuple[str, ...]
) -> None:
    pets = sets[0].without(["pets/p2"])  # other all over
    words = replace(pets.vocabulary, other=other, synonyms=synonyms).with_thresholds(0.9)
    ticks: list[int] = []
    found = calibrate(segmenter, pets, words, progress=ticks.append)
    assert (found.pictures, found.tested, sum(ticks)) == (1, 1, 2)
    plain = replace(words, thresholds=())
    assert found.before.to_dict() == sure(segmenter, pets, plain, 1).to_dict()
    warm = replace(plain, temperature=found.temperature)
    assert found.after.to_dict() == sure(segmenter, pets, warm, 1).to_dict()
    np.testing.assert_array_equal(found.after.iou, found.before.iou)
    assert found.after.calibration_error != found.before.calibration_error
    assert json.loads(json.dumps(found.to_dict()))["temperature"] == found.temperature


def test_scores_are_known_where_the_mask_is(segmenter: Segmenter, sets: list[SegmentationSet]) -> None:
    words = sets[0].vocabulary
    for index, known in ((0, True), (2, False)):
        sample = sets[0][index]
        z_NR, truth_N = _Asked.of(segmenter, sample, words).known_scores(sample.index_map, 10)
        y, x = (calibration._spread(length, 10) for length in sample.index_map.shape)
        truth = sample.index_map[np.ix_(y, x)]
        truth = truth[truth < 3]
        assert (len(truth) > 0) == known
        np.testing.assert_array_equal(truth_N, z_NR[np.arange(len(truth)), truth])
        best = replace(words, synonyms="best", other=("wall",))  # rows: cat, kitten, dog, horse, wall
        z_NR, truth_N = _Asked.of(segmenter, sample, best).known_scores(sample.index_map, 10)
        of_labels_NK = np.stack([z_NR[:, :2].max(1), z_NR[:, 2], z_NR[:, 3]], axis=1)
        np.testing.assert_array_equal(truth_N, of_labels_NK[np.arange(len(truth)), truth])


def test_places_are_spread_and_within() -> None:
    assert calibration._spread(3, 10) == [0, 1, 2]
    assert calibration._spread(100, 4) == [12, 37, 62, 87]
    assert calibration._lattice_side(1) == calibration.LATTICE
    assert calibration._lattice_side(1 << 40) == 1


def test_what_cannot_be_calibrated(segmenter: Segmenter, sets: list[SegmentationSet]) -> None:
    with pytest.raises(ValueError, match="1 pictures of pets: wanted at least 2"):
        calibrate(segmenter, sets[0], limit=1)
    with pytest.raises(ValueError, match="2 labels are asked for, pets has 3"):
        calibrate(segmenter, sets[0], sets[1].vocabulary)
    nothing = replace(sets[0].files, pictures=sets[0].files.pictures[:1:-1] * 2)  # p2, twice
    with pytest.raises(
        ValueError, match="no pixel of the pictures of pets to fit on, or to test, has a label"
    ):
        calibrate(segmenter, SegmentationSet("pets", nothing))
