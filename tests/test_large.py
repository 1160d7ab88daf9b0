"""From file to files by windows: what is written is the answer, and a run that was stopped goes on as if it was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sanseg import geo, images
from sanseg.large import files, part
from sanseg.large.run import Options, segment_large
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary
from sanseg.windows import Window, Windows, segment_by_windows
from tests.test_geo import MAP, PLACE, write

rasterio = pytest.importorskip("rasterio")

WORDS = Vocabulary.of("sky, tree | woods, cat").with_other("wall, dog")
SMALL = Options(window=64, overlap=0.25, geojson=True)


def picture(height: int = 150, width: int = 130, seed: int = 0) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(1, 256, (9, 11, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


@pytest.fixture
def tiff(tmp_path: Path) -> Path:
    return write(tmp_path / "big.tif", picture().transpose(2, 0, 1))


def read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as dataset:
        pixels: NDArray[Any] = dataset.read(1)
    return pixels


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_the_answer(segmenter: Segmenter, tiff: Path, tmp_path: Path) -> None:
    counts: list[tuple[int, int]] = []
    files = segment_large(
        segmenter, tiff, WORDS, tmp_path / "out", "big", SMALL, lambda *count: counts.append(count)
    )
    answer = segment_by_windows(segmenter, picture(), WORDS, size=64)
    np.testing.assert_array_equal(read(files["index"]), answer.label_map)
    np.testing.assert_allclose(read(files["confidence"]) / 1e4, answer.confidence, atol=5.1e-5)
    assert counts == [(done, 9) for done in range(10)]
    assert set(contents(tmp_path / "out")) == {path.name for path in files.values()}
    assert set(files) == {"index", "confidence", "geojson", "overlay", "json"}
    numbers = json.loads(files["json"].read_text())
    same = answer.to_dict()
    for key in same.keys() - {"regions"}:
        assert numbers[key] == same[key]
    for one, two in zip(numbers["regions"], same["regions"], strict=True):
        assert (one["label"], one["pixels"], one["share"]) == (two["label"], two["pixels"], two["share"])
        assert one["mean_confidence"] == pytest.approx(two["mean_confidence"], abs=1e-4)
    assert numbers["crs"] == "EPSG:32633"
    assert numbers["transform"] == [*PLACE][:6]
    with rasterio.open(files["index"]) as dataset:
        assert (dataset.crs, dataset.transform) == (MAP.crs, MAP.transform)
    overlay = np.array(Image.open(files["overlay"]))
    np.testing.assert_array_equal(overlay[:150, :130], np.array(answer.overlay(legend=False)))


def test_each_file_says_where_it_comes_from(segmenter: Segmenter, tiff: Path, tmp_path: Path) -> None:
    files = segment_large(segmenter, tiff, WORDS, tmp_path / "out", "big", SMALL)
    wanted = {**segment_by_windows(segmenter, picture(), WORDS, size=64).source(), "model": "tiny"}
    for kind in ("index", "confidence"):
        with rasterio.open(files[kind]) as dataset:
            assert {name: dataset.tags()[name.upper()] for name in wanted} == wanted
    for kind in ("geojson", "json"):
        assert wanted.items() <= json.loads(files[kind].read_text()).items()
    with Image.open(files["overlay"]) as overlay:
        assert overlay.text["Software"] == f"sanseg {wanted['sanseg']}"  # type: ignore[attr-defined]
        for keyword in ("Model", "Templates", "Vocabulary"):
            assert overlay.text[keyword] == wanted[keyword.lower()]  # type: ignore[attr-defined]


def test_one_window_is_the_plain_answer(segmenter: Segmenter, tiff: Path, tmp_path: Path) -> None:
    files = segment_large(segmenter, tiff, WORDS, tmp_path / "out", "big", Options(window=256, overlay=False))
    plain = segmenter(picture(), WORDS)
    np.testing.assert_array_equal(read(files["index"]), plain.label_map)
    np.testing.assert_array_equal(
        read(files["confidence"]), np.round(plain.confidence * np.float32(1e4)).astype(int)
    )
    assert set(files) == {"index", "confidence", "json"}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_other_formats_are_decoded_whole_and_keep_their_limit(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    files = segment_large(segmenter, tmp_path / "a.png", WORDS, tmp_path / "out", "a", SMALL)
    np.testing.assert_array_equal(
        read(files["index"]), segment_by_windows(segmenter, picture(), WORDS, size=64).label_map
    )
    assert json.loads(files["json"].read_text())["crs"] is None
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    with pytest.raises(ValueError, match="130x150 pixels, the limit"):
        segment_large(segmenter, tmp_path / "a.png", WORDS, tmp_path / "two", "a", SMALL)
    segment_large(
        segmenter, tmp_path / "a.png", WORDS, tmp_path / "two", "a", Options(window=64, max_pixels=19_500)
    )
    with pytest.raises(ValueError, match="has no bands to choose from"):
        segment_large(segmenter, tmp_path / "a.png", WORDS, tmp_path / "two", "a", Options(bands=(1,)))


def test_no_data_stays_no_data(segmenter: Segmenter, tmp_path: Path) -> None:
    image = picture()
    image[:70, 60:] = 0
    path = write(tmp_path / "a.tif", image.transpose(2, 0, 1), nodata=0)
    files = segment_large(segmenter, path, WORDS, tmp_path / "out", "a", SMALL)
    np.testing.assert_array_equal(read(files["index"]) == 255, ~image.any(2))
    np.testing.assert_array_equal(read(files["confidence"]) == 65_535, ~image.any(2))
    numbers = json.loads(files["json"].read_text())
    assert numbers["unknown"] == {"id": 255, "pixels": int((~image.any(2)).sum())}
    assert sum(one["share"] for one in numbers["regions"]) == pytest.approx(1, abs=1e-5)


class Killed(BaseException):
    """Nothing in the way of an exception may tidy up."""


def killing(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], int]:
    """Every step that writes something fails from the one with this number on, as if the process was gone.

    Half of what a step writes may be there: rows are appended before it fails. Returns how many steps there were."""
    steps = 0

    def dying(step: Callable[..., Any], *, late: bool = False) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps >= at and not late:
                raise Killed
            result = step(*arguments, **options)
            if steps >= at:
                raise Killed
            return result

        return run

    rmtree, half = shutil.rmtree, dying(lambda: None)

    def removing(folder: Path) -> None:
        (folder / "labels").unlink()
        half()
        rmtree(folder)

    monkeypatch.setattr(part.shutil, "rmtree", removing)
    monkeypatch.setattr(os, "fsync", dying(os.fsync, late=True))
    monkeypatch.setattr(Path, "replace", dying(Path.replace))
    monkeypatch.setattr(Path, "unlink", dying(Path.unlink))
    for name in ("write_index", "write_confidence", "write_geojson"):
        monkeypatch.setattr(files, name, dying(getattr(files, name), late=True))
    return lambda: steps


def test_a_run_killed_at_any_step_goes_on_as_if_it_was_not(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiff = write(tmp_path / "big.tif", picture(100, 90).transpose(2, 0, 1))
    segment_large(segmenter, tiff, WORDS, tmp_path / "whole", "big", SMALL)
    whole = contents(tmp_path / "whole")
    seen: list[Window] = []
    look = Windows._look
    monkeypatch.setattr(Windows, "_look", lambda self, window: (seen.append(window), look(self, window))[1])
    at, finished, fewest = 1, False, 4
    while not finished:
        out = tmp_path / str(at)
        with monkeypatch.context() as patch:
            killing(patch, at)
            try:
                segment_large(segmenter, tiff, WORDS, out, "big", SMALL)
                finished = True
            except Killed:
                pass
        seen.clear()
        segment_large(segmenter, tiff, WORDS, out, "big", SMALL)
        assert contents(out) == whole, at
        if not finished:
            fewest = min(fewest, len(seen))
        at += 1
    assert at > 25  # every window, every band, every result
    assert fewest == 0  # where all windows were done, none was looked at again


KILLED = """
import os, signal, sys
from pathlib import Path
from sanseg.large.run import segment_large
from sanseg.segmenter import Segmenter
from tests.conftest import TINY, make_san
from tests.test_large import SMALL, WORDS
def progress(done, windows):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
segment_large(Segmenter(make_san(TINY)), sys.argv[1], WORDS, sys.argv[2], "big", SMALL, progress)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_kill_9_leaves_a_run_that_goes_on(segmenter: Segmenter, tiff: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiff), str(out)], cwd=Path(__file__).parents[1], check=False
    )
    assert run.returncode == -signal.SIGKILL
    assert not [path for path in out.iterdir() if path.is_file()]
    counts: list[int] = []
    segment_large(segmenter, tiff, WORDS, out, "big", SMALL, lambda done, of: counts.append(done))
    assert counts[0] == 4
    segment_large(segmenter, tiff, WORDS, tmp_path / "whole", "big", SMALL)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.fixture
def stopped(segmenter: Segmenter, tiff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a run was stopped after its first band."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        killing(patch, 16)
        with pytest.raises(Killed):
            segment_large(segmenter, tiff, WORDS, out, "big", SMALL)
    assert json.loads((out / "big.part" / "run.json").read_text())["rows"] == 48
    return out


def test_another_run_is_not_mixed_in(segmenter: Segmenter, tiff: Path, tmp_path: Path, stopped: Path) -> None:
    before = contents(stopped)
    other = write(tmp_path / "other.tif", picture(seed=1).transpose(2, 0, 1))
    cases = (
        (other, WORDS, SMALL, "picture"),
        (tiff, Vocabulary.of("sky"), SMALL, "vocabulary"),
        (tiff, WORDS, Options(window=96), "window"),
        (tiff, WORDS, Options(window=64, overlap=0.5, stretch=geo.PERCENTILES), "overlap and stretch"),
    )
    for source, words, options, what in cases:
        with pytest.raises(ValueError, match=rf"with another {what}: give the same command"):
            segment_large(segmenter, source, words, stopped, "big", options)
    segmenter.san.nothing.data += 1
    with pytest.raises(ValueError, match="with another model"):
        segment_large(segmenter, tiff, WORDS, stopped, "big", SMALL)
    assert contents(stopped) == before


def test_damage_is_told(segmenter: Segmenter, tiff: Path, stopped: Path) -> None:
    folder = stopped / "big.part"
    labels = (folder / "labels").read_bytes()
    (folder / "labels").write_bytes(labels[:10])
    with pytest.raises(ValueError, match=r"labels is damaged: remove .*big\.part to start afresh"):
        segment_large(segmenter, tiff, WORDS, stopped, "big", SMALL)
    (folder / "labels").write_bytes(labels)
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        segment_large(segmenter, tiff, WORDS, stopped, "big", SMALL)


def test_a_second_process_is_noticed(segmenter: Segmenter, tiff: Path, tmp_path: Path) -> None:
    def meanwhile(done: int, _: int) -> None:
        if done == 4:
            with (tmp_path / "out" / "big.part" / "labels").open("ab") as file:
                file.write(b"rows of another")

    with pytest.raises(ValueError, match="another process is at work"):
        segment_large(segmenter, tiff, WORDS, tmp_path / "out", "big", SMALL, meanwhile)


def test_a_full_disk_is_told_before_any_work(
    segmenter: Segmenter, tiff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = part.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(part.shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(ValueError, match=r"has 0\.0 GB left.*make room"):
        segment_large(segmenter, tiff, WORDS, tmp_path / "out", "big", SMALL)


def test_results_that_were_not_asked_for_do_not_stay(
    segmenter: Segmenter, tiff: Path, tmp_path: Path
) -> None:
    segment_large(segmenter, tiff, WORDS, tmp_path / "out", "big", SMALL)
    segment_large(
        segmenter, tiff, WORDS, tmp_path / "out", "big", Options(window=64, overlay=False, json=False)
    )
    assert set(contents(tmp_path / "out")) == {"big.index.tif", "big.confidence.tif"}


def test_without_rasterio_the_extra_is_named(
    segmenter: Segmenter, tiff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ValueError, match=r"pip install 'sanseg\[geo\]'"):
        segment_large(segmenter, tiff, WORDS, tmp_path / "out", "big", SMALL)
    assert not (tmp_path / "out").exists()
