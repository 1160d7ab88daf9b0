"""The table of formats: each is whole, named, the same twice, and says where it comes from."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sanseg.formats import FORMATS, check_installed
from sanseg.images import Geometry
from sanseg.queries import Queries
from sanseg.segmentation import Segmentation
from sanseg.version import VERSION


def with_queries(seg: Segmentation) -> Segmentation:
    height, width = seg.label_map.shape
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(3, len(seg.labels) + 1, generator=generator).softmax(1)
    queries = Queries(
        torch.randn(3, 8, 10, generator=generator),
        torch.randn(3, 5, generator=generator),
        probabilities,
        (*range(len(seg.labels)), -1),
        Geometry((height, width), (2 * height, 2 * width), (96, 128)),
    )
    return replace(seg, queries=queries)


def everything(path: Path) -> bytes:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return b"".join(file.read_bytes() for file in files)


def test_each_format_is_written_under_its_name(seg: Segmentation, tmp_path: Path) -> None:
    paths = with_queries(seg).save(tmp_path, "cat.v1", FORMATS)
    assert [*paths] == [*FORMATS]
    assert paths == {name: tmp_path / f"cat.v1{one.ending}" for name, one in FORMATS.items()}
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())
    assert all(one.what for one in FORMATS.values())


@pytest.mark.parametrize("name", FORMATS)
def test_the_ending_chooses_the_format(seg: Segmentation, tmp_path: Path, name: str) -> None:
    seg, ending = with_queries(seg), FORMATS[name].ending
    assert seg.save(tmp_path / f"x{ending}") == {name: tmp_path / f"x{ending}"}
    assert everything(tmp_path / f"x{ending}") == everything(seg.save(tmp_path / "set", "x", [name])[name])


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_result_gives_the_same_bytes(seg: Segmentation, tmp_path: Path, name: str) -> None:
    seg = with_queries(seg)
    first, second = (seg.save(tmp_path / folder, "cat", [name])[name] for folder in "ab")
    assert everything(first) == everything(second)


@pytest.mark.parametrize("name", sorted({*FORMATS} - {"yolo", "confidence", "scores"}))
def test_each_says_where_it_comes_from(seg: Segmentation, tmp_path: Path, name: str) -> None:
    """YOLO's text has no room for it; arrays are packed, and are read in test_arrays."""
    content = everything(with_queries(seg).save(tmp_path, "cat", [name])[name]).decode("latin-1")
    for wanted in (seg.vocabulary_hash, VERSION, "tiny", "plain"):
        assert wanted in content


def test_what_a_format_lacks_is_said(seg: Segmentation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did not keep what the queries say: ask with proposals=True"):
        seg.save(tmp_path, "cat", ["scores"])
    with pytest.raises(ValueError, match="holds no picture"):
        replace(seg, image=None).save(tmp_path, "cat", ["overlay"])
    assert not list(tmp_path.iterdir())


def test_a_result_without_regions_of_its_own_is_saved_too(seg: Segmentation, tmp_path: Path) -> None:
    nothing = replace(seg, label_map=np.full_like(seg.label_map, 254))
    paths = with_queries(nothing).save(tmp_path, "cat", FORMATS)
    assert paths["yolo"].read_bytes() == b""
    assert json.loads(paths["coco-rle"].read_text())["annotations"] == []
    assert [file.name for file in paths["masks"].iterdir()] == ["254-other.png"]


def test_names_that_are_no_utf8_are_written_all_the_same(seg: Segmentation, tmp_path: Path) -> None:
    paths = seg.save(tmp_path, "cat", ["coco-rle", "cvat", "labelme"], picture="a\udcff\x01.jpg")
    assert json.loads(paths["coco-rle"].read_text(encoding="utf-8"))["images"][0]["file_name"] == "a?\x01.jpg"
    assert 'name="a?�.jpg"' in paths["cvat"].read_text(encoding="utf-8")


def test_the_page_names_every_format() -> None:
    page = (Path(__file__).parents[2] / "docs" / "FORMATS.md").read_text(encoding="utf-8")
    for name, one in FORMATS.items():
        assert f"| `{name}` | `{one.ending}` |" in page


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_extra_is_found_before_any_work(
    seg: Segmentation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`needs` names no package too few: with only these, the format is made, and without any one it is refused."""
    extra = ("scipy", "rasterio", "shapely", "pycocotools")
    needs = FORMATS[name].needs
    for package in {*extra} - {*needs}:
        block(monkeypatch, package)
    check_installed([name])
    with_queries(seg).save(tmp_path, "cat", [name])
    for package in needs:
        with monkeypatch.context() as without:
            block(without, package)
            told = rf"the format {name} needs {package}, .*: pip install 'sanseg\[formats\]'"
            with pytest.raises(ValueError, match=told):
                check_installed([name])


def block(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if it were not installed."""
    for module in [package, *(one for one in sys.modules if one.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
