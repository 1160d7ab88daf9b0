"""From miniature raw releases to index masks: the exact classes, and nothing half-done."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from sanseg.cli.prepare_benchmarks import prepare_app
from sanseg.data import prepare as prepare_module
from sanseg.data import prepare_picture as picture_module
from sanseg.data.datasets import SegmentationSet
from sanseg.data.labelsets import read_labelset
from sanseg.data.prepare import BENCHMARKS
from tests.data import raw_trees
from tests.data.raw_trees import LARGE, columns, files, mask, part, pixels, ruin, tree

Change = pytest.MonkeyPatch

EXPECTED = {
    "coco-stuff": ("000000000139", np.uint8, [0, 10, 255, 11, 80, 81, 170, 255]),
    "voc": ("2007_000033", np.uint8, [255, 0, 14, 19, 255, 255, 255, 255]),
    "context59": ("2008_000003", np.uint8, [255, 1, 1, 1, 0, 255, 255, 255]),
    "context459": ("2008_000003", np.uint16, [65535, 0, 1, 2, 8, 457, 458, 396]),
    "ade150": ("ADE_val_00000001", np.uint8, [255, 0, 1, 149, 149, 149, 149, 149]),
    "ade847": ("ADE_val_00000001", np.uint16, [65535, 0, 1, 846, 65535, 65535, 65535, 65535]),
}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_each_benchmark_has_the_classes_of_the_protocol(benchmark: str, tmp_path: Path) -> None:
    raw, out = tree(benchmark, tmp_path), tmp_path / "out"
    done = part(benchmark, raw, out)
    stem, dtype, row = EXPECTED[benchmark]
    assert mask(out, stem).dtype == dtype
    assert (mask(out, stem) == row).all()

    spec = BENCHMARKS[benchmark]
    described = json.loads((out / "dataset.json").read_text())
    assert described["labels"] == list(read_labelset(spec.labelset))
    assert described["ignore"] == spec.unknown
    assert described["terms"] == spec.terms
    assert spec.title in described["source"]
    assert not (out / "unfinished.json").exists()
    assert done.made == sum(done.pictures.values()) == len(list((out / "masks").iterdir()))
    assert done.seen == len({label for label in row if label != spec.unknown})
    for split in ("train", "val"):
        opened = SegmentationSet.open(out, split)
        assert len(opened) == done.pictures[split] > 0
        for sample in map(opened.__getitem__, range(len(opened))):
            assert sample.image.shape[:2] == sample.index_map.shape
    unknown = 255 if len(spec.raw_ids) <= 254 else 65_535
    assert [label for label in opened[0].index_map[0] if label != unknown] == [
        label for label in row if label != spec.unknown
    ]


@pytest.mark.parametrize(
    ("shrink", "size"), [("longer", (256, 512)), ("shorter", LARGE)], ids=["longer", "shorter"]
)
def test_large_pictures_of_the_full_ade20k_are_shrunk(
    shrink: str, size: tuple[int, int], tmp_path: Path
) -> None:
    raw, out = tree("ade847", tmp_path), tmp_path / "out"
    scene = raw / "ADE20K_2021_17_01/images/ADE/validation/home_or_hotel/kitchen/ADE_val_00000002"
    numbers = np.where(np.arange(600) < 300, 2978, 312) * np.ones((300, 1), int)
    numbers[0, :4] = 0
    raw_trees.png(scene.with_name("ADE_val_00000002_seg.png"), raw_trees.objects(numbers))
    grey = np.where(numbers == 2978, 200, 40).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(scene.with_suffix(".jpg"), quality=95)
    part("ade847", raw, out, shrink=shrink)
    shrunk, small = mask(out, "ADE_val_00000002"), pixels(out / "images/ADE_val_00000002.jpg")
    assert shrunk.shape == small.shape[:2] == size
    half = size[1] // 2
    assert (shrunk[1:] == np.where(np.arange(size[1]) < half, 0, 1)).all()
    assert (shrunk == 65_535).sum() == 4  # no class is made up between two others
    assert abs(small[16:, : half - 8].astype(int) - 200).max() < 9
    assert abs(small[16:, half + 8 :].astype(int) - 40).max() < 9
    assert (out / "images/ADE_val_00000001.jpg").samefile(next(raw.rglob("ADE_val_00000001.jpg")))


def test_shrinking_is_bilinear_between_the_nearest_pixels(tmp_path: Path, monkeypatch: Change) -> None:
    """As OpenCV does it: pixel centres on pixel centres, no antialiasing."""
    raw, out = tree("ade847", tmp_path), tmp_path / "out"
    noise = np.random.default_rng(0).integers(0, 256, LARGE).astype(np.uint8)
    source = next(raw.rglob("ADE_val_00000002.jpg"))
    Image.fromarray(np.stack([noise] * 3, axis=2)).save(source, quality=100)
    monkeypatch.setattr(picture_module, "QUALITY", 100)
    part("ade847", raw, out)
    wanted = pixels(source)[..., 0].astype(float)
    for axis, (large, small) in enumerate(zip(LARGE, (256, 512), strict=True)):
        place = (np.arange(small) + 0.5) * large / small - 0.5
        low = np.floor(place).astype(int)
        share = np.expand_dims(place - low, 1 - axis)
        wanted = wanted.take(low, axis) * (1 - share) + wanted.take(low + 1, axis) * share
    assert abs(pixels(out / "images" / source.name)[..., 0] - wanted).max() < 4


def test_only_what_can_be_shrunk_is(tmp_path: Path) -> None:
    raw = tree("voc", tmp_path)
    with pytest.raises(ValueError, match="pictures of voc are never shrunk"):
        part("voc", raw, tmp_path / "out", shrink="shorter")
    with pytest.raises(ValueError, match="by their 'both' side: choose longer or shorter"):
        part("voc", raw, tmp_path / "out", shrink="both")


def test_the_other_way_to_shrink_replaces_pictures_and_masks(tmp_path: Path) -> None:
    """The raw picture, which is the same file as the linked one, stays as it is."""
    raw, out = tree("ade847", tmp_path), tmp_path / "out"
    picture = next(raw.rglob("ADE_val_00000002.jpg"))
    before = picture.read_bytes()
    part("ade847", raw, out, shrink="shorter")
    assert (out / "images" / picture.name).samefile(picture)
    done = part("ade847", raw, out, shrink="longer")
    assert (done.made, done.kept) == (1, 2)
    assert mask(out, "ADE_val_00000002").shape == (256, 512)
    assert pixels(out / "images" / picture.name).shape == (256, 512, 3)
    assert picture.read_bytes() == before


def test_pictures_are_linked_or_copied_byte_for_byte(tmp_path: Path, monkeypatch: Change) -> None:
    raw = tree("voc", tmp_path)
    source = next(raw.rglob("2007_000033.jpg"))
    part("voc", raw, tmp_path / "linked")
    assert (tmp_path / "linked" / "images" / source.name).samefile(source)

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    part("voc", raw, tmp_path / "copied")
    copy = tmp_path / "copied" / "images" / source.name
    assert not copy.samefile(source)
    assert copy.read_bytes() == source.read_bytes()


def test_an_interrupted_run_is_seen_and_continued(tmp_path: Path, monkeypatch: Change) -> None:
    raw, out, fresh = tree("coco-stuff", tmp_path), tmp_path / "out", tmp_path / "fresh"
    part("coco-stuff", raw, fresh)
    calls = []

    def interrupted(job: Any) -> Any:
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return picture_module.prepare_picture(job)

    monkeypatch.setattr(prepare_module, "prepare_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        part("coco-stuff", raw, out)
    monkeypatch.undo()
    assert (out / "unfinished.json").exists()
    assert not (out / "dataset.json").exists()
    with pytest.raises(ValueError, match=r"dataset\.json"):
        SegmentationSet.open(out, "val")

    whole, truncated = sorted((out / "masks").iterdir())
    truncated.write_bytes(truncated.read_bytes()[:-20])
    (out / "masks" / ".0123456789abcdef.tmp").write_bytes(b"of a killed process")
    times = whole.stat().st_mtime_ns
    done = part("coco-stuff", raw, out)
    assert (done.made, done.kept) == (2, 1)
    assert whole.stat().st_mtime_ns == times
    assert files(out) == files(fresh)
    assert part("coco-stuff", raw, out).kept == 3


@pytest.mark.parametrize(
    "wrong", [columns(3, 171), columns(0).T, columns(0).astype(np.uint16)], ids=["value", "size", "bits"]
)
def test_a_mask_that_is_not_of_this_run_is_made_again(wrong: NDArray[Any], tmp_path: Path) -> None:
    raw, out = tree("coco-stuff", tmp_path), tmp_path / "out"
    part("coco-stuff", raw, out)
    before = files(out)
    Image.fromarray(np.ascontiguousarray(wrong)).save(out / "masks" / "000000000139.png")
    done = part("coco-stuff", raw, out)
    assert (done.made, done.kept) == (1, 2)
    assert files(out) == before


def test_processes_give_what_one_does(tmp_path: Path, monkeypatch: Change) -> None:
    raw = tree("coco-stuff", tmp_path)
    monkeypatch.setattr(prepare_module, "BATCH", 1)
    steps: list[tuple[int, int]] = []
    alone = part("coco-stuff", raw, tmp_path / "one")
    done = part("coco-stuff", raw, tmp_path / "two", jobs=2, progress=lambda *numbers: steps.append(numbers))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert done == replace(alone, out=tmp_path / "two")
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_an_interrupt_ends_the_processes(tmp_path: Path, monkeypatch: Change) -> None:
    raw, out = tree("ade150", tmp_path), tmp_path / "out"
    for path in list(raw.rglob("ADE_val*")):
        for number in range(2, 100):
            shutil.copy(path, path.with_stem(f"ADE_val_{number:08d}"))
    monkeypatch.setattr(prepare_module, "BATCH", 1)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        part("ade150", raw, out, jobs=2, progress=interrupt)
    assert caught.value.__traceback__ is not None
    assert not multiprocessing.active_children()  # although the frames are still held
    assert 0 < len(list((out / "masks").glob("*.png"))) < 50  # what was waiting is not begun
    assert not list(out.rglob("*.tmp"))
    assert not (out / "dataset.json").exists()


def test_worker_processes_start_without_torch() -> None:
    program = "import sys, sanseg.data.prepare; print('torch' in sys.modules, 'scipy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_nothing_else_is_written_over(tmp_path: Path) -> None:
    raw, out = tree("voc", tmp_path), tmp_path / "out"
    with pytest.raises(ValueError, match="raw holds other files, not voc: give a new folder"):
        part("voc", raw, raw)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file: give a folder"):
        part("voc", raw, tmp_path / "file")
    part("voc", raw, out)
    raw_trees.context_maps(raw)
    with pytest.raises(ValueError, match="out holds voc, not context59: give a new folder"):
        part("context59", raw, out)
    with pytest.raises(ValueError, match="there is no benchmark 'coco': choose from coco-stuff, voc"):
        part("coco", raw, out)
    with pytest.raises(ValueError, match="0 jobs cannot do anything"):
        part("voc", raw, out, jobs=0)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: Change) -> None:
    raw, out = tree("coco-stuff", tmp_path), tmp_path / "out"
    replacing, calls = Path.replace, []

    def full(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return replacing(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\): make room"):
        part("coco-stuff", raw, out)
    monkeypatch.undo()
    assert not list(out.rglob("*.tmp"))
    assert not (out / "dataset.json").exists()
    assert part("coco-stuff", raw, out).kept == 1


def command(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(prepare_app, [*map(str, arguments)], env={"COLUMNS": "120"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_command_prepares_and_says_what_it_did(tmp_path: Path) -> None:
    raw, out = tree("voc", tmp_path), tmp_path / "out"
    result = command("voc", raw, out, "--partial", "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert "2 masks written, 0 kept; 0 without a labelled pixel; 3 of 20 labels occur" in result.output
    assert "1,449" in result.output
    assert "the release 1,464" in result.output
    assert len(SegmentationSet.open(out, "val")) == 1


def test_the_command_tells_what_is_wrong(tmp_path: Path) -> None:
    raw, out = tree("ade847", tmp_path), tmp_path / "out"
    result = command("ade847", raw, out, "--jobs", "1")
    assert result.exit_code == 2
    assert "has 2 val pictures of ADE20K 847" in result.output
    assert command("ade847", raw, out, "--partial", "--jobs", "1", "--shrink", "shorter").exit_code == 0
    assert mask(out, "ADE_val_00000002").shape == LARGE
    ruin("ade847", raw, "truncated")
    result = command("ade847", raw, tmp_path / "new", "--partial", "--jobs", "1")
    assert result.exit_code == 1
    assert "a file is bad, the rest is done" in result.output
    assert [line for line in result.output.splitlines() if line.startswith("bad: ")]


def test_help_says_what_the_raw_folder_holds(tmp_path: Path) -> None:
    listed = command("--help").output
    for name, spec in BENCHMARKS.items():
        assert f"{spec.title}: " in listed
        told = command(name, "--help").output
        for line in (*spec.layout.split("\n\n")[0].splitlines(), *spec.download.splitlines()):
            assert line.strip() in told
        assert ("--shrink" in told) == (spec.limit is not None)
