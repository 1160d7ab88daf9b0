"""csv and npz: the numbers are those of the result."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from sanseg.segmentation import Segmentation
from sanseg.version import VERSION
from tests.formats.test_formats import with_queries


def test_the_csv_has_a_line_for_each_label(seg: Segmentation, tmp_path: Path) -> None:
    with seg.save(tmp_path, "cat", ["csv"])["csv"].open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert {int(row["id"]): row["label"] for row in rows} == seg.names
    assert {row["label"]: float(row["share"]) for row in rows} == pytest.approx(seg.areas(), abs=1e-6)
    assert sum(int(row["pixels"]) for row in rows) == seg.label_map.size
    means = {row["label"]: float(row["mean_confidence"]) for row in rows if row["mean_confidence"]}
    assert means == pytest.approx(seg.mean_confidence(), abs=1e-6)
    assert {(row["sanseg"], row["model"], row["vocabulary"]) for row in rows} == {
        (VERSION, "tiny", seg.vocabulary_hash)
    }


def test_confidence_is_kept_within_its_bound(seg: Segmentation, tmp_path: Path) -> None:
    with np.load(seg.save(tmp_path, "cat", ["confidence"])["confidence"], allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["label_map"], seg.label_map)
        assert arrays["confidence"].dtype == np.float16
        np.testing.assert_allclose(arrays["confidence"], seg.confidence, rtol=0, atol=0.00025)
        assert dict(zip(arrays["ids"].tolist(), arrays["labels"].tolist(), strict=True)) == seg.names
        assert {name: str(arrays[name]) for name in seg.source()} == seg.source()


def test_scores_are_kept_within_their_bound(seg: Segmentation, tmp_path: Path) -> None:
    seg = with_queries(seg)
    wanted, total = seg.scores()
    with np.load(seg.save(tmp_path, "cat", ["scores"])["scores"], allow_pickle=False) as arrays:
        assert arrays["scores"].dtype == np.float16
        np.testing.assert_allclose(arrays["scores"], wanted, rtol=1 / 2048, atol=1e-7)
        np.testing.assert_allclose(arrays["total"], total, rtol=1 / 2048, atol=1e-7)
        assert arrays["scores"].shape == (len(arrays["labels"]), 7, 9)
        assert arrays["labels"].tolist() == [*seg.labels, "other"]
        assert arrays["size"].tolist() == [40, 55]
