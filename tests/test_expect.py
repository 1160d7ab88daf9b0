"""An evaluation is held against what the authors reported, label by label."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sanseg.data.labelsets import LABELSETS, read_labelset
from sanseg.expect import (
    AUTHORS,
    SUMMARY,
    Figures,
    agrees,
    authors_figures,
    compare,
    find_labelset,
    read_figures,
)
from sanseg.metrics import Metrics, Tally
from sanseg.vocabulary import Vocabulary

BENCHMARKS = (
    "voc_20",
    "pascal_context_59",
    "ade20k_150",
    "coco_stuff_171",
    "pascal_context_459",
    "ade20k_847",
)


@pytest.mark.parametrize("model", AUTHORS)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_figures_are_the_authors(shared: Path, model: str, benchmark: str) -> None:
    """All six benchmarks of both models, number by number; the mean of the labels is the mIoU."""
    source = json.loads((shared / "authors" / f"{model.replace('-', '_')}.json").read_text())[benchmark]
    figures = authors_figures(model, benchmark)
    official = {"miou_present": "mIoU", "fwiou": "fwIoU", "macc": "mACC", "pacc": "pACC"}
    assert figures.summary == {name: source[official[name]] for name in SUMMARY}
    by_name = {name.strip(): value for name, value in source["IoU"].items()}
    expected = [by_name[name] for name in read_labelset(benchmark)]
    assert [None if math.isnan(value) else value for value in figures.iou] == expected
    present = [value for value in figures.iou if not math.isnan(value)]
    assert sum(present) / len(present) == pytest.approx(figures.summary["miou_present"], abs=1e-4)


def test_a_benchmark_is_found_by_its_labels() -> None:
    for name in (*BENCHMARKS, "cityscapes_19", "camvid_11"):
        assert find_labelset(Vocabulary.of(list(read_labelset(name)))) == name
    turned = Vocabulary.of(list(read_labelset("voc_20"))[::-1])
    assert find_labelset(turned) is None, "the order is part of a benchmark"
    assert set(BENCHMARKS) < set(LABELSETS)


def test_an_unknown_model_or_benchmark_is_refused() -> None:
    with pytest.raises(ValueError, match="of san-vit-b-16 and san-vit-l-14, not of 'mini'"):
        authors_figures("mini", "voc_20")
    with pytest.raises(ValueError, match=r"on voc_20, .*, not on 'cityscapes_19'"):
        authors_figures("san-vit-b-16", "cityscapes_19")


@pytest.fixture
def metrics() -> Metrics:
    """IoU 50, 0, NaN."""
    tally = Tally.empty(3)
    tally.add(np.array([[0, 0]], np.uint8), np.array([[0, 1]], np.uint8))
    return Metrics.of(tally, ["sky", "tree", "road"])


def same(metrics: Metrics) -> Figures:
    return Figures("somebody", {name: getattr(metrics, name) for name in SUMMARY}, metrics.iou)


def test_equal_figures_agree(metrics: Metrics) -> None:
    summary, each = compare(metrics, same(metrics))
    assert [(one.what, one.by) for one in summary] == [(name, 0) for name in SUMMARY]
    assert each == []
    assert agrees(summary)


def test_labels_that_differ_are_named_the_most_first(metrics: Metrics) -> None:
    expected = replace(same(metrics), iou=(49.95, 7.0, math.nan))
    _, each = compare(metrics, expected)
    assert [(one.what, one.by) for one in each] == [("IoU of tree", -7)]
    expected = replace(same(metrics), iou=(49.5, 7.0, 1.0))
    _, each = compare(metrics, expected)
    assert [one.what for one in each] == ["IoU of road", "IoU of tree", "IoU of sky"], "absent here: first"


@pytest.mark.parametrize(("by", "good"), [(0.09, True), (-0.09, True), (0.11, False), (-0.11, False)])
def test_a_tenth_of_a_point_is_allowed(metrics: Metrics, by: float, good: bool) -> None:
    expected = same(metrics)
    expected.summary["miou_present"] += by
    assert agrees(compare(metrics, expected)[0]) == good


def test_only_the_mean_iou_decides(metrics: Metrics) -> None:
    expected = same(metrics)
    expected.summary["pacc"] += 5
    assert agrees(compare(metrics, expected)[0])
    assert not agrees(compare(metrics, replace(expected, summary=dict.fromkeys(SUMMARY, math.nan)))[0])


def test_figures_of_another_number_of_labels_are_refused(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="somebody is about 2 labels, the set has 3"):
        compare(metrics, replace(same(metrics), iou=(1.0, 2.0)))


def test_an_evaluation_before_can_be_the_measure(metrics: Metrics, tmp_path: Path) -> None:
    one, several = tmp_path / "one.json", tmp_path / "several.json"
    one.write_text(json.dumps(metrics.to_dict()))
    several.write_text(json.dumps({"miou_present": 1, "sets": {"pets": metrics.to_dict()}}))
    for path in (one, several):
        figures = read_figures(path, "pets")
        assert compare(metrics, figures)[1] == []
        assert agrees(compare(metrics, figures)[0])
    with pytest.raises(ValueError, match="says nothing of plants, only of pets"):
        read_figures(several, "plants")


@pytest.mark.parametrize(
    "text",
    ["no json", "[1]", "{}", '{"sets": {"pets": 3}}', '{"miou_present": "high", "iou": []}', "3", "[" * 9999],
)
def test_a_file_that_holds_no_evaluation_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "figures.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"figures\.json .*give what --json wrote"):
        read_figures(path, "pets")
    with pytest.raises(OSError, match=r"none\.json"):
        read_figures(tmp_path / "none.json", "pets")
