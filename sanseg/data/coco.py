"""The forms `coco-panoptic` and `coco-instances`: COCO's JSON, and pictures in its original layout."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanseg.data.files import (
    Files,
    IndexMap,
    Listing,
    Picture,
    check_size,
    choose_split,
    is_index,
    map_type,
    read_json,
    read_vocabulary,
)
from sanseg.data.masks import read_png
from sanseg.data.outlines import decode_mask, draw, polygon_runs
from sanseg.vocabulary import other_id

EXPORTED = "_annotations.coco.json"  # Roboflow's name for the JSON in each split's folder


@dataclass(frozen=True)
class Document:
    """What both kinds of JSON share.

    index: category id -> label. row: image id -> place in `images`. images: (file, height, width), in order.
    """

    path: Path
    labels: tuple[str, ...]
    index: dict[int, int]
    row: dict[int, int]
    images: tuple[tuple[str, int, int], ...]
    annotations: list[Any]


def find_annotations(folder: Path, kind: str) -> dict[str, Path]:
    """The JSON of each split. kind: "panoptic" or "instances"."""
    found = {
        path.name.removeprefix(f"{kind}_").removesuffix(".json"): path
        for path in sorted((folder / "annotations").glob(f"{kind}_*.json"))
    }
    if kind == "instances":
        found |= {path.parent.name: path for path in sorted(folder.glob(f"*/{EXPORTED}"))}
    return found


def lacks(folder: Path, kind: str) -> tuple[str, ...]:
    exported = f" or SPLIT/{EXPORTED}" if kind == "instances" else ""
    return () if find_annotations(folder, kind) else (f"annotations/{kind}_SPLIT.json{exported}",)


def find_splits(folder: Path, kind: str) -> tuple[str, ...]:
    return tuple(find_annotations(folder, kind))


def read_panoptic(folder: Path, split: str) -> Files:
    """annotations/panoptic_SPLIT.json, the PNGs in the folder of that name, and the pictures in SPLIT/.

    A pixel's segment is R + 256 G + 65536 B; what no segment covers, 0, is unknown. Labels are the categories
    in the order of the JSON.
    """
    found = find_annotations(folder, "panoptic")
    tag = choose_split(split, found, folder)
    document = _read_document(found[tag])
    drawn = next(
        (place for place in (found[tag].with_suffix(""), folder / f"panoptic_{tag}") if place.is_dir()), None
    )
    if drawn is None:
        raise ValueError(
            f"{found[tag].with_suffix('')} does not exist: unpack panoptic_{tag}.zip there, it holds the masks"
        )
    masks = _read_segments(document, drawn)
    pictures = _pictures(folder, tag, document)
    there = Listing()
    missing = []
    for picture, png in zip(pictures, masks.files, strict=True):
        if Path(picture.image) not in there:
            missing.append((picture.name, f"{picture.image} does not exist: {document.path} names it"))
        elif not png:
            missing.append((picture.name, f"{document.path} has no annotation for {picture.image}"))
        elif Path(png) not in there:
            missing.append((picture.name, f"{png} does not exist: {document.path} names it"))
    return Files(document.labels, pictures, masks, tuple(missing))


def read_instances(folder: Path, split: str) -> Files:
    """annotations/instances_SPLIT.json and the pictures in SPLIT/; or SPLIT/_annotations.coco.json beside them.

    Polygons and run lengths, the smaller over the larger. What no instance covers is other. Annotations of
    pictures that the JSON does not list are left out. Labels are the categories in the order of the JSON.
    """
    found = find_annotations(folder, "instances")
    tag = choose_split(split, found, folder)
    document = _read_document(found[tag])
    pictures, there = _pictures(folder, tag, document), Listing()
    missing = tuple(
        (picture.name, f"{picture.image} does not exist: {document.path} names it")
        for picture in pictures
        if Path(picture.image) not in there
    )
    return Files(document.labels, pictures, _read_outlines(document), missing)


def _read_document(path: Path) -> Document:
    document = read_json(path, _compact)
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise ValueError(f"{path} has no list of {key}: wanted COCO's images, annotations and categories")
    categories = document["categories"]
    for category in categories:
        if not (
            isinstance(category, dict)
            and is_index(category.get("id"))
            and isinstance(category.get("name"), str)
        ):
            raise ValueError(f"{path} has the category {_short(category)}: wanted an id and a name")
    if path.name == EXPORTED:
        categories = _without_root(categories)
    labels = tuple(category["name"] for category in categories)
    read_vocabulary(labels, path)
    index = {category["id"]: number for number, category in enumerate(categories)}
    if len(index) != len(labels):
        raise ValueError(f"{path} gives two categories one id: give each its own")
    row: dict[int, int] = {}
    images: list[tuple[str, int, int]] = []
    for image in document["images"]:
        file, height, width = _image(image, path)
        if row.setdefault(image["id"], len(images)) != len(images):
            raise ValueError(f"{path} gives two images the id {image['id']}: give each its own")
        images.append((file, height, width))
    return Document(path, labels, index, row, tuple(images), document["annotations"])


def _compact(value: dict[str, Any]) -> dict[str, Any]:
    """An annotation with what is needed of it, its polygons as arrays: else COCO would take 3 GB to open.

    Polygons that are no lists of numbers become none, which fails when their picture is read.
    """
    if "segmentation" not in value:
        return value
    kept: dict[str, Any] = {
        key: value[key] for key in ("image_id", "category_id", "segmentation") if key in value
    }
    if isinstance(kept["segmentation"], list):
        try:
            kept["segmentation"] = [array("d", ring) for ring in kept["segmentation"]]
        except (OverflowError, TypeError):
            kept["segmentation"] = []
    return kept


def _without_root(categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the category that Roboflow adds above all others, often of the same name as one of them."""
    above = [category.get("supercategory") for category in categories]  # anything, so not a set
    return [
        category
        for category in categories
        if not (category.get("supercategory") == "none" and category["name"] in above)
    ]


def _image(image: Any, path: Path) -> tuple[str, int, int]:
    try:
        file, sides = image["file_name"], (image["height"], image["width"])
        if not is_index(image["id"]) or not all(is_index(side, 2**31) and side > 0 for side in sides):
            raise TypeError("id, height and width are whole numbers")
        place = PurePosixPath(file)
        if place.is_absolute() or ".." in place.parts or not place.name:
            raise TypeError("file_name leads out of the folder")
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} has the image {_short(image)} ({error}): wanted id, file_name, height and width"
        ) from error
    return file, *sides


def _pictures(folder: Path, tag: str, document: Document) -> tuple[Picture, ...]:
    files = [file for file, _, _ in document.images]
    if len(set(files)) != len(files):
        raise ValueError(f"{document.path} names a file twice among its images: name each once")
    stems = [str(PurePosixPath(file).with_suffix("")) for file in files]
    names = stems if len(set(stems)) == len(stems) else files
    if document.path.name == EXPORTED:
        place = document.path.parent
    else:
        place = _picture_folder(folder, tag, files, document.path)
    set_name = folder.resolve().name
    return tuple(
        Picture(f"{set_name}/{name}", f"{place}/{file}", row)
        for row, (name, file) in enumerate(zip(names, files, strict=True))
    )


def _picture_folder(folder: Path, tag: str, files: list[str], path: Path) -> Path:
    """Where the pictures of a split lie: train2017/ for train2017, or images/train2017/, images/, or here."""
    named = [
        place
        for parent in (folder, folder / "images")
        if parent.is_dir()
        for place in sorted(parent.iterdir(), reverse=True)
        if tag.startswith(place.name) and place.is_dir()
    ]
    places = [*named, folder / "images", folder]
    for file in files[:20]:  # the first may be one that is missing
        for place in places:
            if (place / file).is_file():
                return place
    if not files:
        return folder
    looked = ", ".join(str(place) for place in dict.fromkeys([folder / tag, *places]))
    raise ValueError(
        f"the pictures of {path} ({files[0]}, ...) are in none of {looked}: put them into the first"
    )


@dataclass(frozen=True)
class PanopticMasks:
    """The segments of picture r are those from ends[r] to ends[r + 1]: their ids in its PNG, their labels."""

    labels: int
    path: Path
    files: tuple[str, ...]
    ends: NDArray[np.int64]
    ids: NDArray[np.int64]
    indices: NDArray[np.int64]

    def read(self, picture: Picture, size: tuple[int, int]) -> IndexMap:
        assert isinstance(picture.mask, int)
        png = self.files[picture.mask]
        if not png:
            raise ValueError(f"{self.path} has no annotation for {picture.image}: leave the picture out")
        colours_HW3 = read_png(png, ("RGB",), "the RGB of COCO's panoptic PNGs, in which the colour is an id")
        check_size(png, colours_HW3.shape[:2], size)
        red, green, blue = np.moveaxis(colours_HW3.astype(np.int32), 2, 0)
        stored = red + 256 * green + 65_536 * blue
        mine = slice(self.ends[picture.mask], self.ends[picture.mask + 1])
        order = np.argsort(self.ids[mine])
        # 0, no segment, is unknown. It sorts first, since segments count from 1.
        ids = np.concatenate(([0], self.ids[mine][order]))
        indices = np.concatenate(([other_id(self.labels) + 1], self.indices[mine][order]))
        place = np.searchsorted(ids, stored, side="right") - 1
        if (ids[place] != stored).any():
            value = int(stored[ids[place] != stored].max())
            raise ValueError(
                f"{png} holds the segment {value}, which {self.path} does not list: get both again"
            )
        index_map: IndexMap = indices[place].astype(map_type(self.labels))
        return index_map


def _read_segments(document: Document, drawn: Path) -> PanopticMasks:
    files = [""] * len(document.images)
    of_picture, ids, indices = array("q"), array("q"), array("q")
    for annotation in document.annotations:
        try:
            file, row = annotation["file_name"], document.row.get(annotation["image_id"])
            if row is None:
                continue
            if PurePosixPath(file).name != file or not file:
                raise TypeError("file_name is no plain name")
            files[row] = f"{drawn}/{file}"
            for segment in annotation["segments_info"]:
                if not is_index(segment["id"], 2**24) or segment["id"] == 0:
                    raise TypeError(f"a segment has the id {_short(segment['id'])}")
                of_picture.append(row)
                ids.append(segment["id"])
                indices.append(document.index[segment["category_id"]])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{document.path} has an annotation that cannot be read, {_short(annotation)} ({error!r}):"
                " wanted image_id, file_name and segments_info, with known categories"
            ) from error
    order, ends = _grouped(of_picture, len(files))
    numbers = [np.array(column, dtype=np.int64)[order] for column in (ids, indices)]
    return PanopticMasks(len(document.labels), document.path, tuple(files), ends, *numbers)


def _grouped(of_picture: array[int], pictures: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order that brings together what is of one picture, and where in it each picture's begins and ends."""
    rows = np.array(of_picture, dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    return order, np.searchsorted(rows[order], np.arange(pictures + 1))


@dataclass(frozen=True)
class InstanceMasks:
    """Outlines in columns, since objects for a million of them would fill the memory of every worker.

    Annotation number a of the JSON: its label is indices[a], its polygons those from rings[a] to rings[a + 1],
    and polygon p the numbers from points[p] to points[p + 1] of `coordinates`; or codes[a], run lengths.
    Picture r, of size sizes[r], has the annotations order[ends[r]:ends[r + 1]].
    """

    labels: int
    path: Path
    sizes: NDArray[np.int64]
    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    indices: NDArray[np.int64]
    rings: NDArray[np.int64]
    points: NDArray[np.int64]
    coordinates: NDArray[np.float64]
    codes: dict[int, Any] = field(repr=False)

    def read(self, picture: Picture, size: tuple[int, int]) -> IndexMap:
        assert isinstance(picture.mask, int)
        height, width = self.sizes[picture.mask].tolist()
        check_size(f"{picture.name} in {self.path}", (height, width), size)
        shapes = []
        for number in self.order[self.ends[picture.mask] : self.ends[picture.mask + 1]].tolist():
            first, last = self.rings[number : number + 2].tolist()
            rings = [self.coordinates[self.points[p] : self.points[p + 1]] for p in range(first, last)]
            try:
                if number in self.codes:
                    runs = decode_mask(self.codes[number], size)
                elif rings:
                    runs = polygon_runs(rings, size)
                else:
                    raise ValueError(
                        "no outline (polygons, as lists of numbers, or run lengths; a box is none)"
                    )
            except ValueError as error:
                raise ValueError(
                    f"{self.path}: annotations[{number}], of {picture.name}, has {error}: mend or remove it"
                ) from error
            shapes.append((runs, int(self.indices[number])))
        return draw(shapes, size, self.labels)


def _read_outlines(document: Document) -> InstanceMasks:
    of_picture, indices, rings, points = array("q"), array("q"), array("q", [0]), array("q", [0])
    coordinates, codes = array("d"), {}
    for number, annotation in enumerate(document.annotations):
        try:
            of_picture.append(document.row.get(annotation["image_id"], len(document.images)))
            indices.append(document.index[annotation["category_id"]])
            outline = annotation.get("segmentation")
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{document.path}: annotations[{number}] cannot be read, {_short(annotation)} ({error!r}):"
                " wanted image_id, category_id, of a category that is listed, and segmentation"
            ) from error
        if isinstance(outline, list):
            for ring in outline:
                coordinates.extend(ring)
                points.append(len(coordinates))
        elif outline is not None:
            codes[number] = outline
        rings.append(len(points) - 1)
    order, ends = _grouped(of_picture, len(document.images))
    sizes = np.array([size for _, *size in document.images], dtype=np.int64).reshape(-1, 2)
    return InstanceMasks(
        labels=len(document.labels),
        path=document.path,
        sizes=sizes,
        order=order,
        ends=ends,
        indices=np.array(indices),
        rings=np.array(rings),
        points=np.array(points),
        coordinates=np.array(coordinates),
        codes=codes,
    )


def _short(value: Any) -> str:
    return re.sub(r"(?s)^(.{80}).+", r"\1...", repr(value))
