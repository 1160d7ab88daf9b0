"""COCO's JSON in COCO's folders: written here as COCO writes it, read back pixel by pixel."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as pycocotools

from sanseg.data.datasets import SegmentationSet, find_splits
from sanseg.data.outlines import decode_mask, draw, polygon_runs
from tests.data.test_datasets import write_picture

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 200, "name": "rug-merged"}]


def image(number: int, file: str = "", height: int = 20, width: int = 30) -> dict[str, Any]:
    return {"id": number, "file_name": file or f"{number:012d}.jpg", "height": height, "width": width}


def write_json(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(document))


def blobs(
    seed: int, height: int = 20, width: int = 30, ids: tuple[int, ...] = (0, 1, 2)
) -> NDArray[np.int64]:
    """Patches of these ids, (H, W), no two neighbours of which are often alike."""
    rng = np.random.default_rng(seed)
    patches = rng.choice(ids, (-(-height // 4), -(-width // 4)))
    return np.kron(patches, np.ones((4, 4), np.int64))[:height, :width]


def write_panoptic(folder: Path) -> dict[int, NDArray[np.int64]]:
    """Two pictures of a miniature COCO; for each the labels that it should have, 255 for unknown."""
    segment_ids = np.array([0, 8_345_037, 255, 66_051])  # of nothing, and ids that need one byte and three
    wanted, annotations = {}, []
    for number in (9, 139):
        places = blobs(number, ids=(0, 1, 2, 3))
        stored = segment_ids[places]
        colours = np.stack([stored % 256, stored // 256 % 256, stored // 65_536], axis=-1).astype(np.uint8)
        (folder / "annotations" / "panoptic_val2017").mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours).save(folder / "annotations" / "panoptic_val2017" / f"{number:012d}.png")
        write_picture(folder / "val2017" / f"{number:012d}.jpg", 20, 30, seed=number)
        segments = [
            {"id": 66_051, "category_id": 200, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]},
            {"id": 8_345_037, "category_id": 18, "iscrowd": 1, "area": 1, "bbox": [0, 0, 1, 1]},
            {"id": 255, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]},
        ]
        annotations.append({"image_id": number, "file_name": f"{number:012d}.png", "segments_info": segments})
        wanted[number] = np.array([255, 0, 1, 2])[places]
    write_json(
        folder / "annotations" / "panoptic_val2017.json", [image(139), image(9)], list(reversed(annotations))
    )
    return wanted


def test_panoptic_segments_become_labels(tmp_path: Path) -> None:
    wanted = write_panoptic(tmp_path / "coco")
    opened = SegmentationSet.open(tmp_path / "coco", "val")
    assert (opened.form, find_splits(tmp_path / "coco")) == ("coco-panoptic", ("val2017",))
    assert opened.vocabulary.labels == ("dog", "person", "rug-merged")
    assert [opened[index].name for index in (0, 1)] == ["coco/000000000139", "coco/000000000009"]
    for index, number in enumerate((139, 9)):
        assert (opened[index].index_map == wanted[number]).all()
    assert len(SegmentationSet.open(tmp_path / "coco", "val2017", "coco-panoptic")) == 2
    assert (opened.without(["coco/000000000139"])[0].index_map == wanted[9]).all()
    with pytest.raises(ValueError, match="no split 'train': use one of val2017"):
        SegmentationSet.open(tmp_path / "coco")


def test_what_is_wrong_with_panoptic_files_is_named(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    pngs = tmp_path / "annotations" / "panoptic_val2017"
    Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(pngs / "000000000009.png")
    with pytest.raises(
        ValueError, match=r"000000000009\.png holds the segment 460551, which .* does not list"
    ):
        SegmentationSet.open(tmp_path, "val")[1]
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(pngs / "000000000009.png")
    with pytest.raises(ValueError, match="a mask of mode L: save it with the RGB of COCO's panoptic PNGs"):
        SegmentationSet.open(tmp_path, "val")[1]
    (pngs / "000000000009.png").unlink()
    with pytest.raises(ValueError, match=r"000000000009\.png does not exist"):
        SegmentationSet.open(tmp_path, "val")
    pngs.rename(pngs.with_name("elsewhere"))
    with pytest.raises(ValueError, match=r"panoptic_val2017 does not exist: unpack panoptic_val2017\.zip"):
        SegmentationSet.open(tmp_path, "val")


@pytest.mark.parametrize(
    "change",
    [
        {"image_id": [1]},
        {"file_name": "../up.png"},
        {"file_name": 3},
        {"segments_info": [{"id": 255}]},
        {"segments_info": [{"id": 255, "category_id": 19}]},
        {"segments_info": [{"id": 2**24, "category_id": 1}]},
        {"segments_info": [{"id": 0, "category_id": 1}]},
        {"segments_info": 3},
    ],
)
def test_panoptic_annotations_that_mean_nothing_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write_panoptic(tmp_path)
    path = tmp_path / "annotations" / "panoptic_val2017.json"
    document = json.loads(path.read_text())
    document["annotations"][1].update(change)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"panoptic_val2017\.json has an annotation that cannot be read"):
        SegmentationSet.open(tmp_path, "val")


def test_a_picture_without_annotation_is_missing_one(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    path = tmp_path / "annotations" / "panoptic_val2017.json"
    document = json.loads(path.read_text())
    del document["annotations"][0]
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"has no annotation for .*000000000139\.jpg"):
        SegmentationSet.open(tmp_path, "val")
    with pytest.raises(ValueError, match=r"has no annotation for .*000000000139\.jpg"):
        SegmentationSet.open(tmp_path, "val", allow_missing=True)[0]


def encode(mask: NDArray[Any]) -> dict[str, Any]:
    """COCO's compressed run lengths, as its JSON has them."""
    code = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def runs(mask: NDArray[Any]) -> dict[str, Any]:
    """The same, uncompressed."""
    flat = np.concatenate([[0], mask.astype(int).flatten(order="F"), [2]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges]) if flat[1] == 0 else np.concatenate([[0, 0], edges[1:]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def write_instances(folder: Path, annotations: list[dict[str, Any]], images: list[dict[str, Any]]) -> Path:
    write_json(folder / "annotations" / "instances_train2017.json", images, annotations)
    for one in images:
        write_picture(folder / "train2017" / one["file_name"], one["height"], one["width"], seed=one["id"])
    return folder


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def test_instances_of_all_kinds_become_labels(tmp_path: Path) -> None:
    """Two polygons of one thing, compressed run lengths over them, uncompressed ones of a crowd below."""
    crowd, small = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    crowd[2:19, 1:29] = True
    crowd[5, 5:9] = False
    small[8:10, 3:27] = True
    outlines = [
        {"image_id": 4, "category_id": 1, "segmentation": encode(small), "iscrowd": 0},
        {"image_id": 4, "category_id": 200, "segmentation": runs(crowd), "iscrowd": 1},
        {"image_id": 77, "category_id": 1, "segmentation": [box(0, 0, 9, 9)], "iscrowd": 0},
        {"image_id": 4, "category_id": 18, "segmentation": [box(2, 4, 10, 12), box(20, 3, 25, 15)]},
    ]
    folder = write_instances(tmp_path / "coco", outlines, [image(5), image(4)])
    opened = SegmentationSet.open(folder)
    assert opened.form == "coco-instances"
    wanted = np.full((20, 30), 254)
    wanted[crowd] = 2
    wanted[4:12, 2:10] = wanted[3:15, 20:25] = 0
    wanted[small] = 1
    assert (opened[0].index_map == 254).all()
    assert (opened[1].index_map == wanted).all()
    copy = pickle.loads(pickle.dumps(opened))
    assert (copy[1].index_map == wanted).all()


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_are_those_of_pycocotools(seed: int) -> None:
    mask = blobs(seed, 37, 53, ids=(0, 1)) == 1
    for code in (encode(mask), runs(mask)):
        assert (draw([(decode_mask(code, (37, 53)), 3)], (37, 53), labels=9) == np.where(mask, 3, 254)).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools.decode's own
@pytest.mark.parametrize("seed", range(5))
def test_polygons_cover_what_pycocotools_says(seed: int) -> None:
    """Also where they cross themselves, touch each other, and lead out of the picture."""
    rng = np.random.default_rng(seed)
    rings = [rng.uniform(-20, 70, 2 * int(rng.integers(3, 9))) for _ in range(2)]
    codes = pycocotools.frPyObjects([ring.tolist() for ring in rings], 37, 53)
    wanted = pycocotools.decode(codes).any(axis=-1)
    assert 0 < wanted.sum() < wanted.size
    drawn = draw([(polygon_runs(rings, (37, 53)), 1)], (37, 53), labels=300)
    assert drawn.dtype == np.uint16
    assert (drawn == np.where(wanted, 1, 65_534)).all()


def test_polygons_of_two_points_cover_nothing() -> None:
    assert (draw([(polygon_runs([np.zeros(4), np.zeros(0)], (3, 4)), 1)], (3, 4), labels=2) == 254).all()


@pytest.mark.parametrize(
    ("outline", "told"),
    [
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "a point far outside its picture of 30x20"),
        ([[0, 0, float("nan"), 0, 9, 9]], "a point far outside"),
        ([[0, 0, 300, 0] * 10_000], "40000 points|20000 points that is"),
        ([[0, 0, 3, 0, 4]], "a polygon of 5 numbers: wanted x and y"),
        ([["a", "b"]], "no outline"),
        ([[10**400] * 6], "no outline"),
        ([box(0, 0, 5, 5), 7], "no outline"),
        ([], "no outline"),
        (None, "no outline"),
        ("polygon", "run lengths of size 'polygon': wanted"),
        ({"size": [30, 20], "counts": [600]}, r"run lengths of size \[30, 20\]: wanted \[20, 30\]"),
        ({"size": [20, 30], "counts": [599]}, "run lengths of 599 pixels: wanted 30x20"),
        ({"size": [20, 30], "counts": [700, -100]}, "neither a string nor a list of numbers"),
        ({"size": [20, 30], "counts": "zzzzzzz"}, "run length"),
        ({"size": [20, 30], "counts": "\u20ac"}, "run lengths that do not decode"),
        ({"size": [20, 30], "counts": ""}, "run lengths that do not decode"),
        ({"size": [20, 30]}, "neither a string nor a list"),
    ],
)
def test_outlines_that_cannot_be_drawn_are_refused(tmp_path: Path, outline: Any, told: str) -> None:
    """Before pycocotools sees them, which some of these would crash. The other pictures are as they were."""
    outlines = [
        {"image_id": 4, "category_id": 1, "segmentation": outline},
        {"image_id": 5, "category_id": 18, "segmentation": [box(2, 4, 10, 12)]},
    ]
    opened = SegmentationSet.open(write_instances(tmp_path, outlines, [image(5), image(4)]))
    with pytest.raises(ValueError, match=rf"annotations\[0\], of .*/000000000004, has .*({told})"):
        opened[1]
    wanted = np.full((20, 30), 254)
    wanted[4:12, 2:10] = 0
    assert (opened[0].index_map == wanted).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"images": {}}, "no list of images"),
        ({"categories": [{"id": 1}]}, r"has the category \{'id': 1\}: wanted an id and a name"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "two categories one id"),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "A"}]},
            "the same thing twice, 'a' and 'A'",
        ),
        ({"categories": []}, "there are no labels"),
        ({"images": [image(4), image(4, "b.jpg")]}, "two images the id 4"),
        ({"images": [image(4), {**image(5), "file_name": image(4)["file_name"]}]}, "names a file twice"),
        ({"images": [image(4, "../../etc/passwd.png")]}, "leads out of the folder"),
        ({"images": [image(4, "/etc/passwd.png")]}, "leads out of the folder"),
        ({"images": [{"id": 4, "file_name": "a.jpg"}]}, "wanted id, file_name, height and width"),
        ({"images": [image(4, height=0)]}, "height and width are whole numbers"),
        ({"images": [3]}, "has the image 3"),
        (
            {"annotations": [{"image_id": 4, "category_id": 2, "segmentation": []}]},
            "of a category that is listed",
        ),
        ({"annotations": [{"category_id": 1}]}, r"annotations\[0\] cannot be read"),
        ({"annotations": [None]}, r"annotations\[0\] cannot be read"),
    ],
)
def test_a_document_that_is_wrong_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    folder = write_instances(tmp_path, [], [image(4)])
    path = folder / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=told):
        SegmentationSet.open(folder)


def test_a_picture_of_another_size_than_its_json_says(tmp_path: Path) -> None:
    folder = write_instances(tmp_path, [], [image(4)])
    write_picture(folder / "train2017" / image(4)["file_name"], 20, 31)
    with pytest.raises(ValueError, match=r"000000000004 in .*json is 30x20, its picture 31x20"):
        SegmentationSet.open(folder)[0]


def test_pictures_are_found_where_people_put_them(tmp_path: Path) -> None:
    for number, place in enumerate(("train2017", "train", "images/train2017", "images/train", "images", ".")):
        folder = tmp_path / str(number)
        write_json(folder / "annotations" / "instances_train2017.json", [image(4), image(5)], [])
        with pytest.raises(ValueError, match=r"\(000000000004\.jpg, \.\.\.\) are in none of .*/train2017, "):
            SegmentationSet.open(folder)
        write_picture(folder / place / image(5)["file_name"], 20, 30)
        opened = SegmentationSet.open(folder, allow_missing=True)
        assert opened[1].image.shape == (20, 30, 3)
        assert [name for name, _ in opened.files.missing] == [f"{number}/000000000004"]


def test_pictures_in_folders_of_their_own_keep_their_names_apart(tmp_path: Path) -> None:
    images = [image(1, "day/a.jpg"), image(2, "night/a.jpg"), image(3, "night/a.png")]
    opened = SegmentationSet.open(write_instances(tmp_path / "set", [], images))
    assert [opened[index].name for index in range(3)] == [f"set/{one['file_name']}" for one in images]
    opened = SegmentationSet.open(write_instances(tmp_path / "two", [], images[:2]))
    assert [opened[index].name for index in range(2)] == ["two/day/a", "two/night/a"]


def test_the_export_with_a_json_beside_the_pictures(tmp_path: Path) -> None:
    """Roboflow's: a category above all others comes first, and the split is called valid."""
    categories = [
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "cat"},
        {"id": 2, "name": "dog", "supercategory": "cat"},
    ]
    for split, number in (("train", 1), ("valid", 2)):
        annotations = [{"image_id": 0, "category_id": number, "segmentation": [box(2, 4, 10, 12)]}]
        document = {"images": [image(0, "a.jpg")], "annotations": annotations, "categories": categories}
        write_picture(tmp_path / split / "a.jpg", 20, 30)
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(document))
    for split, label in (("train", 0), ("val", 1)):
        opened = SegmentationSet.open(tmp_path, split)
        assert (opened.form, opened.vocabulary.labels) == ("coco-instances", ("cat", "dog"))
        assert (opened[0].index_map[4:12, 2:10] == label).all()


def test_both_annotations_of_coco_in_one_folder_need_a_word(tmp_path: Path) -> None:
    wanted = write_panoptic(tmp_path)
    write_json(tmp_path / "annotations" / "instances_val2017.json", [image(139), image(9)], [])
    with pytest.raises(ValueError, match="fits 2 forms: say which it is, coco-panoptic or coco-instances"):
        SegmentationSet.open(tmp_path, "val")
    assert (SegmentationSet.open(tmp_path, "val", "coco-panoptic")[0].index_map == wanted[139]).all()
    assert (SegmentationSet.open(tmp_path, "val", "coco-instances")[0].index_map == 254).all()


def test_a_split_in_two_years_needs_a_word(tmp_path: Path) -> None:
    folder = write_instances(tmp_path, [], [image(4)])
    write_json(folder / "annotations" / "instances_train2014.json", [image(4)], [])
    write_json(folder / "annotations" / "instances_trainval.json", [image(4)], [])
    with pytest.raises(ValueError, match="has 2 splits 'train': use one of train2014, train2017"):
        SegmentationSet.open(folder)
    assert len(SegmentationSet.open(folder, "train2017")) == 1
