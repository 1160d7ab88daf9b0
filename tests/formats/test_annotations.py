"""Annotations, opened by the libraries that their users open them with, and compared with the label map by pixels.

Polygons at simplification 0 are exact; what nothing covers is other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis.extra import numpy as st_numpy
from PIL import Image
from pycocotools.coco import COCO
from rasterio import features

from sanseg.data.datasets import SegmentationSet
from sanseg.draw import colour_table
from sanseg.formats.geojson import feature_collection
from sanseg.formats.label_studio import pack
from sanseg.images import write_png
from sanseg.segmentation import Segmentation
from tests.formats import brush
from tests.formats.results import rings, segmentation

Shape = tuple[int, ...]


def one_label_each(masks: Iterable[tuple[np.ndarray, int]], shape: Shape) -> np.ndarray:
    """The label map of masks that may not overlap."""
    label_map = np.full(shape, 254, np.uint8)
    for mask, id_ in masks:
        assert (label_map[mask] == 254).all(), "masks overlap"
        label_map[mask] = id_
    return label_map


def filled(rings: Iterable[np.ndarray], shape: Shape) -> np.ndarray:
    """The pixels whose middles lie in polygons without holes."""
    mask = np.zeros(shape, bool)
    for ring in rings:
        inside = features.rasterize([shapely.Polygon(ring)], shape).astype(bool)
        assert not (mask & inside).any(), "polygons overlap"
        mask |= inside
    return mask


@pytest.mark.filterwarnings("ignore:__array__")  # pycocotools' decode, with numpy 2
@pytest.mark.parametrize("name", ["coco-rle", "coco-polygons"])
def test_pycocotools_reads_coco(seg: Segmentation, tmp_path: Path, name: str) -> None:
    path = seg.save(tmp_path, "cat", [name], picture="cat.png")[name]
    read = COCO(path)
    annotations = read.loadAnns(read.getAnnIds())
    for one in annotations:
        mask = read.annToMask(one)
        assert one["area"] == mask.sum()
        left, top, width, height = one["bbox"]
        assert mask[top : top + height, left : left + width].sum() == mask.sum()
        assert mask.any(axis=1).sum() == height
        assert mask.any(axis=0).sum() == width
    masks = [(read.annToMask(one).astype(bool), one["category_id"] - 1) for one in annotations]
    np.testing.assert_array_equal(one_label_each(masks, seg.label_map.shape), seg.label_map)
    assert [one["name"] for one in read.loadCats(read.getCatIds())] == [*seg.labels]
    assert read.loadImgs(1)[0]["file_name"] == "cat.png"
    assert read.dataset["info"]["vocabulary"] == seg.vocabulary_hash


@pytest.mark.parametrize("name", ["coco-rle", "coco-polygons"])
def test_coco_is_a_set_to_train_on(seg: Segmentation, tmp_path: Path, name: str) -> None:
    assert seg.image is not None
    (tmp_path / "annotations").mkdir()
    seg.save(tmp_path, "cat", [name], picture="cat.png")[name].rename(
        tmp_path / "annotations" / "instances_train.json"
    )
    write_png(tmp_path / "train" / "cat.png", seg.image)
    np.testing.assert_array_equal(SegmentationSet.open(tmp_path, "train")[0].index_map, seg.label_map)


@pytest.mark.parametrize("times", [1, 60])
def test_yolo_is_a_set_to_train_on(tmp_path: Path, times: int) -> None:
    """Also where the width takes all six decimals."""
    seg = segmentation(rings().repeat(times, axis=1))
    assert seg.image is not None
    write_png(tmp_path / "images" / "cat.png", seg.image)
    seg.save(tmp_path / "labels", "cat", ["yolo"])
    described = {"train": "images", "names": [*seg.labels]}
    (tmp_path / "data.yaml").write_text(json.dumps(described), encoding="utf-8")
    np.testing.assert_array_equal(SegmentationSet.open(tmp_path, "train")[0].index_map, seg.label_map)


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_supervision_reads_yolo(seg: Segmentation, tmp_path: Path) -> None:
    """It paints the border as well: a pixel more at the right and below."""
    import supervision

    assert seg.image is not None
    write_png(tmp_path / "images" / "cat.png", seg.image)
    path = seg.save(tmp_path / "labels", "cat", ["yolo"])["yolo"]
    described = {"names": [*seg.labels], "nc": 4}
    (tmp_path / "data.yaml").write_text(json.dumps(described), encoding="utf-8")
    read = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "data.yaml"), force_masks=True
    )
    ((_, _, found),) = [*read]
    lines = [line.split() for line in path.read_text().splitlines()]
    assert found.class_id.tolist() == [int(line[0]) for line in lines]
    for mask, line in zip(np.asarray(found.mask), lines, strict=True):
        ring = np.array(line[1:], float).reshape(-1, 2) * seg.label_map.shape[::-1]
        exact = filled([ring.round()], seg.label_map.shape)
        grown = exact.copy()
        grown[1:] |= grown[:-1].copy()
        grown[:, 1:] |= grown[:, :-1].copy()
        assert not (exact & ~mask).any()
        assert not (mask & ~grown).any()


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_to_supervision(seg: Segmentation) -> None:
    found = seg.to_supervision()
    segments = seg.segments(other=False)
    assert len(found) == len(segments)
    assert found.class_id is not None
    masks = np.asarray(found.mask)
    label_map = one_label_each(zip(masks, found.class_id, strict=True), seg.label_map.shape)
    np.testing.assert_array_equal(label_map, seg.label_map)
    np.testing.assert_array_equal(found.area, [one.pixels for one in segments])
    np.testing.assert_allclose(found.confidence, [one.confidence for one in segments], rtol=1e-6)
    assert [*found.data["class_name"]] == [one.label for one in segments]
    for box, mask in zip(found.xyxy, masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    assert len(found[found.class_id == 1]) == sum(one.id == 1 for one in segments)
    nothing = Segmentation(
        np.full((2, 3), 254, np.uint8), np.ones((2, 3), np.float32), seg.vocabulary, "tiny", "plain"
    )
    assert len(nothing.to_supervision()) == 0


@pytest.mark.parametrize("picture", [True, False])
def test_labelme_reads_labelme(seg: Segmentation, tmp_path: Path, picture: bool) -> None:
    label_file = pytest.importorskip("labelme._label_file", exc_type=ImportError, reason="LabelMe needs Qt")
    assert seg.image is not None
    shown = seg if picture else Segmentation(seg.label_map, seg.confidence, seg.vocabulary, "tiny", "plain")
    if not picture:
        write_png(tmp_path / "cat.png", seg.image)
    read = label_file.LabelFile(str(shown.save(tmp_path, "cat", ["labelme"], picture="cat.png")["labelme"]))
    assert read.image_path == "cat.png"
    with Image.open(__import__("io").BytesIO(read.image_data)) as image:
        np.testing.assert_array_equal(np.array(image), seg.image)
    ids = {label: id_ for id_, label in seg.names.items()}
    groups: dict[int, list[dict]] = {}
    for shape in read.shapes:
        assert shape["shape_type"] == "polygon"
        groups.setdefault(shape["group_id"], []).append(shape)
    assert len(groups) == len(seg.segments(other=False))
    masks = []
    for shapes in groups.values():
        (label,) = {shape["label"] for shape in shapes}
        masks.append((filled([shape["points"] for shape in shapes], seg.label_map.shape), ids[label]))
    np.testing.assert_array_equal(one_label_each(masks, seg.label_map.shape), seg.label_map)
    assert read.other_data == seg.source()


@settings(max_examples=50, deadline=None)
@given(st_numpy.arrays(bool, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_brush_strokes_unpack_to_the_mask(mask: np.ndarray) -> None:
    rgba = brush.unpack(pack(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(rgba, np.repeat(255 * mask[..., None].astype(np.uint8), 4, axis=2))


def test_long_brush_strokes_are_parted() -> None:
    mask = np.zeros((300, 200), bool)
    mask[100:] = True
    np.testing.assert_array_equal(brush.unpack(pack(mask)).reshape(300, 200, 4)[..., 3] > 0, mask)


@pytest.mark.parametrize("decoder", ["as documented", "label_studio_sdk"])
def test_label_studio_tasks(seg: Segmentation, tmp_path: Path, decoder: str) -> None:
    decode = brush.unpack if decoder == "as documented" else brush.sdk()
    if decode is None:
        pytest.skip("pip install --no-deps label-studio-sdk")
    path = seg.save(tmp_path, "cat", ["label-studio"], picture="cat.png")["label-studio"]
    (task,) = json.loads(path.read_text(encoding="utf-8"))
    assert task["data"] == {"image": "cat.png"}
    (prediction,) = task["predictions"]
    masks, ids = [], {label: id_ for id_, label in seg.names.items()}
    for stroke in prediction["result"]:
        assert (stroke["original_height"], stroke["original_width"]) == seg.label_map.shape
        value = stroke["value"]
        mask = decode(value["rle"]).reshape(*seg.label_map.shape, 4)[..., 3] > 0
        masks.append((mask, ids[value["brushlabels"][0]]))
    np.testing.assert_array_equal(one_label_each(masks, seg.label_map.shape), seg.label_map)


def test_cvat_by_its_documented_form(seg: Segmentation, tmp_path: Path) -> None:
    root = ElementTree.parse(seg.save(tmp_path, "cat", ["cvat"], picture="cat.png")["cvat"]).getroot()
    assert root.findtext("version") == "1.1"
    assert [one.findtext("name") for one in root.iter("label")] == [*seg.labels]
    assert root.find("meta/sanseg").attrib == seg.source()  # type: ignore[union-attr]
    (image,) = root.findall("image")
    assert image.attrib == {"id": "0", "name": "cat.png", "width": "55", "height": "40"}
    masks, ids = [], {label: id_ for id_, label in seg.names.items()}
    for one in image.findall("mask"):
        left, top, width, height = (int(one.attrib[name]) for name in ("left", "top", "width", "height"))
        runs = [int(number) for number in one.attrib["rle"].split(",")]
        mask = np.zeros(seg.label_map.shape, bool)
        box = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        mask[top : top + height, left : left + width] = box
        masks.append((mask, ids[one.attrib["label"]]))
    np.testing.assert_array_equal(one_label_each(masks, seg.label_map.shape), seg.label_map)


def test_shapely_and_rasterio_read_geojson(seg: Segmentation, tmp_path: Path) -> None:
    path = seg.save(tmp_path, "cat", ["geojson"], picture="cat.png")["geojson"]
    collection = json.loads(path.read_text(encoding="utf-8"))
    assert {name: collection[name] for name in seg.source()} == seg.source()
    assert collection["picture"] == "cat.png"
    assert "crs" not in collection
    pairs = []
    for feature in collection["features"]:
        outline = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert outline.is_valid
        assert outline.exterior.is_ccw
        assert not any(hole.is_ccw for hole in outline.interiors)
        assert outline.area == feature["properties"]["pixels"]
        assert feature["properties"]["label"] == seg.names[feature["properties"]["id"]]
        red, green, blue = colour_table(4)[feature["properties"]["id"]].tolist()
        assert feature["properties"]["fill"] == f"#{red:02x}{green:02x}{blue:02x}"
        pairs.append((feature["geometry"], feature["properties"]["id"]))
    drawn = features.rasterize(pairs, seg.label_map.shape, fill=255, dtype="uint8")
    np.testing.assert_array_equal(drawn, seg.label_map)


def test_geojson_on_a_map(seg: Segmentation) -> None:
    transform = rasterio.Affine(0.5, 0.0, 400_000.0, 0.0, -0.5, 5_000_000.0)
    collection = feature_collection(seg, transform=transform, crs="EPSG:32633")
    assert collection["crs"] == {"type": "name", "properties": {"name": "EPSG:32633"}}
    pairs = []
    for feature in collection["features"]:
        outline = shapely.geometry.shape(feature["geometry"])
        assert outline.exterior.is_ccw
        assert outline.area == feature["properties"]["pixels"] * 0.25
        pairs.append((feature["geometry"], feature["properties"]["id"]))
    drawn = features.rasterize(pairs, seg.label_map.shape, fill=255, dtype="uint8", transform=transform)
    np.testing.assert_array_equal(drawn, seg.label_map)


@pytest.mark.parametrize("name", ["coco-polygons", "yolo", "labelme", "geojson"])
def test_simplified_polygons_take_less_room(seg: Segmentation, tmp_path: Path, name: str) -> None:
    exact, rough = (
        seg.save(tmp_path / str(simplify), "cat", [name], simplify=simplify)[name].stat().st_size
        for simplify in (0.0, 3.0)
    )
    assert rough < exact
