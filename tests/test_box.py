"""The model in the box: real, small, and useful on photos that it never saw."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sanseg
from sanseg.data.datasets import SegmentationSet
from sanseg.model.weights import NAMED
from sanseg.segmenter import Encoded, Segmenter

EXAMPLES = Path(__file__).parents[1] / "examples"
BOX = NAMED["mini"]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return sanseg.load("mini", device="cpu")


@pytest.fixture(scope="module")
def cat(segmenter: Segmenter) -> Encoded:
    return segmenter.encode(EXAMPLES / "cat.jpg")


def test_it_fits_in_forty_megabytes() -> None:
    assert isinstance(BOX, Path)
    assert BOX.is_file()
    assert sum(file.stat().st_size for file in BOX.parent.iterdir()) < 40e6


def test_one_word_does_not_paint_everything(segmenter: Segmenter, cat: Encoded) -> None:
    seen = cat.segment("cat").mask("cat")  # a head that fills the picture but for the right edge
    width = seen.shape[1]
    assert seen[:, : int(0.6 * width)].mean() > 0.9
    assert seen[:, int(0.93 * width) :].mean() < 0.6
    assert cat.segment("cat", other=None).areas()["cat"] == 1.0
    cup = segmenter(EXAMPLES / "coffee.jpg", "coffee cup")
    assert 0.15 < cup.areas()["coffee cup"] < 0.5
    assert cup.mask("coffee cup")[:50].mean() < 0.2, "the table is not the cup"


def test_a_cat_on_a_sofa_leaves_the_sofa(segmenter: Segmenter, shared: Path) -> None:
    val = SegmentationSet.open(shared / "data" / "voc", "val")
    cat, sofa = (val.vocabulary.labels.index(label) for label in ("cat", "sofa"))
    samples = [val[number] for number in range(len(val))]
    both = [
        one for one in samples if min((one.index_map == cat).mean(), (one.index_map == sofa).mean()) > 0.03
    ]
    assert both
    for sample in both:
        seen = segmenter(sample.image, "cat").mask("cat")
        assert seen[sample.index_map == cat].mean() > 0.6, sample.name
        assert seen[sample.index_map == sofa].mean() < 0.2, sample.name


def test_a_thing_that_is_not_there_is_hardly_seen(cat: Encoded) -> None:
    assert cat.segment("airplane").areas()["airplane"] < 0.05


@pytest.mark.parametrize(
    ("photo", "words", "wanted"),
    [
        ("cat.jpg", "cat, dog, car, sky", "cat"),
        ("cat.jpg", "kitten, bus, tree", "kitten"),
        ("astronaut.jpg", "person, horse, grass", "person"),
        ("astronaut.jpg", "woman, bicycle, river", "woman"),
        ("coffee.jpg", "coffee cup, sheep, building", "coffee cup"),
    ],
)
def test_the_obvious_word_wins(segmenter: Segmenter, photo: str, words: str, wanted: str) -> None:
    areas = segmenter(EXAMPLES / photo, words).areas()
    named = {label: share for label, share in areas.items() if label != "other"}
    assert max(named, key=lambda label: named[label]) == wanted, areas
    assert named[wanted] > 0.1


def test_words_answer_whatever_their_order(cat: Encoded) -> None:
    words = ["cat", "blanket", "wall", "sofa"]
    forward, backward = cat.segment(words), cat.segment(words[::-1])
    for word in words:  # sums in another order round differently, so near-ties may fall otherwise
        assert (forward.mask(word) != backward.mask(word)).mean() < 1e-4


@pytest.mark.parametrize("names", [["cat"], [f"thing number {n}" for n in range(2_000)]], ids=["1", "2000"])
def test_one_label_and_two_thousand(cat: Encoded, names: Sequence[str]) -> None:
    seen = cat.segment(names, other=None)
    assert seen.label_map.max() < len(names)
    assert seen.confidence.max() <= 1


def test_what_is_saved_can_be_opened(cat: Encoded, tmp_path: Path) -> None:
    seen = cat.segment("cat, sofa")
    files = seen.save(tmp_path, "cat")
    index = Image.open(files["index"])
    assert np.array_equal(np.asarray(index), seen.label_map)
    described = json.loads(files["json"].read_text())
    assert described["model"] == "mini"
    assert sum(region["share"] for region in described["regions"]) == pytest.approx(1, abs=1e-4)


def test_it_comes_to_be_asked_not_trained(segmenter: Segmenter) -> None:
    assert not segmenter.san.training


def test_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        exec(block, names)
    assert (tmp_path / "cat.png").is_file()
    assert isinstance(names["segmentation"], sanseg.Segmentation)
    assert names["segmentation"].areas()["cat"] > 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_answer(cat: Encoded, dtype: torch.dtype) -> None:
    # Without rivals: a processor takes long to read words in float16.
    half = sanseg.load("mini", device="cpu", dtype=dtype)(EXAMPLES / "cat.jpg", "cat, sofa, wall", None)
    assert (half.label_map == cat.segment("cat, sofa, wall", None).label_map).mean() > 0.98
