"""Raw releases: what they hold, and what is wrong with them."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sanseg.data import prepare as prepare_module
from sanseg.data.datasets import SegmentationSet
from sanseg.data.prepare import BENCHMARKS, BadFilesError, prepare
from sanseg.data.raw import decode_runs
from tests.data import raw_trees
from tests.data.raw_trees import TREES, mask, part, ruin, tree

Change = pytest.MonkeyPatch


def test_other_places_of_the_same_files(tmp_path: Path) -> None:
    raw_trees.coco(tmp_path / "coco", maps="stuffthingmaps_trainval2017")
    (tmp_path / "coco" / "images").mkdir()
    (tmp_path / "coco" / "val2017").rename(tmp_path / "coco" / "images" / "val2017")
    assert part("coco-stuff", tmp_path / "coco", tmp_path / "a").pictures == {"train": 2, "val": 1}
    raw_trees.voc(tmp_path)
    assert part("voc", tmp_path / "VOCdevkit" / "VOC2012", tmp_path / "b").pictures == {"train": 1, "val": 1}
    raw_trees.ade150(tmp_path)
    root = tmp_path / "ADEChallengeData2016"
    assert part("ade150", root, tmp_path / "c").pictures == {"train": 1, "val": 1}
    raw_trees.context_maps(tmp_path / "context")
    root = tmp_path / "context" / "VOCdevkit" / "VOC2010"
    (root / "trainval").rename(tmp_path / "context" / "trainval")
    assert part("context459", tmp_path / "context", tmp_path / "d").pictures == {"train": 1, "val": 1}


def test_pascal_context_59_of_label_maps(tmp_path: Path) -> None:
    """Without the JSON the .mat files do, and PASCAL's own lists, which are a little longer."""
    raw_trees.context_maps(tmp_path)
    done = part("context59", tmp_path, tmp_path / "out")
    assert (mask(tmp_path / "out", "2008_000003") == [255, 255, 0, 255, 1, 58, 255, 49]).all()
    assert done.expected == {"train": 4_998, "val": 5_105}
    assert "LabelMaps" in json.loads((tmp_path / "out" / "dataset.json").read_text())["source"]


def test_the_lists_of_the_json_are_those_of_459_classes_too(tmp_path: Path) -> None:
    raw_trees.context_maps(tmp_path)
    images = [image for image in raw_trees.detail()["images"] if image["phase"] != "train"]
    document = raw_trees.detail(images=images)
    (tmp_path / "VOCdevkit" / "VOC2010" / "trainval_merged.json").write_text(json.dumps(document))
    done = part("context459", tmp_path, tmp_path / "out")
    assert done.pictures == {"train": 0, "val": 1}
    assert done.expected == {"train": 4_996, "val": 5_104}


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_run_lengths_are_those_of_coco(height: int, width: int, seed: int, share: float) -> None:
    drawn = np.random.default_rng(seed).random((height, width)) < share
    drawn = np.repeat(drawn, 1 + seed % 300, axis=0)  # long runs need more characters
    runs = decode_runs(coco_mask.encode(np.asfortranarray(drawn.astype(np.uint8)))["counts"])
    again = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(drawn.shape[::-1]).T
    np.testing.assert_array_equal(again, drawn)


BAD_FILES = [
    ("coco-stuff", "truncated", r"000000000139\.png cannot be read as PNG \(.*\): unpack it again"),
    ("coco-stuff", "rgb", r"139\.png is RGB, 8x6: wanted one channel of class numbers"),
    ("coco-stuff", "turned", r"139\.png is 6x8, its picture .*139\.jpg 8x6: unpack both again"),
    ("coco-stuff", "value", r"139\.png holds the value 201, COCO-Stuff 164k has 0 to 181 and 255"),
    ("voc", "value", r"2007_000033\.png holds the value 201, PASCAL VOC 2012 .* has 0 to 20 and 255"),
    ("voc", "rgb", r"2007_000033\.png is RGB"),
    ("ade150", "value", r"ADE_val_00000001\.png holds the value 201, ADE20K 150.* has 0 to 150: "),
    ("ade847", "grey", r"ADE_val_00000001_seg\.png is L, 8x6: wanted the release's RGB"),
    ("context459", "no LabelMap", r"2008_000003\.mat has no LabelMap"),
    ("context459", "floats", r"2008_000003\.mat has a LabelMap that is no matrix of integers"),
    ("context459", "460", r"2008_000003\.mat holds the value 460, Pascal Context 459 has 0 to 459: "),
    ("context459", "negative", r"2008_000003\.mat holds the value -1, Pascal Context 459 has 0 to 459: "),
    ("context459", "truncated", r"2008_000003\.mat cannot be read as \.mat"),
]


@pytest.mark.parametrize(("benchmark", "how", "message"), BAD_FILES)
def test_bad_files_are_named_and_the_rest_is_done(
    benchmark: str, how: str, message: str, tmp_path: Path
) -> None:
    raw, out = tree(benchmark, tmp_path), tmp_path / "out"
    good = (raw / TREES[benchmark][1]).read_bytes()
    ruin(benchmark, raw, how)
    with pytest.raises(BadFilesError, match=message) as caught:
        part(benchmark, raw, out)
    assert len(caught.value.problems) == 1
    assert "a file is bad, the rest is done" in caught.value.summary
    assert not (out / "dataset.json").exists()
    assert list((out / "masks").iterdir())
    (raw / TREES[benchmark][1]).write_bytes(good)
    assert part(benchmark, raw, out).made == 1


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    raw = tree("voc", tmp_path)
    next(raw.rglob("2007_000033.jpg")).write_bytes(b"no picture")
    with pytest.raises(BadFilesError, match=r"2007_000033\.jpg cannot be read as a picture"):
        part("voc", raw, tmp_path / "out")


def test_after_many_bad_files_the_rest_is_left_alone(tmp_path: Path, monkeypatch: Change) -> None:
    raw = tree("coco-stuff", tmp_path)
    for path in (raw / "stuffthingmaps").rglob("*.png"):
        path.write_bytes(b"")
    monkeypatch.setattr(prepare_module, "MOST_PROBLEMS", 2)
    with pytest.raises(BadFilesError, match="2 files are bad, the rest was left alone") as caught:
        part("coco-stuff", raw, tmp_path / "out")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("seed", range(20))
def test_damaged_label_maps_are_refused_not_crashed_on(seed: int, tmp_path: Path) -> None:
    raw_trees.context_maps(tmp_path)
    rng = np.random.default_rng(seed)
    path = tmp_path / TREES["context459"][1]
    data = bytearray(path.read_bytes())
    for place in rng.integers(0, len(data), 1 + seed % 8):
        data[place] = rng.integers(256)
    path.write_bytes(bytes(data))
    with suppress(BadFilesError):  # anything else fails; some bytes do not matter
        part("context459", tmp_path, tmp_path / "out")


def changed(key: str, record: int = 0, table: str = "annos_segmentation", **fields: Any) -> dict[str, Any]:
    """The JSON with fields of a record changed; `key`: a field that is removed."""
    records = raw_trees.detail()[table]
    records[record].update(fields)
    records[record].pop(key, None)
    return raw_trees.detail(**{table: records})


RUNS = {"size": [6, 8], "counts": "00"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "is not trainval_merged.json as it was released"),
        ({"images": 3}, "is not trainval_merged.json as it was released"),
        (changed("", image_id=[]), "as it was released"),
        (changed("segmentation"), r"as it was released \(KeyError\('segmentation'\)\): download it again"),
        (changed("", segmentation=RUNS | {"size": [8, 6]}), "a region of 2008_000002 of another size"),
        (changed("", segmentation=RUNS | {"counts": [1, 2]}), "as it was released"),
        (changed("", segmentation=RUNS | {"counts": "é"}), "as it was released"),
        (changed("", category_id="cat"), "'cat' where a whole number belongs"),
        (changed("", category_id=2**40), "1099511627776 where a whole number belongs"),
        (changed("height", table="images"), "as it was released"),
        (changed("", table="images", height=-6), "-6 where a whole number belongs"),
        (changed("", table="images", file_name="../../x.jpg"), r"'../../x.jpg': wanted a plain name"),
        (changed("", table="images", file_name="..\\x.jpg"), "wanted a plain name without folders"),
        (changed("", table="images", file_name=7), "as it was released"),
        (changed("", category_id=460), r"picture 2008_000002, holds the value 460"),
        (changed("", segmentation=RUNS | {"counts": "T1"}), "run lengths that do not add up to 8x6 pixels"),
        (changed("", segmentation=RUNS | {"counts": ""}), "2008_000002, has run lengths that do not decode"),
        (changed("", segmentation=RUNS | {"counts": "P"}), "run lengths that do not decode"),
        (changed("", segmentation=RUNS | {"counts": "PPPPPPPPP0"}), "a run length of more than 35 bits"),
        (changed("", segmentation=RUNS | {"counts": "O1"}), "run lengths that do not add up"),
    ],
)
def test_a_json_that_is_not_as_released_is_named(document: Any, message: str, tmp_path: Path) -> None:
    raw_trees.context_regions(tmp_path, document)
    with pytest.raises(ValueError, match=message) as caught:
        part("context59", tmp_path, tmp_path / "out")
    assert "trainval_merged.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '"\xff"'])
def test_a_file_that_is_no_json_is_named(text: str, tmp_path: Path) -> None:
    raw_trees.context_regions(tmp_path)
    (tmp_path / TREES["context59"][1]).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"trainval_merged\.json is no JSON that can be read"):
        part("context59", tmp_path, tmp_path / "out")


def test_counts_are_those_of_the_release(tmp_path: Path, monkeypatch: Change) -> None:
    raw, out = tree("coco-stuff", tmp_path), tmp_path / "out"
    with pytest.raises(
        ValueError, match="has 2 train pictures of COCO-Stuff 164k, the release 118,287: unpack all of it"
    ):
        prepare("coco-stuff", raw, out, jobs=1)
    assert not out.exists()
    exact = replace(BENCHMARKS["coco-stuff"], expected={"train": 2, "val": 1})
    monkeypatch.setitem(BENCHMARKS, "coco-stuff", exact)
    assert prepare("coco-stuff", raw, out, jobs=1).notes == ()
    unsure = replace(exact, expected={"train": 5, "val": 1}, surely=("val",))
    monkeypatch.setitem(BENCHMARKS, "coco-stuff", unsure)
    (note,) = prepare("coco-stuff", raw, out, jobs=1).notes
    assert "has 2 train pictures of COCO-Stuff 164k, the release 5" in note


@pytest.mark.parametrize("benchmark", ["coco-stuff", "voc", "context459", "ade150", "ade847"])
def test_a_missing_file_is_named_and_left_out_only_when_asked(benchmark: str, tmp_path: Path) -> None:
    raw, out = tree(benchmark, tmp_path), tmp_path / "out"
    ruin(benchmark, raw, "missing")
    missing = Path(TREES[benchmark][1]).name
    with pytest.raises(ValueError, match=rf"val: 1 of \d lack a file, first .*/{missing}: unpack"):
        prepare(benchmark, raw, out, jobs=1)
    done = part(benchmark, raw, out)
    assert any(f"/{missing}" in note for note in done.notes)
    splits = json.loads((out / "dataset.json").read_text())["splits"]
    assert splits["train"]
    assert missing.partition(".")[0].removesuffix("_seg") not in splits["val"]


@pytest.mark.parametrize("benchmark", ["coco-stuff", "voc", "ade150", "ade847"])
def test_validation_alone_will_do_when_asked(benchmark: str, tmp_path: Path) -> None:
    raw, out = tree(benchmark, tmp_path), tmp_path / "out"
    for path in [path for path in raw.rglob("*") if path.is_file() and "train" in str(path.relative_to(raw))]:
        path.unlink()
    assert part(benchmark, raw, out).pictures.get("train", 0) == 0
    assert len(SegmentationSet.open(out, "val")) > 0
    assert len(SegmentationSet.open(out, "train")) == 0


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_another_layout_is_told_what_was_wanted(benchmark: str, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(ValueError, match=r"does not hold .*, or none of it is whole: wanted .*\.jpg"):
        part(benchmark, tmp_path / "raw", tmp_path / "out")
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        part(benchmark, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lists_are_wanted_and_lead_nowhere_else(tmp_path: Path) -> None:
    raw = tree("voc", tmp_path)
    path = raw / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    for text, message in (
        ("../../../secret\n", r"val\.txt names the picture '../../../secret': wanted a plain name"),
        ("2007_000033\n2007_000033\n", "lists the picture 2007_000033 2 times"),
        ("2007_000032\n", "lists the picture 2007_000032 2 times"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            part("voc", raw, tmp_path / "out")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"val\.txt cannot be read as a list"):
        part("voc", raw, tmp_path / "out")
    path.unlink()
    with pytest.raises(ValueError, match=r"val\.txt does not exist: unpack the release with its lists"):
        prepare("voc", raw, tmp_path / "out", jobs=1)


def test_one_name_in_two_folders_is_refused(tmp_path: Path) -> None:
    raw = tree("ade847", tmp_path)
    raw_trees.picture(raw / "ADE20K_2021_17_01/images/ADE/validation/x/ADE_val_00000001.jpg")
    with pytest.raises(ValueError, match="have the same name: keep one of them"):
        part("ade847", raw, tmp_path / "out")
