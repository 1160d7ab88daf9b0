"""The measures of the box: pictures are encoded once, and each share counts the pixels that it says."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sanseg.data.datasets import SegmentationSet
from sanseg.evaluate import evaluate, without_rivals
from sanseg.metrics import Metrics
from sanseg.model.san import SAN
from sanseg.model.weights import NAMED, save_san
from sanseg.vocabulary import Vocabulary
from tests.recipes.conftest import OTHER, UNKNOWN, Reader, write_set

LABELS = ("tree", "cat | pussycat", "sky", "book", "hat")
MASKS = {"a": [0, 0, 1, 2], "b": [3, 4, 1, UNKNOWN], "c": [2, 3, OTHER, 4]}
SEES = ("tree", "cat", "sky", "book", "hat", "lamp", "lamp", "lamp")
PAIRS = {"tree": "woods", "pussycat": "kitten"}
LARGE = ("tree | vegetation", "cat | pussycat", "sky", "lamp", "book", "hat")


@pytest.fixture
def val(tmp_path: Path) -> SegmentationSet:
    return SegmentationSet.open(write_set(tmp_path / "tiny", LABELS, MASKS), "val")


def figures(mini: ModuleType, reader: Reader, val: SegmentationSet, limit: int | None = None) -> Any:
    asked = mini.questions.ask(reader, val, PAIRS, Vocabulary.of(LARGE), lambda _: None, limit)
    return mini.questions.Figures.of(asked)


def test_each_picture_is_encoded_once_whatever_it_is_asked(mini: ModuleType, val: SegmentationSet) -> None:
    ticks: list[int] = []
    reader = Reader(SEES)
    mini.questions.ask(reader, val, PAIRS, Vocabulary.of(LARGE), ticks.append)
    assert reader.encoded == 3
    assert ticks == [1, 1, 1]
    figures(mini, reader, val, limit=2)
    assert reader.encoded == 5


def test_own_labels_are_measured_as_everywhere(mini: ModuleType, val: SegmentationSet) -> None:
    reader = Reader(("tree", "cat", "sky", "sky", "hat"))
    found = evaluate(without_rivals(reader), val, seen=["tree", "cat", "sky"]).metrics
    seen = figures(mini, reader, val)
    assert seen.miou == pytest.approx(found.miou_present, abs=1e-3)
    assert seen.pixel_accuracy == pytest.approx(found.pacc, abs=1e-3)
    assert seen.others_miou == pytest.approx(found.miou_seen, abs=1e-3), "book and hat are withheld"
    assert seen.miou < 100


def test_pixels_keep_their_label_as_far_as_the_synonyms_are_known(
    mini: ModuleType, val: SegmentationSet
) -> None:
    """Two columns are tree and two cat; who does not know a word answers the last label, which is hat."""
    for knows, share in (
        ({"woods": "tree", "kitten": "cat"}, 100),
        ({"woods": "tree"}, 50),
        ({"woods": "cat", "kitten": "tree"}, 0),
        ({}, 0),
    ):
        assert figures(mini, Reader(SEES, knows), val).synonyms_kept == share


def test_synonyms_are_counted_by_the_first_answer_whatever_the_mask_says(
    mini: ModuleType, val: SegmentationSet
) -> None:
    everything = Reader(("tree",) * len(SEES), {"woods": "tree"})
    asked = mini.questions.ask(everything, val, PAIRS, Vocabulary.of(LARGE), lambda _: None)
    assert asked.kept.counts.sum() == 3 * 4 * 16, "unknown pixels too"
    assert mini.questions.kept_by_pair([asked, asked], PAIRS) == {
        "all": 100,
        "tree | woods": 100,
        "pussycat | kitten": None,
    }


def test_all_names_at_once_are_counted_as_labels_of_the_set(mini: ModuleType, val: SegmentationSet) -> None:
    right = figures(mini, Reader(SEES), val)
    assert right.large_miou == right.large_pixel_accuracy == 100
    assert right.large_outside == 0
    # What was sky is now called lamp, which this set lacks; with its own labels it would be hat.
    astray = figures(mini, Reader(("tree", "cat", "lamp", "book", "hat")), val)
    assert astray.large_outside == pytest.approx(100 * 2 / 10)  # of ten labelled columns two are sky
    assert astray.large_pixel_accuracy == pytest.approx(80)
    assert astray.large_miou == pytest.approx(80)


def test_the_mean_over_sets_is_of_those_that_tell(mini: ModuleType) -> None:
    Figures = mini.questions.Figures
    mean = Figures.mean([Figures(10, 20, None, 1, 2, 3, 4), Figures(30, 20, 50, 1, 2, 3, 4)])
    assert (mean.miou, mean.others_miou, mean.large_outside) == (20, 50, 4)
    assert mini.questions.mean([None]) is None


def test_what_other_labels_are_called_does_not_change_the_iou_of_a_name(mini: ModuleType) -> None:
    """The matrix of all sets gives a name of one set the IoU that it has there."""
    rng = np.random.default_rng(0)
    labels = ("sheep", "grass", "sky", "water", "sign | mark")
    counts = rng.integers(0, 50, (6, 5))
    counted = mini.open_vocabulary.Counted(labels, counts, None, None)
    tally = SimpleNamespace(counts=counts, boundary=None, detectron2=None, bins=np.zeros((3, 15)))
    alone = dict(zip(labels, Metrics.of(tally, labels).iou, strict=True))  # type: ignore[arg-type]
    for copies in (1, 3):
        found = mini.open_vocabulary.iou_of_names([counted] * copies)
        assert [found["sheep"], found["water"]] == pytest.approx([alone["sheep"], alone["water"]], abs=1e-3)
        assert found["boat"] is None


def test_pixels_of_several_sets_count_alike(mini: ModuleType) -> None:
    """Sheep: 30 of 40 pixels here, none of 10 there, and 10 more that are none: 30 of 60."""
    Counted = mini.open_vocabulary.Counted
    here = Counted(("sheep", "sky"), np.array([[30, 10], [10, 50], [0, 0]]), None, None)
    there = Counted(("road", "sheep"), np.array([[5, 10], [0, 0], [0, 0]]), None, None)
    assert mini.open_vocabulary.iou_of_names([here, there])["sheep"] == pytest.approx(100 * 30 / 60)


def test_two_models_are_compared_on_val_and_on_what_was_left_out(
    mini: ModuleType, val: SegmentationSet, tmp_path: Path
) -> None:
    masks = {"shown": [3, 3, 0, 0], "not": [0, 1, 2]}
    train = SegmentationSet.open(write_set(tmp_path / "train", LABELS, masks, "train"))
    dry = SegmentationSet.open(write_set(tmp_path / "dry", ["tree"], {"a": [0]}, "train"))
    shipped, fresh = Reader(SEES), Reader(("tree", "cat", "tree", "hat", "hat"))
    asked = [mini.questions.ask(shipped, val, PAIRS, Vocabulary.of(LARGE), lambda _: None)]
    bars: list[int] = []

    def bar(_: str, sets: Sequence[SegmentationSet]) -> Any:
        bars.append(sum(map(len, sets)))
        return lambda _: None

    both = mini.open_vocabulary.compare(shipped, fresh, [train, dry], [val], asked, bar)
    assert bars == [1, 3, 1]
    assert (both["book"].shipped, both["book"].withheld, both["book"].ratio) == (100, 0, 0)
    # Hat: two columns are found, and four of book are called so.
    assert both["hat"].withheld == pytest.approx(100 * 2 / 6, abs=1e-3)
    assert both["sheep"].shipped is both["sheep"].ratio is None
    assert both["known to ImageNet"].withheld == both["all ten"].withheld == pytest.approx(100 / 6, abs=1e-3)
    assert both["unknown to ImageNet"].shipped is None
    rest = both["other names, val"]
    assert rest.shipped == 100
    assert rest.withheld == pytest.approx((50 + 100 + 0) / 3, abs=1e-3)  # sky is called tree


def photo_folder(folder: Path, greys: Mapping[str, Sequence[int]]) -> Path:
    (folder / "images").mkdir(parents=True)
    rows = [(f"{name}_{n}.png", name, grey) for name, some in greys.items() for n, grey in enumerate(some)]
    for file, _, grey in rows:
        Image.new("RGB", (64, 64), (grey,) * 3).save(folder / "images" / file)
    (folder / "labels.tsv").write_text("".join(f"{file}\tcaltech-101\t{name}\n" for file, name, _ in rows))
    return folder


def test_photos_are_named_by_the_nearest_word(mini: ModuleType, tiny_san: SAN, tmp_path: Path) -> None:
    """A CLIP that sees how bright a photo is, and six names from dark to bright."""
    names = [*"abcdef"]
    levels = {name: [40 * n] * 2 for n, name in enumerate(names)}
    levels["f"] = [200, 0]  # f's second photo is as dark as a's: its own name comes last
    photos = mini.photos.read_photos(photo_folder(tmp_path, levels))
    angles = torch.linspace(0, 1.2, 6)
    rows = torch.stack([angles.cos(), angles.sin()], 1)

    def visual(picture: torch.Tensor) -> torch.Tensor:
        bright = picture.mean() * tiny_san.config.std[0] + tiny_san.config.mean[0]
        angle = bright * 255 / 200 * 1.2
        return torch.stack([angle.cos(), angle.sin()])[None]

    seen = SimpleNamespace(
        san=SimpleNamespace(
            config=tiny_san.config,
            nothing=tiny_san.nothing,
            clip=SimpleNamespace(visual=visual),
            clip_image=tiny_san.clip_image,
        ),
        device=torch.device("cpu"),
        classifier=lambda words: SimpleNamespace(weight=torch.cat([rows, torch.full((1, 2), 9.0)])),
    )
    named = mini.measure.name_photos(seen, photos, lambda _: None)
    assert named == {"top-1": pytest.approx(100 * 11 / 12), "top-5": pytest.approx(100 * 11 / 12)}
    assert mini.measure.name_photos(seen, photos, lambda _: None, limit=3)["top-1"] == 100


def test_the_time_is_that_of_ten_warm_photos_of_640_by_480(
    mini: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked = iter(range(100)), list[object]()
    monkeypatch.setattr(mini.measure.time, "perf_counter", lambda: next(clock) ** 3)

    def segmenter(picture: bytes, words: str) -> None:
        asked.append((Image.open(io.BytesIO(picture)).size, len(words.split(","))))

    warm = [(2 * run + 1) ** 3 - (2 * run) ** 3 for run in range(1, 11)]
    assert mini.measure.seconds(segmenter) == pytest.approx(np.median(warm))
    assert asked == [((640, 480), 5)] * 11


def test_the_size_is_that_of_the_file(mini: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(bytes(1_500_000))
    assert mini.measure.megabytes(str(tmp_path / "a.safetensors")) == 1.5
    assert isinstance(NAMED["mini"], Path)
    assert mini.measure.megabytes("mini") == NAMED["mini"].stat().st_size / 1e6
    assert mini.measure.megabytes("san-vit-b-16") is None


def test_the_whole_is_measured_printed_and_written(
    mini: ModuleType,
    tiny_san: SAN,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_set(tmp_path / "data" / "tiny", LABELS, MASKS)
    write_set(tmp_path / "data" / "wide", ("water", "tree"), {"a": [0, 1], "b": [1]}, "train")
    photo_folder(tmp_path / "data" / "photos", {"ant": [0] * 6, "crab": [90] * 6})
    save_san(tmp_path / "tiny.safetensors", tiny_san, kind="san")
    monkeypatch.setattr(mini.measure, "SETS", ("tiny",))
    model, out = str(tmp_path / "tiny.safetensors"), tmp_path / "figures.json"
    command = ["measure.py", "--data", str(tmp_path / "data"), "--model", model, "--json", str(out)]
    monkeypatch.setattr("sys.argv", [*command, "--withheld-model", model])
    mini.measure.main()
    found = json.loads(out.read_text())
    assert found["sets"]["tiny"] == found["mean"]
    assert found["names at once"] == 6
    assert 0 <= found["Caltech's names, top-1"] <= found["Caltech's names, top-5"] <= 100
    assert found["synonyms"]["all"] == found["pixels of all sets kept by synonyms"]
    assert found["names withheld"]["water"]["ratio"] in (1, None)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("val, percent", "seconds for a photo", "names withheld"))
    monkeypatch.setattr("sys.argv", [*command, "--limit", "1"])
    mini.measure.main()
    first = json.loads(out.read_text())
    assert first["names withheld"] == {}
    assert first["mean"] != found["mean"]
