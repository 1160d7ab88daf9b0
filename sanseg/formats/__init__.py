"""The formats in which a Segmentation is saved, one small file for each family.

What each holds, which tool opens it, and what becomes of holes and of other: docs/FORMATS.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from pathlib import PurePath

from sanseg.extras import need
from sanseg.formats import arrays, coco, cvat, geojson, label_studio, labelme, numbers, pictures, yolo
from sanseg.formats.format import Format, Options

__all__ = [
    "DEFAULT",
    "FORMATS",
    "Format",
    "Options",
    "check",
    "check_installed",
    "check_simplify",
    "of_ending",
]

DEFAULT = ("overlay", "index", "json")

OUTLINES = ("scipy", "rasterio", "shapely")  # what finds segments and traces them
POLYGONS = ("coco-polygons", "yolo", "labelme", "geojson")

FORMATS = {
    "overlay": Format(".overlay.png", "the picture painted, with a legend", pictures.overlay, image=True),
    "index": Format(".index.png", "the label map, with a palette and the names", pictures.index),
    "masks": Format(".masks", "a folder with a black and white PNG for each label", pictures.masks),
    "json": Format(".json", "words and areas", numbers.to_json),
    "csv": Format(".csv", "areas, a line for each label", numbers.to_csv),
    "confidence": Format(".confidence.npz", "label map and confidence, for numpy", arrays.confidence),
    "scores": Format(".scores.npz", "the score of every label, for numpy", arrays.scores, queries=True),
    "coco-rle": Format(
        ".coco-rle.json", "COCO annotations, run lengths", coco.run_lengths, needs=("scipy", "pycocotools")
    ),
    "coco-polygons": Format(
        ".coco-polygons.json", "COCO annotations, polygons", coco.polygons, needs=OUTLINES
    ),
    "yolo": Format(
        ".txt", "YOLO segmentation, a polygon a line", yolo.text, may_be_empty=True, needs=OUTLINES
    ),
    "labelme": Format(
        ".labelme.json", "LabelMe, polygons and the picture", labelme.polygons, image=True, needs=OUTLINES
    ),
    "label-studio": Format(".label-studio.json", "a Label Studio task, brush strokes", label_studio.task),
    "cvat": Format(".cvat.xml", "CVAT for images 1.1, masks", cvat.xml, needs=("scipy",)),
    "geojson": Format(".geojson", "GeoJSON, polygons with holes", geojson.polygons, needs=OUTLINES),
}


def check(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once, in order. Raises ValueError for one that is no key of FORMATS."""
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in FORMATS:
            raise ValueError(f"there is no format called {name!r}: choose from {', '.join(FORMATS)}")
    return chosen


def check_installed(names: Iterable[str]) -> None:
    """Raises ValueError, saying what to install, where a package is missing that a format is made with."""
    for name in names:
        for package in FORMATS[name].needs:
            need(package, "formats", f"the format {name}")


def check_simplify(simplify: float, names: Iterable[str]) -> None:
    """Raises ValueError for a tolerance of polygons that cannot be, and where none of the formats has any."""
    if not 0 <= simplify < inf:
        raise ValueError(f"polygons cannot stray by {simplify} pixels: give 0 or more (--simplify)")
    if simplify and not set(POLYGONS) & set(names):
        raise ValueError(f"--simplify is for polygons: add one of {', '.join(POLYGONS)} to --format")


def of_ending(path: PurePath) -> tuple[str, str]:
    """The format of a file by how its name ends, and what is before that; plain .png is the overlay.

    Raises ValueError for another ending.
    """
    endings = {format_.ending: name for name, format_ in FORMATS.items()} | {".png": "overlay"}
    for ending in sorted(endings, key=len, reverse=True):
        if path.name.lower().endswith(ending):
            return endings[ending], path.name[: -len(ending)]
    raise ValueError(
        f"{path} ends in none of {', '.join(endings)}: choose one, or give a folder and a stem, as "
        "save(folder, stem)"
    )
