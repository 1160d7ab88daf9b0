"""Raw releases of the benchmarks in miniature: pictures of a few pixels in the exact original layouts.

Their files can be ruined, and they can be prepared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from sanseg.data.prepare import Prepared, prepare

SIZE = (6, 8)  # height, width of every picture but ADE20K-847's large ones


def columns(*values: int, size: tuple[int, int] = SIZE, dtype: Any = np.uint8) -> NDArray[Any]:
    """A raw map of stripes: column x holds value x, the last value from there on."""
    height, width = size
    padded = (values + values[-1:] * width)[:width]
    return np.tile(np.array(padded, dtype), (height, 1))


def picture(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG")


def png(path: Path, pixels: NDArray[Any], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(bytes(range(256)) * 3)
    image.save(path, format="PNG")


def coco(raw: Path, maps: str = "stuffthingmaps") -> None:
    for split, stems in (("train2017", ("000000000009", "000000000025")), ("val2017", ("000000000139",))):
        for stem in stems:
            picture(raw / split / f"{stem}.jpg")
            png(raw / maps / split / f"{stem}.png", columns(0, 10, 11, 12, 91, 92, 181, 255))


def voc(raw: Path) -> None:
    root = raw / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, stem in (("train", "2007_000032"), ("val", "2007_000033")):
        (lists / f"{split}.txt").write_text(f"{stem}\n")
        png(root / "SegmentationClass" / f"{stem}.png", columns(0, 1, 15, 20, 255), palette=True)
    for stem in ("2007_000032", "2007_000033", "2012_004331"):  # most pictures are not segmented
        picture(root / "JPEGImages" / f"{stem}.jpg")


CONTEXT = {"train": "2008_000002", "val": "2008_000003"}


def context_pictures(raw: Path) -> Path:
    root = raw / "VOCdevkit" / "VOC2010"
    for split, stem in CONTEXT.items():
        picture(root / "JPEGImages" / f"{stem}.jpg")
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{stem}\n")
    return root


def context_maps(raw: Path, values: tuple[int, ...] = (0, 1, 2, 3, 9, 458, 459, 397)) -> None:
    root = context_pictures(raw)
    (root / "trainval").mkdir()
    for stem in CONTEXT.values():
        label_map = columns(*values, dtype=np.uint16)
        savemat(root / "trainval" / f"{stem}.mat", {"LabelMap": label_map}, do_compression=True)


def region(number: int, image: int, category: int, mask: NDArray[Any]) -> dict[str, Any]:
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = {"size": runs["size"], "counts": runs["counts"].decode()}
    keys = {"id": number, "image_id": image, "category_id": category, "segmentation": runs}
    return {**keys, "area": int(mask.sum()), "bbox": [0, 0, 1, 1], "iscrowd": 0, "parts": []}


def detail(**changes: Any) -> dict[str, Any]:
    """trainval_merged.json: every picture has bag (9) in columns 1 to 4, under aeroplane (2) in column 4."""
    images: list[dict[str, Any]] = []
    regions: list[dict[str, Any]] = []
    for number, (phase, stem) in enumerate([*CONTEXT.items(), ("test", "2008_000009")], start=2_008_000_002):
        named = {"image_id": number, "file_name": f"{stem}.jpg", "phase": phase}
        images.append({**named, "height": SIZE[0], "width": SIZE[1], "date_captured": "31-Dec-07"})
        for category, first, last in ((9, 1, 4), (2, 4, 4), (3, 6, 6)):
            mask = columns(*range(SIZE[1]))
            regions.append(region(len(regions), number, category, (mask >= first) & (mask <= last)))
    whole = {"info": {}, "images": images, "categories": [], "parts": [], "annos_segmentation": regions}
    return {**whole, "annos_occlusion": [], "annos_boundary": [], **changes}


def context_regions(raw: Path, document: Any = None) -> None:
    root = context_pictures(raw)
    (root / "trainval_merged.json").write_text(json.dumps(detail() if document is None else document))


def ade150(raw: Path) -> None:
    root = raw / "ADEChallengeData2016"
    for split, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        picture(root / "images" / split / f"{stem}.jpg")
        png(root / "annotations" / split / f"{stem}.png", columns(0, 1, 2, 150))
    (root / "objectInfo150.txt").write_text("Idx\tRatio\n")


def objects(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    """A _seg.png: the class in red and green, the instance in blue; what is below ten in red means nothing."""
    rgb = (numbers // 256 * 10 + 3, numbers % 256, np.full_like(numbers, 77))
    return np.stack(rgb, axis=2).astype(np.uint8)


LARGE = (300, 600)


def ade847(raw: Path) -> None:
    root = raw / "ADE20K_2021_17_01" / "images" / "ADE"
    values = (0, 2978, 312, 3148, 1)
    scenes = (
        ("training", "urban/street", "ADE_train_00000001", SIZE),
        ("validation", "home_or_hotel/bedroom", "ADE_val_00000001", SIZE),
        ("validation", "home_or_hotel/kitchen", "ADE_val_00000002", LARGE),
    )
    for split, scene, stem, size in scenes:
        picture(root / split / scene / f"{stem}.jpg", size)
        numbers = columns(*values, size=size, dtype=np.int64)
        png(root / split / scene / f"{stem}_seg.png", objects(numbers))
        png(root / split / scene / f"{stem}_parts_1.png", objects(numbers))
        png(root / split / scene / stem / "instance_000.png", columns(0, 255))
        (root / split / scene / f"{stem}.json").write_text("{}")


# How each benchmark's tree is written, and where the annotation of its picture in val lies.
TREES: dict[str, tuple[Callable[[Path], None], str]] = {
    "coco-stuff": (coco, "stuffthingmaps/val2017/000000000139.png"),
    "voc": (voc, "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png"),
    "context59": (context_regions, "VOCdevkit/VOC2010/trainval_merged.json"),
    "context459": (context_maps, "VOCdevkit/VOC2010/trainval/2008_000003.mat"),
    "ade150": (ade150, "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"),
    "ade847": (
        ade847,
        "ADE20K_2021_17_01/images/ADE/validation/home_or_hotel/bedroom/ADE_val_00000001_seg.png",
    ),
}


def ruin(benchmark: str, raw: Path, how: str) -> None:
    path = raw / TREES[benchmark][1]
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:45])
    elif how == "rgb":
        png(path, np.zeros((6, 8, 3), np.uint8))
    elif how == "grey":
        png(path, columns(0))
    elif how == "turned":
        png(path, columns(1).T.copy(), palette=benchmark == "voc")
    elif how == "value":
        png(path, columns(1, 201), palette=benchmark == "voc")
    elif how == "no LabelMap":
        savemat(path, {"Labels": columns(1)})
    elif how == "floats":
        savemat(path, {"LabelMap": columns(1).astype(float)})
    elif how == "460":
        savemat(path, {"LabelMap": columns(460, dtype=np.uint16)})
    elif how == "negative":
        savemat(path, {"LabelMap": columns(-1, dtype=np.int16)})
    else:
        raise AssertionError(how)


def part(benchmark: str, raw: Path, out: Path, **options: Any) -> Prepared:
    """Prepares a miniature, which is a part of the release, in this process."""
    return prepare(benchmark, raw, out, **{"jobs": 1, "partial": True, **options})


def tree(benchmark: str, tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    raw.mkdir()
    TREES[benchmark][0](raw)
    return raw


def pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def mask(out: Path, stem: str) -> NDArray[Any]:
    return pixels(out / "masks" / f"{stem}.png")


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
