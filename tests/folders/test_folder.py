"""A folder is segmented once, whatever stops it, and what has changed since is told and done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sanseg
from sanseg.data.datasets import SegmentationSet
from sanseg.folders.folder import Outcome
from sanseg.folders.manifest import Manifest, Record, locked
from sanseg.folders.plan import Plan
from sanseg.model.san import SAN
from sanseg.model.weights import save_san
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary
from tests.folders.pictures import WORDS, paint, segmented, tree

NAMES = ("a.jpg", "a.png", "deep/b.png", "deep/down/c.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        paint(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def again(photos: Path, out: Path, segmenter: Segmenter) -> Callable[..., tuple[Outcome, Plan, list[str]]]:
    """Segments the folder; what came of it, what was planned, and which pictures were done now."""

    def run(**options: Any) -> tuple[Outcome, Plan, list[str]]:
        plans: list[Plan] = []
        done: list[str] = []
        outcome = segmented(
            photos,
            out,
            segmenter,
            planned=plans.append,
            each=lambda record: done.append(record.input),
            **options,
        )
        return outcome, plans[0], sorted(done)

    return run


Again = Callable[..., tuple[Outcome, Plan, list[str]]]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def test_the_tree_is_kept_and_every_result_is_the_librarys(
    again: Again, photos: Path, out: Path, segmenter: Segmenter
) -> None:
    outcome, _, done = again()
    assert done == sorted(NAMES)
    assert not outcome.failed
    stems = {"a.jpg": "a", "a.png": "a-2", "deep/b.png": "deep/b", "deep/down/c.png": "deep/down/c"}
    written = {f"{stem}{ending}" for stem in stems.values() for ending in (".index.png", ".json")}
    thumbnails = {f"index_files/{stem}.jpg" for stem in stems.values()}
    assert tree(out).keys() == written | thumbnails | {"index.html"}
    for name, stem in stems.items():
        answer = segmenter(photos / name, WORDS)
        np.testing.assert_array_equal(np.array(Image.open(out / f"{stem}.index.png")), answer.label_map)
        assert json.loads((out / f"{stem}.json").read_text()) == answer.to_dict()


def test_the_manifest_says_what_was_asked_and_what_came_of_it(
    again: Again, photos: Path, out: Path, segmenter: Segmenter
) -> None:
    again()
    asked, *records = lines(out)
    assert (asked["folder"], asked["model"], asked["vocabulary"]) == ("../photos", "tiny", WORDS.hash)
    assert asked["labels"] == ["sky", "tree | woods", "cat"]
    assert (asked["formats"], asked["sanseg"]) == (["index", "json"], sanseg.__version__)
    assert (asked["settings"], asked["colours"]) == (WORDS.settings(), [])
    assert [record["input"] for record in records] == sorted(NAMES)
    answer, record = segmenter(photos / "a.jpg", WORDS), records[0]
    assert (record["width"], record["height"], record["error"]) == (60, 40, None)
    assert record["outputs"] == {
        "index": "a.index.png",
        "json": "a.json",
        "thumbnail": "index_files/a.jpg",
    }
    assert record["areas"] == pytest.approx({r.label: r.share for r in answer.regions()}, abs=1e-6)
    assert record["confidence"] == pytest.approx(answer.mean_confidence(), abs=1e-6)
    assert record["size"] == (photos / "a.jpg").stat().st_size
    assert record["seconds"] > 0


def test_the_same_folder_gives_the_same_bytes(photos: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    for name in ("one", "two"):
        segmented(photos, tmp_path / name, segmenter, formats=("overlay", "index", "json"))
    one, two = (tree(tmp_path / name) for name in ("one", "two"))
    assert one.pop("index.html").replace(b"<h1>one", b"<h1>two").replace(b">one ", b">two ") == two.pop(
        "index.html"
    )
    assert one == two


def test_what_is_done_is_left_alone(again: Again, photos: Path, out: Path) -> None:
    again()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    (photos / "deep/b.png").touch()  # another time, the same content
    outcome, plan, done = again()
    assert (done, plan.done, len(outcome.records)) == ([], sorted(NAMES), 4)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    record = next(line for line in lines(out)[1:] if line["input"] == "deep/b.png")
    assert record["mtime_ns"] == (photos / "deep/b.png").stat().st_mtime_ns


def test_what_changed_is_done_again_and_told(again: Again, photos: Path, out: Path) -> None:
    def padded(seed: int) -> None:
        paint(photos / "a.jpg", seed)
        (photos / "a.jpg").write_bytes((photos / "a.jpg").read_bytes().ljust(5_000, b"\0"))

    padded(seed=0)
    again()
    former = lines(out)[1]["sha256"]
    padded(seed=9)  # of the same size
    paint(photos / "new.png", seed=5)
    (photos / "deep/b.png").unlink()
    outcome, plan, done = again()
    assert (plan.changed, plan.new, plan.gone, done) == (
        ["a.jpg"],
        ["new.png"],
        ["deep/b.png"],
        ["a.jpg", "new.png"],
    )
    assert not outcome.failed
    records = {line["input"]: line for line in lines(out)[1:]}
    assert records["a.jpg"]["replaced"] == former != records["a.jpg"]["sha256"]
    assert records["deep/b.png"]["error"] == "the picture is no longer there"
    assert (out / "deep/b.index.png").exists(), "its results stay"
    paint(photos / "deep/b.png", seed=2)  # and back, as it was
    _, plan, done = again()
    assert (done, plan.gone) == ([], [])
    assert all(line["error"] is None for line in lines(out)[1:])


def test_names_of_results_stay_when_pictures_come(photos: Path, out: Path, again: Again) -> None:
    (photos / "a.jpg").rename(photos / "later.jpg")
    again()
    (photos / "later.jpg").rename(photos / "a.jpg")
    again()
    stem = {line["input"]: line["stem"] for line in lines(out)[1:]}
    assert (stem["a.png"], stem["a.jpg"]) == ("a", "a-2")


def test_a_picture_without_one_of_its_files_is_done_again(again: Again, out: Path) -> None:
    again()
    (out / "a.json").unlink()
    (out / "deep/b.index.png").write_bytes(b"")
    (out / "deep/b.index.png").chmod(0o644)
    outcome, plan, done = again()
    # The emptied label map differs from what was written, and might be somebody's work.
    assert plan.incomplete == done == ["a.jpg"]
    assert [name for name, _ in outcome.failed] == plan.guarded == ["deep/b.png"]
    _, plan, done = again(formats=("index", "json", "overlay"))
    assert done == ["a.jpg", "a.png", "deep/down/c.png"], "another format is added"


def test_a_file_that_may_be_empty_is_no_missing_one(
    photos: Path, out: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    """YOLO's text of a picture that shows no label has no lines."""
    words = WORDS.with_thresholds(1.0)  # nothing is that sure
    for _ in range(2):
        done: list[Record] = []
        segmented(photos, out, segmenter, words, formats=("index", "yolo"), each=done.append)
    assert (out / "a.txt").read_bytes() == b""
    assert not done


def test_failures_are_set_aside_and_tried_again(again: Again, photos: Path, out: Path) -> None:
    whole = (photos / "a.jpg").read_bytes()
    (photos / "a.jpg").write_bytes(whole[: len(whole) // 2])
    outcome, _, done = again()
    assert len(done) == 4
    [(name, why)] = outcome.failed
    assert name == "a.jpg"
    assert "damaged or truncated" in why
    assert lines(out)[1]["error"] == why
    assert not (out / "a.index.png").exists()
    _, plan, done = again()
    assert plan.failed == done == ["a.jpg"]
    (photos / "a.jpg").write_bytes(whole)
    outcome, _, done = again()
    assert (done, outcome.failed) == (["a.jpg"], [])


def test_a_result_is_not_lost_when_its_picture_breaks(again: Again, photos: Path, out: Path) -> None:
    again()
    (photos / "a.jpg").write_bytes(b"no picture")
    outcome, _, _ = again()
    assert [name for name, _ in outcome.failed] == ["a.jpg"]
    record = lines(out)[1]
    assert (record["outputs"]["index"], record["error"] is None) == ("a.index.png", False)
    outcome, plan, _ = again()
    assert plan.failed == ["a.jpg"]


@pytest.mark.parametrize("torn", [b'{"input": "deep/b.png", "st', b"\xff\xfe\n", b"[1]\n", b'{"input": 3}\n'])
def test_a_torn_line_costs_only_its_picture(again: Again, out: Path, torn: bytes) -> None:
    again()
    manifest = out / "manifest.jsonl"
    *rest, _ = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(rest) + torn)
    (out / "deep" / f".{16 * 'a'}.tmp").write_bytes(b"half")
    _, plan, done = again()
    assert done == plan.new == ["deep/down/c.png"]
    assert len(lines(out)) == 5
    assert not list(out.rglob(".*.tmp"))


def test_other_words_models_and_pictures_need_another_folder(
    again: Again, photos: Path, out: Path, tiny_san: SAN, segmenter: Segmenter
) -> None:
    again()
    before = tree(out)
    other = Vocabulary.from_text("sky, dog")
    with pytest.raises(
        ValueError, match=r"the words 'sky, tree \| woods, cat' .*'sky, dog'.*give another --out, or"
    ):
        again(words=other)
    with pytest.raises(ValueError, match=r"pictures of \.\./photos, asked are \.\./photos/deep"):
        segmented(photos / "deep", out, segmenter)
    with pytest.raises(ValueError, match="pictures resized by evaluation, asked are demo"):
        segmented(photos, out, Segmenter(tiny_san, resize="demo"))
    tiny_san.nothing.data += 1
    with pytest.raises(ValueError, match="a model with the weights"):
        segmented(photos, out, Segmenter(tiny_san))
    assert tree(out) == before


def test_overwrite_begins_afresh_but_loses_no_handwork(again: Again, out: Path) -> None:
    again(formats=("index", "json", "overlay"))
    other = Vocabulary.from_text("sky, dog").with_other(None)
    _, _, done = again(words=other, overwrite=True)
    assert done == sorted(NAMES)
    assert lines(out)[0]["vocabulary"] == other.hash
    assert not list(out.rglob("*.overlay.png")), "nothing of the former words is left"
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(out / "a.index.png")
    with pytest.raises(ValueError, match=r"1 label maps that were changed by hand, a\.index\.png for one"):
        again(words=other, overwrite=True)
    assert not np.array(Image.open(out / "a.index.png")).any()


def test_one_run_at_a_time(again: Again, out: Path) -> None:
    with locked(out), pytest.raises(ValueError, match="another process is segmenting into"):
        again()
    again()


def test_corrected_masks_come_back_as_training(again: Again, photos: Path, out: Path) -> None:
    again()
    opened = SegmentationSet.open(out)
    assert (opened.form, len(opened)) == ("segmented", 4)
    assert opened.vocabulary.names == WORDS.names
    assert len(SegmentationSet.open(out, "corrected")) == 0
    by_name = {sample.name: sample for sample in map(opened.__getitem__, range(4))}
    sample = by_name["out/deep/b"]
    np.testing.assert_array_equal(sample.image, np.array(Image.open(photos / "deep/b.png")))
    np.testing.assert_array_equal(sample.index_map, np.array(Image.open(out / "deep/b.index.png")))
    mask = np.full((40, 60), 2, np.uint8)
    mask[:, :5], mask[:, 5:9] = 254, 255
    Image.fromarray(mask).save(out / "deep/b.index.png")
    [changed] = SegmentationSet.open(out, "corrected")
    np.testing.assert_array_equal(changed.index_map, mask)
    _, _, done = again()
    assert done == [], "and segmenting the folder again leaves it alone"
    paint(photos / "deep/b.png", seed=7)
    outcome, _, done = again()
    assert (done, [name for name, _ in outcome.failed]) == ([], ["deep/b.png"])
    np.testing.assert_array_equal(np.array(Image.open(out / "deep/b.index.png")), mask)


def test_what_failed_is_not_trained_on_and_what_is_missing_is_named(
    again: Again, photos: Path, out: Path
) -> None:
    (photos / "a.jpg").write_bytes(b"no picture")
    again()
    assert [picture.name for picture in SegmentationSet.open(out).files.pictures] == [
        "out/a-2",
        "out/deep/b",
        "out/deep/down/c",
    ]
    (photos / "deep/b.png").rename(photos / "deep/moved.png")
    with pytest.raises(
        ValueError, match=r"deep/b\.png does not exist: put it back, or say in the manifest's first line"
    ):
        SegmentationSet.open(out)
    with pytest.raises(ValueError, match="has no split 'val': use train or corrected"):
        SegmentationSet.open(out, "val")


@pytest.mark.parametrize("path", ["../../secret.png", "/etc/secret.png", "a\0.png"])
def test_a_manifest_names_no_file_outside_its_folders(again: Again, out: Path, path: str) -> None:
    again()
    manifest = out / "manifest.jsonl"
    first, second, *_ = manifest.read_text().splitlines()
    for key, value in (("input", path), ("stem", path), ("outputs", {"index": path})):
        line = {**json.loads(second), key: value}
        manifest.write_text(f"{first}\n{json.dumps(line)}\n")
        assert len(SegmentationSet.open(out)) == 0
        assert Manifest(out).records == {}


def test_a_manifest_that_says_nothing_is_refused(again: Again, out: Path) -> None:
    out.mkdir()
    (out / "manifest.jsonl").write_text("{}\n")
    for refused in (again, lambda: SegmentationSet.open(out)):
        with pytest.raises(
            ValueError, match=r"the first line of .*manifest\.jsonl does not say what was asked"
        ):
            refused()


SCRIPT = """
import os, sys, torch
from pathlib import Path
from sanseg.model.weights import load_san
from sanseg.segmenter import Segmenter
from tests.folders.pictures import segmented

photos, out, log = map(Path, sys.argv[1:4])
with log.open("a", buffering=1) as file:
    segmented(photos, out, Segmenter(load_san("tiny.safetensors", torch.device("cpu"), torch.float32)),
              each=lambda record: print(record.input, file=file))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_after_kill_9_nothing_is_lost_or_done_twice(
    photos: Path, tmp_path: Path, tiny_san: SAN, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_san("tiny.safetensors", tiny_san)
    for seed in range(150):
        paint(photos / f"many/{seed:03}.png", seed, (400, 300))
    log, out = tmp_path / "log", tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(photos), str(out), str(log)],
        env={**os.environ, "PYTHONPATH": str(Path(sanseg.__file__).parents[1])},
    )
    while process.poll() is None and (not log.exists() or log.read_text().count("\n") < 20):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = {line["input"] for line in map(json.loads, whole_lines(out)) if "input" in line}
    assert 20 <= len(first) < 154
    told: list[str] = []
    outcome = segmented(photos, out, segmenter, each=lambda record: told.append(record.input))
    assert not first & set(told), "nothing is done twice"
    assert len(first) + len(told) == len(outcome.records) == 154, "nothing is lost"
    unbroken = tmp_path / "unbroken" / "out"
    segmented(photos, unbroken, segmenter)
    one, other = tree(out), tree(unbroken)
    assert one.pop("index.html").replace(b"../photos", b"") == other.pop("index.html").replace(
        b"../../photos", b""
    )
    assert one == other


def whole_lines(out: Path) -> list[str]:
    text = (out / "manifest.jsonl").read_text()
    return text[: text.rindex("\n")].splitlines()
