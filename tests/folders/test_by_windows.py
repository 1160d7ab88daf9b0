"""Pictures of a folder that are too large go by windows, into the same manifest, killed and resumed like the others."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sanseg import images
from sanseg.data.datasets import SegmentationSet
from sanseg.folders.by_windows import ByWindows
from sanseg.folders.folder import Outcome
from sanseg.folders.plan import Job, Plan
from sanseg.large.run import Options, goes_by_windows
from sanseg.model.san import SAN
from sanseg.model.weights import save_san
from sanseg.segmenter import Segmenter, load
from sanseg.windows import Windows, segment_by_windows
from tests.folders.pictures import WORDS, paint, segmented, started, tree
from tests.test_geo import write
from tests.test_large import contents, picture, read

pytest.importorskip("rasterio")

FORMATS = ("index", "json", "overlay", "coco-rle")
SMALL = Options(window=64)
Again = Callable[..., Outcome]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small photos, and a TIFF above the limit."""
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    for seed in range(2):
        paint(tmp_path / f"photos/{seed}.png", seed)
    (tmp_path / "photos/deep").mkdir()
    write(tmp_path / "photos/deep/big.tif", picture().transpose(2, 0, 1))
    return tmp_path / "photos"


def again(photos: Path, out: Path, segmenter: Segmenter, **options: Any) -> Outcome:
    how = ByWindows(options=options.pop("how", SMALL), told=options.pop("told", lambda *_: None))
    return segmented(photos, out, segmenter, by_windows=how, **{"formats": FORMATS, **options})


def line(out: Path) -> dict[str, Any]:
    lines = [json.loads(one) for one in (out / "manifest.jsonl").read_text().splitlines()]
    [found] = [one for one in lines if one.get("input") == "deep/big.tif"]
    return found


def test_a_large_picture_is_in_the_manifest_like_the_others(
    photos: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    out = tmp_path / "out"
    outcome = again(photos, out, segmenter)
    assert (outcome.failed, outcome.left, len(outcome.records)) == ([], 0, 3)
    answer = segment_by_windows(segmenter, picture(), WORDS, size=64)
    np.testing.assert_array_equal(read(out / "deep/big.index.tif"), answer.label_map)
    big = line(out)
    assert big["error"] is None
    assert (big["width"], big["height"]) == (130, 150)
    assert big["areas"] == {k: round(v, 6) for k, v in answer.areas().items() if v}
    assert big["outputs"].keys() == {"index", "confidence", "json", "overlay", "thumbnail"}
    assert all((out / name).is_file() for name in big["outputs"].values())
    assert big["windows"]["size"] == 64
    assert big["windows"]["without"] == ["coco-rle"]
    small = np.array(Image.open(out / big["outputs"]["thumbnail"]))
    assert small.shape == (150, 130, 3), "without the legend"
    assert "deep/big.tif" in (out / "index.html").read_text()
    assert (
        len(json.loads((out / "coco-rle_set/annotations/instances_train.json").read_bytes())["images"]) == 2
    )
    assert len(SegmentationSet.open(out)) == 2, "too large to train on"


def test_what_is_done_is_left_alone_and_what_changed_is_done_again(
    photos: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    out, plans, done = tmp_path / "out", list[Plan](), list[str]()
    run = partial(
        again, photos, out, segmenter, planned=plans.append, each=lambda record: done.append(record.input)
    )
    run()
    before = contents(out)
    done.clear()
    run()
    assert (done, plans[-1].jobs) == ([], [])
    after = contents(out)
    assert {name for name in before if before[name] != after[name]} <= {"manifest.jsonl"}
    write(photos / "deep/big.tif", picture(seed=1).transpose(2, 0, 1))
    run()
    assert done == ["deep/big.tif"]
    assert line(out)["replaced"]
    done.clear()
    (out / "deep/big.confidence.tif").unlink()
    run(formats=("index", "geojson"))
    assert "deep/big.tif" in done
    assert line(out)["outputs"].keys() == {"index", "confidence", "json", "geojson"}
    assert not (out / "deep/big.overlay.png").exists()


class Killed(BaseException):
    pass


def test_killed_and_resumed_nothing_is_lost(photos: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    again(photos, tmp_path / "a/out", segmenter)

    def killed(job: Job, done: int, windows: int) -> None:
        if done == 4:
            raise Killed

    seen = []
    with pytest.raises(Killed):
        again(photos, tmp_path / "b/out", segmenter, told=killed)
    assert (tmp_path / "b/out/deep/big.part/run.json").is_file()
    again(photos, tmp_path / "b/out", segmenter, told=lambda job, done, windows: seen.append(done))
    assert seen[0] == 4, "windows that were done are not done again"
    assert tree(tmp_path / "a/out") == tree(tmp_path / "b/out")


def test_a_wish_to_stop_is_heeded_between_windows(
    photos: Path, tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(job: Job, done: int, windows: int) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = again(photos, tmp_path / "out", segmenter, told=asked)
    assert (outcome.stopped, outcome.left, outcome.failed) == (True, 1, [])
    assert (tmp_path / "out/deep/big.part/run.json").is_file()
    assert again(photos, tmp_path / "out", segmenter).left == 0


@pytest.mark.parametrize("change", ["picture", "window"])
def test_windows_of_what_changed_meanwhile_are_done_again(
    photos: Path, tmp_path: Path, segmenter: Segmenter, change: str
) -> None:
    def killed(job: Job, done: int, windows: int) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        again(photos, tmp_path / "out", segmenter, told=killed)
    how = SMALL
    if change == "picture":
        write(photos / "deep/big.tif", picture(seed=1).transpose(2, 0, 1))
    else:
        how = replace(SMALL, window=80)
    assert again(photos, tmp_path / "out", segmenter, how=how).failed == []
    again(photos, tmp_path / "fresh/out", segmenter, how=how)
    assert (tmp_path / "out/deep/big.index.tif").read_bytes() == (
        tmp_path / "fresh/out/deep/big.index.tif"
    ).read_bytes()


def test_one_that_fails_does_not_stop_the_rest(
    photos: Path, tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise ValueError("no more room")

    monkeypatch.setattr(Windows, "_look", broken)
    outcome = again(photos, tmp_path / "out", segmenter)
    assert outcome.failed == [("deep/big.tif", "no more room")]
    assert sum(record.error is None for record in outcome.records) == 2


def test_a_label_map_that_was_corrected_is_not_lost(
    photos: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    out = tmp_path / "out"
    again(photos, out, segmenter)
    (out / "deep/big.index.tif").write_bytes(b"corrected")
    write(photos / "deep/big.tif", picture(seed=1).transpose(2, 0, 1))
    assert [name for name, _ in again(photos, out, segmenter).failed] == ["deep/big.tif"]
    assert (out / "deep/big.index.tif").read_bytes() == b"corrected"


def test_formats_that_are_decoded_whole_keep_the_limit(
    photos: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    Image.fromarray(picture()).save(photos / "big.png")
    outcome = again(photos, tmp_path / "out", segmenter)
    assert [name for name, _ in outcome.failed] == ["big.png"]
    how = ByWindows(partial(goes_by_windows, max_pixels=50_000), replace(SMALL, max_pixels=50_000))
    assert segmented(photos, tmp_path / "out", segmenter, by_windows=how, formats=FORMATS).failed == []
    assert (tmp_path / "out/big.index.tif").is_file()


@pytest.fixture
def loader(tmp_path: Path, tiny_san: SAN, monkeypatch: pytest.MonkeyPatch) -> Iterator[partial[Segmenter]]:
    """For processes with one thread each, and this one too: convolutions round by the number of threads."""
    monkeypatch.setenv(
        "SANSEG_CACHE", str(tmp_path / "cache")
    )  # others may have encoded these words with more
    save_san(tmp_path / "tiny.safetensors", tiny_san)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield partial(load, tmp_path / "tiny.safetensors", "cpu")
    torch.set_num_threads(before)


def test_several_processes_give_what_one_gives(
    photos: Path, tmp_path: Path, segmenter: Segmenter, loader: partial[Segmenter]
) -> None:
    done: list[str] = []
    again(photos, tmp_path / "one/out", segmenter)
    outcome = again(
        photos,
        tmp_path / "two/out",
        segmenter,
        load=loader,
        workers=2,
        each=lambda record: done.append(record.input),
    )
    assert (outcome.failed, len(outcome.records)) == ([], 3)
    assert done[-1] == "deep/big.tif", "after the others"
    assert tree(tmp_path / "one/out") == tree(tmp_path / "two/out")


SCRIPT = """
import sys, time, torch
from functools import partial
from pathlib import Path
from sanseg import images
from sanseg.folders.by_windows import ByWindows
from sanseg.large.run import Options
from sanseg.segmenter import load
from tests.folders.pictures import segmented

def told(job, done, windows):
    if done == 4:
        print(job.input, flush=True)
        time.sleep(60)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    images.MAX_PIXELS = 10_000
    torch.set_num_threads(1)
    loader = partial(load, folder / "tiny.safetensors", "cpu")
    segmented(folder / "photos", folder / "killed/out", loader(), load=loader, workers=2,
              formats=("index", "json", "overlay", "coco-rle"),
              by_windows=ByWindows(options=Options(window=64), told=told))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_after_kill_9_several_processes_go_on_in_the_middle_of_a_picture(
    photos: Path, tmp_path: Path, segmenter: Segmenter, loader: partial[Segmenter]
) -> None:
    process, printed = started(SCRIPT, tmp_path)
    assert printed.readline() == "deep/big.tif\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    printed.close()
    seen: list[int] = []
    done: list[str] = []
    outcome = again(
        photos,
        tmp_path / "killed/out",
        segmenter,
        load=loader,
        workers=2,
        told=lambda job, done, windows: seen.append(done),
        each=lambda record: done.append(record.input),
    )
    assert (outcome.failed, done, seen[0]) == ([], ["deep/big.tif"], 4), "what was done is not done again"
    again(photos, tmp_path / "whole/out", segmenter)
    assert tree(tmp_path / "killed/out") == tree(tmp_path / "whole/out")
