"""What tools want of a whole folder: one COCO document, a YOLO set; opened by those who read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from sanseg.data.datasets import SegmentationSet
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary
from tests.folders.pictures import WORDS, paint, segmented, tree

NAMES = ("a.jpg", "deep/b.png", "deep/down/c.png")
SETS = ("coco-rle", "coco-polygons", "yolo")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        paint(tmp_path / "photos" / name, seed, (60 + 7 * seed, 40))
    return tmp_path / "photos"


def label_maps(out: Path) -> dict[str, np.ndarray]:
    return {
        name: np.array(Image.open(out / name.replace(".jpg", ".png").replace(".png", ".index.png")))
        for name in NAMES
    }


@pytest.mark.filterwarnings("ignore:__array__")  # pycocotools' decode, with numpy 2
@pytest.mark.parametrize("kind", ["coco-rle", "coco-polygons"])
def test_pycocotools_reads_a_folder_as_one_document(
    photos: Path, tmp_path: Path, segmenter: Segmenter, kind: str
) -> None:
    out = tmp_path / "out"
    segmented(photos, out, segmenter, formats=("index", kind))
    path = out / f"{kind}_set/annotations/instances_train.json"
    document = json.loads(path.read_bytes())
    ids = [one["id"] for one in document["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert document["info"].keys() >= {"model", "templates", "vocabulary", "sanseg"}
    read = COCO(path)
    assert [image["file_name"] for image in read.loadImgs(read.getImgIds())] == list(NAMES)
    assert {one["id"]: one["name"] for one in read.loadCats(read.getCatIds())} == {
        1: "sky",
        2: "tree",
        3: "cat",
    }
    for image in read.loadImgs(read.getImgIds()):
        found = np.full((image["height"], image["width"]), 254, np.uint8)
        for one in read.loadAnns(read.getAnnIds(imgIds=image["id"])):
            found[read.annToMask(one) == 1] = one["category_id"] - 1
        np.testing.assert_array_equal(found, label_maps(out)[image["file_name"]])


@pytest.mark.parametrize("kind", SETS)
def test_our_own_readers_find_the_label_maps_again(
    photos: Path, tmp_path: Path, segmenter: Segmenter, kind: str
) -> None:
    out = tmp_path / "out"
    segmented(photos, out, segmenter, formats=("index", kind))
    (out / f"{kind}_set/images").symlink_to(photos)
    opened = SegmentationSet.open(out / f"{kind}_set")
    assert opened.vocabulary.labels == ("sky", "tree", "cat")
    assert len(opened) == 3
    for number, name in enumerate(NAMES):
        sample = opened[number]
        assert sample.name.endswith(name.rsplit(".", 1)[0])
        np.testing.assert_array_equal(sample.index_map, label_maps(out)[name])
    assert SegmentationSet.open(out).form == "segmented"  # as ever


def test_a_run_that_was_stopped_gives_the_same_sets(
    photos: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    options: dict[str, Any] = {"formats": ("index", *SETS)}
    segmented(photos, tmp_path / "a/out", segmenter, **options)

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segmented(photos, tmp_path / "b/out", segmenter, each=killed, **options)
    assert not (tmp_path / "b/out/yolo_set").exists()
    segmented(photos, tmp_path / "b/out", segmenter, **options)
    assert tree(tmp_path / "a/out") == tree(tmp_path / "b/out")


def test_sets_follow_the_pictures_and_the_formats(photos: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    out = tmp_path / "out"
    segmented(photos, out, segmenter, formats=SETS)
    (out / "yolo_set/images").symlink_to(photos)
    (photos / "a.jpg").rename(photos / "z.jpg")
    (photos / "deep/b.png").unlink()
    segmented(photos, out, segmenter, formats=SETS)
    listed = (out / "yolo_set/train.txt").read_text().split()
    assert listed == ["./images/deep/down/c.png", "./images/z.jpg"]
    assert {path.name for path in (out / "yolo_set/labels").rglob("*.txt")} == {"c.txt", "z.txt"}
    document = json.loads((out / "coco-rle_set/annotations/instances_train.json").read_bytes())
    assert [image["file_name"] for image in document["images"]] == ["deep/down/c.png", "z.jpg"]
    segmented(photos, out, segmenter, formats=("index",))
    assert not (out / "coco-rle_set/annotations").exists()
    assert [path.name for path in (out / "yolo_set").iterdir()] == ["images"]  # it is not ours
    assert (photos / "z.jpg").exists()


@pytest.mark.parametrize("name", ["it's: #1", "1", '"', "null", "Ä\u2003b", "yes", "🐈"])
def test_yaml_takes_any_name(photos: Path, tmp_path: Path, segmenter: Segmenter, name: str) -> None:
    words = Vocabulary.of([name, "tree"])
    segmented(photos, tmp_path / "out", segmenter, words, formats=("yolo",))
    described = yaml.safe_load((tmp_path / "out/yolo_set/data.yaml").read_text(encoding="utf-8"))
    assert described["names"] == {0: words.labels[0], 1: "tree"}
    assert described["train"] == "train.txt"


def test_pictures_that_share_a_name_are_one_to_yolo(
    photos: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    paint(photos / "A.png", 9)
    segmented(photos, tmp_path / "out", segmenter, formats=("yolo",))
    assert "./images/a.jpg" not in (tmp_path / "out/yolo_set/train.txt").read_text()


def test_words_of_polygons_that_stray_stand_in_all_that_has_them(
    photos: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    out = tmp_path / "out"
    formats = ("coco-polygons", "yolo", "labelme", "geojson")
    segmented(photos, out, segmenter, formats=formats, simplify=2.0)
    for name in ("a.geojson", "a.labelme.json"):
        assert json.loads((out / name).read_bytes())["simplify"] == 2
    for name in ("a.coco-polygons.json", "coco-polygons_set/annotations/instances_train.json"):
        assert json.loads((out / name).read_bytes())["info"]["simplify"] == 2
    assert "simplify 2.0" in (out / "yolo_set/data.yaml").read_text().splitlines()[0]
    assert json.loads((out / "manifest.jsonl").read_text().splitlines()[0])["simplify"] == 2
    with pytest.raises(ValueError, match=r"polygons that stray, in pixels, by 2.0, asked are 0.0"):
        segmented(photos, out, segmenter, WORDS, formats=formats)


def test_supervision_reads_the_yolo_set(photos: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    supervision = pytest.importorskip("supervision")
    (photos / "deep/b.png").rename(photos / "b.png")  # it looks into no folders below
    out = tmp_path / "out"
    segmented(photos, out, segmenter, formats=("yolo",))
    (out / "yolo_set/images").symlink_to(photos)
    places = (out / "yolo_set" / name for name in ("images", "labels", "data.yaml"))
    read = supervision.DetectionDataset.from_yolo(*map(str, places), force_masks=True)
    assert read.classes == ["sky", "tree", "cat"]
    found = {Path(path).name: detections for path, _, detections in read}
    assert found.keys() == {"a.jpg", "b.png"}
    for name, detections in found.items():
        lines = (out / name).with_suffix(".txt").read_text().splitlines()
        assert detections.class_id.tolist() == [int(one.split()[0]) for one in lines]
