"""report/: the page says what a run's folder holds, believes nothing of it, and never fails halfway."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import sanseg.cli.report  # adds its command to the app
from sanseg.cli.shell import app
from sanseg.data.datasets import SegmentationSet
from sanseg.model.san import SAN
from sanseg.report import page as page_module
from sanseg.report import write_report
from sanseg.report.history import read_run
from sanseg.report.page import duration, flat
from sanseg.train import train
from tests.data.test_datasets import stripes, write_set
from tests.fake_run import HOSTILE, LABELS, metrics_after, write_lines, write_run
from tests.test_train import FAST

assert sanseg.cli.report.report


class Page(HTMLParser):
    """What a browser makes of a report: its tags with their attributes, and its text by line."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._silent = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent = tag == "style"

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._silent:
            self.texts.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "a run & <more>", done=120, planned=120, evaluate_every=60)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No curve is drawn, which takes the most time: for tests of all else."""
    for name in ("curves_figure", "reliability_figure"):
        monkeypatch.setattr(page_module, name, lambda *_, **__: b"<svg></svg>")


def told(run: Path) -> str:
    return Page(write_report(run)).text


def test_the_report_is_one_page_that_asks_for_nothing(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {
        name for name, _ in page.tags
    }
    for name, attributes in page.tags:
        for attribute, value in attributes.items():
            assert not attribute.startswith("on"), (name, attribute)
            if attribute in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                assert value is not None
                assert value.startswith(("data:image/jpeg;base64,", "#")), (name, attribute, value[:50])
    assert not re.search(r"url\((?!#)|@import", path.read_text(encoding="utf-8"))
    assert "default-src 'none'" in str(page.all("meta")), "and the browser is told so"


def test_the_page_is_in_order(run: Path) -> None:
    page = Page(write_report(run))
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for reference in (attributes.get("xlink:href"), attributes.get("aria-labelledby")):
            assert reference is None or reference.lstrip("#") in ids
    pictures = page.all("img")
    assert pictures
    assert all("photo, truth and prediction" in str(one["alt"]) for one in pictures)
    drawn = page.all("svg")
    assert len(drawn) == 5 + 2, "curves, and a reliability diagram for each set"
    assert all(one["role"] == "img" and len(str(one["aria-label"])) > 20 for one in drawn)


@pytest.mark.usefixtures("undrawn")
def test_labels_and_names_are_text_whatever_they_say(run: Path) -> None:
    page = Page(write_report(run))
    for label in (*LABELS, "a run & <more>"):
        assert label in page.text
    assert "sanseg train --data 'my pictures/<b>' --run runs/first" in page.text
    assert "voc-beach & <sea>" in page.text
    assert "b" not in {name for name, _ in page.tags}
    assert HOSTILE[2] == "{{ 7 * 7 }}"
    assert "49" not in page.texts


@pytest.mark.usefixtures("undrawn")
def test_the_numbers_are_those_of_the_run(run: Path) -> None:
    path = run / "evaluations.jsonl"
    first, last = (json.loads(line) for line in path.read_text().splitlines())
    last["miou_present"], first["miou_present"] = 12.34, 56.78
    write_lines(path, [first, last])
    text = told(run)
    assert "best mIoU, %\n56.8\nafter 60 iterations" in text
    assert "last mIoU, %\n12.3\nafter 120 iterations" in text
    assert "iterations\n120\nof 120" in text
    assert "training time\n1 min 36 s" in text, "120 times 0.8 s"
    assert "Not finished" not in text
    for fact in ("tiny", "cpu", "2026-03-04 05:06 UTC", "augmentation.crop\n640", "clip.vision.patch\n16"):
        assert fact in text


@pytest.mark.usefixtures("undrawn")
def test_labels_are_listed_with_the_best_first(run: Path) -> None:
    page = Page(write_report(run))
    metrics = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])["sets"]["voc"]
    present = [(iou, label) for iou, label in zip(metrics["iou"], LABELS, strict=True) if iou is not None]
    assert len(present) == len(LABELS) - 1
    texts = page.texts[page.texts.index("voc, label by label") :]
    places = [texts.index(label) for _, label in sorted(present, key=lambda one: -one[0])]
    assert places == sorted(places)
    for iou, label in present:
        assert texts[texts.index(label) + 1] == f"{iou:.1f}"
    shares = [str(one["style"]) for one in page.all("span") if "--share" in str(one.get("style"))]
    assert f"--share: {max(metrics['iou'][:3]):.1f}%" in shares
    assert "Labels that do not occur in these pictures: 1" in texts


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    before = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == before, "also with a report in the folder"


def test_a_run_without_evaluations_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", done=40, planned=100, evaluate_every=0)
    page = Page(write_report(run))
    assert "The run has not been evaluated." in page.text
    assert "Not finished: 40 of 100 iterations are done." in page.text
    assert not page.all("img")
    assert len(page.all("svg")) == 4
    assert "mIoU, %" not in page.text


@pytest.mark.parametrize(
    "tail", ['{"iteration": 120, "lo', "null\n", '{"loss": 1}\n', "\x00\x00\x00", "[" * 100_000]
)
@pytest.mark.usefixtures("undrawn")
def test_a_line_that_a_death_cut_short_is_passed_over(run: Path, tail: str) -> None:
    assert "could not be read" not in told(run)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        with (run / name).open("a") as file:
            file.write(tail)
    text = told(run)
    assert "1 line of metrics.jsonl could not be read and is left out." in text
    assert "1 line of evaluations.jsonl could not be read and is left out." in text
    assert "iterations\n120\nof 120" in text


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", done=0, evaluate_every=0)
    assert (run / "metrics.jsonl").read_text() == ""
    for missing in (False, True):
        if missing:
            (run / "metrics.jsonl").unlink()
        page = Page(write_report(run))
        assert "No iteration has been written down yet." in page.text
        assert not page.all("svg")
    write_lines(run / "metrics.jsonl", [{"iteration": 0, "loss": 3.0}])
    assert len(Page(write_report(run)).all("svg")) == 1, "one point is a curve"


@pytest.mark.usefixtures("undrawn")
def test_what_was_run_may_be_unknown(run: Path) -> None:
    for broken in ("", "[]", "\xff", "[" * 100_000):
        (run / "run.json").write_text(broken, encoding="latin-1")
        text = told(run)
        assert "run.json could not be read: what was run is not known." in text
        assert "iterations\n120" in text
    (run / "run.json").write_text(
        '{"config": 3, "sets": [7, {"labels": "x"}], "model": [], "command": "rm", "started": 5}'
    )
    assert "iterations\n120" in told(run)
    (run / "run.json").unlink()
    assert "run.json is missing" in told(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("iou", [1.0]),
        ("iou", ["<b>"] * len(LABELS)),
        ("labels", None),
        ("pixels", {"a": 1}),
        ("reliability", [{"pixels": None}]),
        ("reliability", 5),
        ("seen", [True]),
        ("failures", 5),
        ("pictures", "<b>"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_that_makes_no_sense_harms_no_other(run: Path, key: str, value: Any) -> None:
    path = run / "evaluations.jsonl"
    first, last = (json.loads(line) for line in path.read_text().splitlines())
    last["sets"]["voc"][key] = value
    write_lines(path, [first, last])
    page = Page(write_report(run))
    assert "best mIoU, %" in page.text
    assert "b" not in {name for name, _ in page.tags}


def test_numbers_that_are_none_are_not_drawn(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for place, value in enumerate((math.nan, math.inf, None, "7", True, 10**400, [], [[1]], {})):
        lines[place] |= {"loss": value, "lr": value, "mask": [value], "images_per_second": value}
    write_lines(run / "metrics.jsonl", lines)
    assert all(math.isnan(values["loss"]) for _, values in read_run(run).log[:9])
    text = told(run)
    assert "nan" not in text
    assert "inf" not in text
    assert "could not be read" not in text


@pytest.mark.usefixtures("undrawn")
def test_pictures_are_few_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", done=90, planned=90, evaluate_every=10, sets=("voc",))
    (large,) = (run / "pictures" / "0000090").iterdir()
    Image.effect_noise((3000, 500), 90).convert("RGB").save(large)
    for number in range(3):
        large.with_name(f"voc-{number}.png").write_bytes(large.read_bytes())
    monkeypatch.setattr(page_module, "LAST_PICTURES", 2)
    monkeypatch.setattr(page_module, "EARLIER", 3)
    widths: list[int] = []
    shrink = Image.Image.thumbnail
    monkeypatch.setattr(
        Image.Image,
        "thumbnail",
        lambda image, size: (widths.append(min(image.width, size[0])), shrink(image, size)),
    )
    page = Page(write_report(run))
    assert len(page.all("img")) == 2 + 3
    assert max(widths) == page_module.LAST_WIDTH
    assert [text for text in page.texts if re.fullmatch(r"After \d+ iterations", text)] == [
        f"After {done} iterations" for done in (90, 80, 50, 10)
    ], "the last, and earlier ones spread over the run"
    assert "2 of 4; all are in pictures/0000090." in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_picture_that_is_none_is_named(run: Path) -> None:
    for name, content in (("voc-a.png", b""), ("voc-b.png", b"<svg onload=alert(1)>")):
        (run / "pictures" / "0000120" / name).write_bytes(content)
    (run / "pictures" / "0000120" / "voc-c.png").mkdir()
    (run / "pictures" / "notes.txt").write_text("mine")
    page = Page(write_report(run))
    assert len(page.all("img")) == 4
    for name in "abc":
        assert f"0000120/voc-{name}.png could not be read as a picture." in page.text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder: give the one that 'sanseg train --run' wrote"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no training run: give a folder with run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("undrawn")
def test_a_report_is_whole_or_as_it_was(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_report(run).read_bytes()
    (run / "metrics.jsonl").unlink()

    def refuse(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="disk is full"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before
    assert not list(run.glob(".*"))


@pytest.mark.usefixtures("undrawn")
def test_a_hundred_and_fifty_labels_and_many_sets(tmp_path: Path) -> None:
    labels = tuple(f"label {number}" for number in range(150))
    sets = tuple(f"set {number}" for number in range(8))
    run = write_run(tmp_path / "run", done=5, planned=5, evaluate_every=5, labels=labels, sets=sets)
    page = Page(write_report(run))
    assert page.texts.count("label 0") == 8
    charts = page.texts[page.texts.index("Curves") : page.texts.index("Evaluation")]
    assert "set 0" not in charts, "more sets than colours: only their mean is drawn"


def test_the_report_of_a_real_run_has_nothing_to_complain_of(tiny_san: SAN, tmp_path: Path) -> None:
    large = stripes().repeat(6, 0).repeat(6, 1)
    folder = write_set(
        tmp_path / "pets", {"p0": large, "p1": large.T.copy()}, ["cat | kitten", "<i>dog", "horse"], other=254
    )
    sets = [SegmentationSet.open(folder)]
    config = replace(FAST, iterations=2, evaluate_every=1, pictures=2)
    train(tiny_san, sets, config, tmp_path / "run", val=sets, command=["sanseg", "train"], quiet=True)
    page = Page(write_report(tmp_path / "run"))
    assert not [attributes for attributes in page.all("p") if attributes.get("class") == "notice"]
    assert len(page.all("img")) == 4
    assert len(page.all("svg")) == 6
    for text in (
        "sanseg train",
        "iterations\n2\nof 2",
        "cat | kitten",
        "<i>dog",
        "After 1 iteration",
        "answer",
    ):
        assert text in page.text


@pytest.mark.usefixtures("undrawn")
def test_the_command_writes_the_report_or_says_why_not(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 0
    assert result.output == f"{run / 'report.html'} written\n"
    assert (run / "report.html").exists()
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("sanseg: ")
    assert "holds no training run" in result.stderr


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.style"])
def test_a_missing_package_is_named(run: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{package.split('.')[0]}: pip install 'sanseg\[train\]'"):
        write_report(run)


def test_settings_are_told_by_name() -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"a": deep}
    assert flat({"a": {"b": 1, "c": {"d": "x"}}, "e": [], "f": {}}) == [
        ("a.b", "1"),
        ("a.c.d", "x"),
        ("e", "[]"),
        ("f", "{}"),
    ]
    assert len(flat(deep)) == 1
    assert flat(None) == flat([1]) == []


def test_durations_are_for_people() -> None:
    assert [duration(seconds) for seconds in (0.25, 59.9, 61, 3725, 200_000)] == [
        "0.2 s",
        "59.9 s",
        "1 min 1 s",
        "1 h 2 min",
        "2 d 7 h",
    ]


def test_the_fake_run_resembles_a_real_one() -> None:
    assert set(metrics_after(0.5, LABELS).to_dict()) >= {
        "labels",
        "iou",
        "acc",
        "pixels",
        "reliability",
        "seen",
    }
