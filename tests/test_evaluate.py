"""Figures from the confusion matrix: equal to the official evaluator's, in both conventions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sanseg.data.datasets import SegmentationSet
from sanseg.evaluate import Metrics, confusion, evaluate, evaluate_folder
from sanseg.model.san import SAN
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary


def test_all_figures_equal_the_official_evaluators(shared: Path) -> None:
    folder = shared / "golden" / "evaluator"
    results = json.loads((folder / "results.json").read_text())
    names = results["class_names"]
    with np.load(folder / "pairs.npz") as pairs:
        maps = zip(pairs["pred"], pairs["gt"], strict=True)
        counts = np.sum([confusion(pred, gt, 8) for pred, gt in maps], axis=0)
        assert (counts[:8] == pairs["conf_matrix"][:8, :8]).all()
    metrics = Metrics.of(counts, names)
    wanted = results["results"]
    assert metrics.miou_present == pytest.approx(wanted["mIoU"], rel=1e-12)
    assert metrics.miou_union == pytest.approx(wanted["mIoU"] * 6 / 7, rel=1e-12), "class6 is only predicted"
    assert metrics.fwiou == pytest.approx(wanted["fwIoU"], rel=1e-12)
    assert metrics.macc == pytest.approx(wanted["mACC"], rel=1e-12)
    assert metrics.pacc == pytest.approx(wanted["pACC"], rel=1e-12)
    for figures, key in ((metrics.iou, "IoU"), (metrics.acc, "ACC")):
        official = [wanted[f"{key}-{name}"] for name in names]
        expected = [math.nan if figure is None else figure for figure in official]
        assert figures == pytest.approx(expected, rel=1e-12, nan_ok=True)


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


def test_maps_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="2x1, the mask 1x2: predict at the picture's own size"):
        confusion(np.zeros((1, 2), np.uint8), np.zeros((2, 1), np.uint8), 2)


def test_no_labelled_pixel_is_an_error_rather_than_a_nan() -> None:
    with pytest.raises(ValueError, match="no pixel has a label"):
        Metrics.of(np.zeros((3, 2), dtype=np.int64), ["a", "b"])


def test_a_matrix_for_other_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="for 3 labels"):
        Metrics.of(np.zeros((3, 2), dtype=np.int64), ["a", "b", "c"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for stem in "ab":
        Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).save(
            tmp_path / "images" / f"{stem}.png"
        )
        mask = np.zeros((6, 8), dtype=np.uint8)
        mask[:, 4:] = 1
        mask[0], mask[1] = 254, 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{stem}.png")
    described = {"labels": ["sky", "tree | woods", "road"], "other": 254, "splits": {"val": ["a", "b"]}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    return tmp_path


def test_a_set_is_evaluated_with_its_own_labels(folder: Path) -> None:
    """Half of "sky" is called tree, all of "tree" is; "road" is answered where nothing is counted."""
    asked: list[Vocabulary] = []
    pictures: list[tuple[int, ...]] = []

    def predict(image: NDArray[np.uint8], vocabulary: Vocabulary) -> NDArray[np.uint8]:
        asked.append(vocabulary)
        pictures.append(image.shape)
        answer = np.ones(image.shape[:2], dtype=np.uint8)
        answer[:, :2] = 0
        answer[:2] = 2
        return answer

    done: list[int] = []
    metrics = evaluate(predict, SegmentationSet.open(folder, "val"), done.append)
    assert set(asked) == {Vocabulary((("sky",), ("tree", "woods"), ("road",)))}
    assert pictures == [(6, 8, 3)] * 2
    assert done == [1, 1]
    assert metrics.labels == ("sky", "tree", "road")
    assert metrics.iou == pytest.approx((50, 100 * 2 / 3, math.nan), nan_ok=True)
    assert metrics.pacc == 75
    assert metrics.miou_present == metrics.miou_union == pytest.approx((50 + 200 / 3) / 2)


def test_a_segmenter_is_asked_without_distractors(folder: Path) -> None:
    others: list[None] = []

    def segmenter(image: NDArray[np.uint8], vocabulary: Vocabulary, *, other: None) -> SimpleNamespace:
        others.append(other)
        return SimpleNamespace(label_map=np.zeros(image.shape[:2], dtype=np.uint8))

    assert evaluate_folder(segmenter, folder, "val").pacc == 50
    assert others == [None, None]


def test_a_real_segmenter_is_evaluated(tiny_san: SAN, folder: Path) -> None:
    """Whatever a random model says, each labelled pixel gets one of the labels."""
    dataset = SegmentationSet.open(folder, "val")
    segmenter = Segmenter(tiny_san)
    metrics = evaluate_folder(segmenter, folder)
    answers = [
        segmenter(dataset[index].image, dataset.vocabulary, other=None).label_map for index in range(2)
    ]
    right = sum((answer == dataset[index].index_map).sum() for index, answer in enumerate(answers))
    assert metrics.pacc == pytest.approx(100 * right / (2 * 4 * 8))
