"""`sanseg segment` by windows: which pictures go that road, and that each option changes something."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from sanseg import images
from sanseg.cli import shell
from sanseg.large.part import WindowFiles
from sanseg.windows import Place, Seen
from tests import test_cli
from tests.test_cli import Run, files, segment
from tests.test_geo import write
from tests.test_large import picture, read

run = test_cli.run  # the fixture


@pytest.fixture
def tiff(run: Run) -> Path:
    return write(Path("big.tif").resolve(), picture().transpose(2, 0, 1))


def test_a_window_makes_every_picture_go_by_windows(run: Run, tiff: Path) -> None:
    result = segment(run, "--window", "64", photos=("big.tif", "photos/one.png"))
    assert files() == {
        f"{stem}.{ending}"
        for stem in ("big", "one")
        for ending in ("index.tif", "confidence.tif", "json", "overlay.png")
    }
    assert "2 of 2 segmented" in result.output
    assert result.output.count("big.tif has map coordinates") == 1
    segment(run, "--window", "64", "--overlap", "0.5", photos=("big.tif",))
    assert json.loads(Path("out/big.json").read_text())["windows"]["overlap"] == 0.5


def test_only_what_is_above_the_limit_goes_by_itself(
    run: Run,
    tiff: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Image.fromarray(picture()).save("big.png")
    segment(run, photos=("big.tif",))
    assert files() == {"big.overlay.png", "big.index.png", "big.json"}
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    result = segment(run, photos=("big.tif", "big.png", "photos/one.png"), code=1)
    assert {"big-2.index.tif", "one.index.png"} <= files()
    assert "big.png is 130x150 pixels, the limit is 0 megapixels" in result.output
    segment(run, "--max-megapixels", "1", photos=("big.png",))
    assert "big.index.tif" in files()


def test_options_of_rasters_reach_them(run: Run, tiff: Path) -> None:
    arguments = ("--window", "64", "--bands", "3,2,1", "--stretch", "5%,90%", "--format", "json,geojson")
    segment(run, *arguments, photos=("big.tif",))
    assert files() == {"big.index.tif", "big.confidence.tif", "big.json", "big.geojson"}
    windows = json.loads(Path("out/big.json").read_text())["windows"]
    assert windows == {"size": 64, "overlap": 0.25, "bands": [3, 2, 1], "stretch": "5%,90%"}


def test_the_page_names_options_that_there_are(run: Run) -> None:
    page = (Path(__file__).parents[1] / "docs" / "LARGE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z][a-z-]*", page)) - {
        "--seams",
        "--sides",
        "--geojson",
        "--photos",
    }  # of the benchmark
    offered = run("segment", "--help").output
    assert len(named) > 7
    assert [option for option in named if option not in offered] == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--bands", "red"), "bands cannot be 'red'"),
        (("--stretch", "9"), "a stretch cannot be '9'"),
        (("--overlap", "0.9"), "an overlap of 0.9"),
        (("--window", "3"), "windows of 3 pixels"),
    ],
)
def test_mistakes_are_one_line(run: Run, tiff: Path, arguments: tuple[str, str], reason: str) -> None:
    result = segment(run, *arguments, photos=("big.tif",), code=2)
    assert reason in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_interrupted_it_says_how_to_go_on(
    run: Run,
    tiff: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep = WindowFiles.__setitem__

    def interrupted(self: WindowFiles, place: Place, seen: Seen | None) -> None:
        if place == (1, 0):
            raise KeyboardInterrupt
        keep(self, place, seen)

    with monkeypatch.context() as patch:
        patch.setattr(WindowFiles, "__setitem__", interrupted)
        result = segment(run, "--window", "64", photos=("big.tif",), code=130)
    assert "the same command goes on" in result.output
    assert files() == {"big.part"}
    result = segment(run, "--window", "64", "-c", "moon", photos=("big.tif",), code=1)
    assert "with another vocabulary" in result.output
    segment(run, "--window", "64", photos=("big.tif",))
    assert "big.index.tif" in files()
    assert read(Path("out/big.index.tif")).shape == (150, 130)


def test_no_option_is_left_unread(run: Run, tiff: Path) -> None:
    told = segment(run, "--window", "0", photos=("big.tif",), code=shell.BAD_USE).stderr
    assert "windows of 0 pixels: wanted at least 32" in told
    options = ("--window", "64", "--format", "geojson", "--simplify", "1")
    told = segment(run, *options, photos=("big.tif",), code=shell.BAD_USE).stderr
    assert "polygons of pictures that go by windows are exact: leave --simplify out" in told


def test_a_folder_takes_the_options_too(run: Run, tiff: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiff.rename("photos/big.tif")
    segment(run, "--format", "index", photos=("photos",))
    assert "big.index.png" in files()
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    segment(run, "--format", "index", "--overwrite", photos=("photos",))
    assert {"big.index.tif", "one.index.png"} <= files()
    segment(run, "--format", "index", "--overwrite", "--window", "64", photos=("photos",))
    numbers = json.loads(Path("out/big.json").read_text())
    assert numbers["windows"]["size"] == 64
    assert {"big.index.tif", "one.index.png"} <= files(), "photos stay photos"
    monkeypatch.setattr(images, "MAX_PIXELS", 10**8)
    segment(run, "--format", "index", "--overwrite", "--bands", "3,2,1", photos=("photos",))
    assert json.loads(Path("out/big.json").read_text())["windows"]["bands"] == [3, 2, 1]
    assert {"big.index.tif", "one.index.png"} <= files(), "only rasters have bands to choose from"


def test_without_rasterio_nothing_is_begun(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture()).save("big.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    told = segment(run, "--max-megapixels", "1", photos=("big.png",), code=shell.BAD_USE).output
    assert told.startswith("sanseg: reading and writing large TIFFs by windows needs rasterio")
    assert not Path("out").exists()
