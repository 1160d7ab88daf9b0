"""What a large picture's results are written as: TIFFs by windows, and polygons on the map (extra `geo`).

H W pixels of the picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sanseg.draw import LabelMap, colour_table
from sanseg.geo import Georeference, gdal, rasterio
from sanseg.vocabulary import Colour

if TYPE_CHECKING:
    from rasterio.io import DatasetWriter

BLOCK = 512  # pixels, the side of the blocks that are written
# Polygons end where a square of this side does, so that memory does not grow with them.
POLYGON_BLOCK = 2048  # pixels
POLYGONS_AT_ONCE = 10_000  # in memory
CONFIDENCE_STEPS = 10_000  # a confidence of 1 in the file; its scale says so
NO_CONFIDENCE = 65_535


def unknown_id(labels: int) -> int:
    """What a label map holds where the raster knows nothing: 255, or 65535 for more than 254 labels."""
    return 255 if labels <= 254 else 65_535


@contextmanager
def _create(
    path: Path, shape: tuple[int, int], where: Georeference, **profile: Any
) -> Iterator[DatasetWriter]:
    """A tiled, compressed TIFF of one band. Written row of blocks by row of blocks, the same bytes each time."""
    with (
        gdal() as package,
        package.open(
            path,
            "w",
            driver="GTiff",
            height=shape[0],
            width=shape[1],
            count=1,
            tiled=True,
            blockxsize=BLOCK,
            blockysize=BLOCK,
            compress="deflate",
            bigtiff="if_safer",
            **where.profile(),
            **profile,
        ) as dataset,
    ):
        yield dataset


def _write(dataset: DatasetWriter, stripes: Iterator[tuple[slice, NDArray[Any]]]) -> None:
    window = rasterio().windows.Window
    for rows, pixels in stripes:
        assert rows.start % BLOCK == 0, rows  # a block that is written twice is stored twice
        dataset.write(pixels, 1, window=window(0, rows.start, pixels.shape[1], len(pixels)))


def write_index(
    path: Path,
    stripes: Iterator[tuple[slice, LabelMap]],
    shape: tuple[int, int],
    labels: Sequence[str],
    other: str,
    where: Georeference,
    tags: Mapping[str, str],
    own: Sequence[Colour | None] = (),
) -> None:
    """A label map as TIFF: 8 or 16 bits, the overlay's colours as palette, what is unknown as no data.

    stripes: the map from top to bottom, BLOCK rows or a multiple of it at a time.
    labels, other: the names, which become tags LABEL_0, LABEL_1, ..., beside `tags`. own: as `draw.colour_table`.
    """
    unknown = unknown_id(len(labels))
    names = dict(enumerate(labels)) | {unknown - 1: other}
    colours = colour_table(len(labels), own)
    with _create(
        path, shape, where, dtype="uint8" if unknown == 255 else "uint16", nodata=unknown
    ) as dataset:
        dataset.write_colormap(1, {number: (*colour, 255) for number, colour in enumerate(colours.tolist())})
        dataset.update_tags(**tags, **{f"LABEL_{number}": name for number, name in names.items()})
        dataset.set_band_description(1, "label")
        _write(dataset, stripes)


def write_confidence(
    path: Path,
    stripes: Iterator[tuple[slice, NDArray[np.uint16]]],
    shape: tuple[int, int],
    where: Georeference,
    tags: Mapping[str, str],
) -> None:
    """Confidence as TIFF: 16 bits in ten-thousandths, which its scale tells GDAL's users; 65535 is no data."""
    with _create(path, shape, where, dtype="uint16", nodata=NO_CONFIDENCE, predictor=2) as dataset:
        dataset.scales = (1 / CONFIDENCE_STEPS,)
        dataset.update_tags(**tags)
        dataset.set_band_description(1, "confidence")
        _write(dataset, stripes)


def check_polygons(where: Georeference) -> str | None:
    """What GeoJSON calls the raster's coordinates; None where it has none.

    Raises ValueError for coordinates without a code (EPSG, for one), which GeoJSON cannot name, and for a raster that
    only has ground control points.
    """
    if where.gcps:
        raise ValueError(
            "polygons need a raster with a transform, this has control points only: warp it first"
        )
    if not where.crs:
        return None
    code = where.crs.to_authority()
    if code is None:
        raise ValueError(
            "the raster's coordinates have no code (as EPSG:32633) that GeoJSON could name: warp it to some that"
            " have one"
        )
    return f"urn:ogc:def:crs:{code[0]}::{code[1]}"


def write_geojson(
    path: Path,
    stripes: Iterator[tuple[slice, LabelMap, NDArray[np.uint16]]],
    names: Mapping[int, str],
    where: Georeference,
    tags: Mapping[str, str],
) -> None:
    """Polygons in map coordinates, a feature a line: id, label, mean confidence, and how many pixels it covers.

    stripes: the label map and the confidence, as `write_confidence` has it, from top to bottom; polygons end where a
        stripe does, and at every POLYGON_BLOCK columns.
    names: of the ids that become polygons. tags: members of the collection beside its features.

    Without map coordinates, x and y are pixels from the upper left corner.

    Raises as `check_polygons`.
    """
    head: dict[str, Any] = {"type": "FeatureCollection", **tags}
    code = check_polygons(where)
    if code is not None:
        head["crs"] = {"type": "name", "properties": {"name": code}}
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "features": [')
        separator = "\n"
        for rows, ids, steps in stripes:
            for left in range(0, ids.shape[1], POLYGON_BLOCK):
                columns = slice(left, left + POLYGON_BLOCK)
                blocks = ids[:, columns], steps[:, columns]
                for feature in _features(*blocks, rows.start, left, names, where.transform):
                    file.write(separator + json.dumps(feature, ensure_ascii=False))
                    separator = ",\n"
        file.write("\n]}\n")


def _features(
    ids: LabelMap, steps: NDArray[np.uint16], top: int, left: int, names: Mapping[int, str], transform: Any
) -> Iterator[dict[str, Any]]:
    features = rasterio().features
    shapes = features.shapes(ids, mask=np.isin(ids, [*names]), connectivity=4)
    while some := list(islice(shapes, POLYGONS_AT_ONCE)):
        # Each polygon's own pixels, by its number: the middles of pixels are never on an outline.
        numbered = [(geometry, number) for number, (geometry, _) in enumerate(some, 1)]
        numbers = features.rasterize(numbered, ids.shape, fill=0, dtype="int32").ravel()
        pixels = np.bincount(numbers, minlength=len(some) + 1)
        sums = np.bincount(numbers, weights=steps.ravel(), minlength=len(some) + 1)
        confidence = sums / np.maximum(pixels, 1) / CONFIDENCE_STEPS
        for number, (geometry, value) in enumerate(some, 1):
            rings = [np.array(ring) for ring in geometry["coordinates"]]
            yield {
                "type": "Feature",
                "properties": {
                    "id": int(value),
                    "label": names[int(value)],
                    "confidence": round(float(confidence[number]), 6),
                    "pixels": int(pixels[number]),
                },
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [_placed(ring, top, left, transform) for ring in rings],
                },
            }


def _placed(ring_N2: NDArray[np.float64], top: int, left: int, transform: Any) -> list[list[float]]:
    """On the map, to a billionth of its unit."""
    x, y = ring_N2[:, 0] + left, ring_N2[:, 1] + top
    east = transform.a * x + transform.b * y + transform.c
    north = transform.d * x + transform.e * y + transform.f
    rounded: list[list[float]] = np.stack([east, north], axis=1).round(9).tolist()
    return rounded
