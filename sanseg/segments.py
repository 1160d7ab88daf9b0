"""Segments: the connected regions of a label map, as masks, boxes, polygons and run lengths.

scipy finds the regions, rasterio (GDAL) traces them along the borders of pixels, holes included, and shapely
simplifies and cuts: the extra `formats`. Coordinates are pixels, x to the right and y down; (0, 0) is the upper left
corner of the picture, so that the upper left pixel reaches from there to (1, 1).

H W pixels of the picture, h w of a segment's box.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sanseg.draw import LabelMap
from sanseg.extras import need
from sanseg.images import QUIET

if TYPE_CHECKING:
    import shapely

Ring = NDArray[np.float64]
"""A closed line as its corners (N, 2), x and y; the first is not said again at the end."""


@dataclass(frozen=True, eq=False)
class Segment:
    """A region of one label whose pixels touch along their sides.

    confidence: the mean over its pixels, in [0, 1]. pixels: how many.
    box: left, top, right, bottom, in pixels; right and bottom are the first that are outside.
    """

    id: int
    label: str
    confidence: float
    pixels: int
    box: tuple[int, int, int, int]
    _numbers: NDArray[np.int32] = field(repr=False)  # (H, W), of the segments of a picture
    _number: int = field(repr=False)

    @property
    def crop(self) -> NDArray[np.bool_]:
        """The mask within the box: bool (h, w)."""
        left, top, right, bottom = self.box
        return np.equal(self._numbers[top:bottom, left:right], self._number)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Bool (H, W)."""
        return np.equal(self._numbers, self._number)

    def polygon(self, simplify: float = 0.0) -> shapely.Polygon:
        """The outline along the borders of pixels, with holes, as a valid shapely.Polygon.

        simplify: how far it may stray, in pixels (Douglas and Peucker's algorithm). At 0 it is exact, and its
            corners are whole numbers; above, neighbours no longer meet exactly.
        Raises ValueError for a `simplify` below 0 or not finite.
        """
        if not 0 <= simplify < np.inf:
            raise ValueError(f"simplify is {simplify}: give a tolerance in pixels, 0 or more")
        features = need("rasterio.features", "formats", "the outline of a segment")
        shapely = need("shapely", "formats", "the outline of a segment")
        left, top, *_ = self.box
        crop = self.crop
        with QUIET:  # rasterio silences its warnings by itself, in a way that threads spoil for each other
            traced = features.shapes(
                crop.astype(np.uint8), mask=crop, connectivity=4, transform=_affine(left, top)
            )
            (outline,) = (shapely.geometry.shape(geometry) for geometry, _ in traced)
        return outline.simplify(simplify) if simplify else outline

    def rings(self, simplify: float = 0.0) -> list[Ring]:
        """Outlines without holes that cover the segment together and do not overlap, for formats that know none.

        A segment without holes is one. Others are cut upright through their holes: at `simplify` 0 along the
        borders of pixels, so that they too are exact.
        """
        parts = [*_without_holes(self.polygon(simplify))]
        return [np.array(part.exterior.coords, dtype=np.float64)[:-1] for part in parts]

    def coco_rle(self) -> dict[str, Any]:
        """COCO's compressed run lengths: {"size": [H, W], "counts": str}, as pycocotools reads them."""
        coco = need("pycocotools.mask", "formats", "a mask as COCO's run lengths")
        height, width = self._numbers.shape
        left, top, right, bottom = self.box
        columns = np.zeros((right - left, height), dtype=np.bool_)
        columns[:, top:bottom] = self.crop.T
        runs = run_lengths(columns)
        runs[0] += left * height
        runs = np.append(runs, (width - right) * height)
        if len(runs) % 2 == 0:  # the last run was off already
            runs = np.append(runs[:-2], runs[-2:].sum())
        if runs[-1] == 0:
            runs = runs[:-1]
        coded = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
        return {"size": [height, width], "counts": coded["counts"].decode("ascii")}


def find_segments(
    label_map: LabelMap, confidence: NDArray[np.float32], names: Mapping[int, str]
) -> list[Segment]:
    """The segments of a label map, the largest first; of equals, the lower id, then the upper, then the left.

    label_map: (H, W), ids. confidence: (H, W), in [0, 1]. names: of the ids; the segments of others are left out.
    """
    ndimage = need("scipy.ndimage", "formats", "finding segments")
    numbers = np.zeros(label_map.shape, dtype=np.int32)
    ids: list[int] = []
    for id_, box in enumerate(ndimage.find_objects(label_map.astype(np.int32) + 1)):
        if box is None or id_ not in names:
            continue
        parts, found = ndimage.label(label_map[box] == id_)
        numbers[box] += np.where(parts > 0, parts + len(ids), 0).astype(np.int32)
        ids += [id_] * found
    pixels = np.bincount(numbers.ravel(), minlength=len(ids) + 1)
    sums = np.bincount(numbers.ravel(), weights=confidence.ravel(), minlength=len(ids) + 1)
    boxes = ndimage.find_objects(numbers)
    # Numbers go by id, then from the top, then from the left.
    return [
        Segment(
            id_ := ids[number - 1],
            names[id_],
            float(sums[number]) / int(pixels[number]),
            int(pixels[number]),
            (
                boxes[number - 1][1].start,
                boxes[number - 1][0].start,
                boxes[number - 1][1].stop,
                boxes[number - 1][0].stop,
            ),
            numbers,
            number,
        )
        for number in (1 + np.argsort(-pixels[1:], kind="stable")).tolist()
    ]


def run_lengths(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many pixels are off, on, off, ... in the order they lie in; the first is 0 where it begins with on."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return np.concatenate([[0], runs]) if flat[0] else runs


def _affine(left: int, top: int) -> Any:
    return need("rasterio", "formats", "the outline of a segment").Affine.translation(left, top)


def _without_holes(polygon: shapely.Polygon) -> Iterator[shapely.Polygon]:
    """Parts without holes: the polygon is cut upright through the hole nearest its middle, then its parts are."""
    if not polygon.interiors:
        yield polygon
        return
    shapely = need("shapely", "formats", "the outline of a segment")
    left, top, right, bottom = polygon.bounds
    holes = shapely.bounds(shapely.polygons(list(polygon.interiors)))
    middles = (holes[:, 0] + holes[:, 2]) / 2
    nearest = int(np.abs(middles - (left + right) / 2).argmin())
    middle, edge = float(middles[nearest]), float(holes[nearest, 0])
    # Between pixels. A hole one pixel wide is cut along its side, if it has one: else it would stay a hole.
    cut = float(floor(middle)) if floor(middle) > edge or _is_box(polygon.interiors[nearest]) else middle
    for box in (shapely.box(left, top, cut, bottom), shapely.box(cut, top, right, bottom)):
        for part in shapely.get_parts(shapely.intersection(polygon, box)):
            if part.geom_type == "Polygon":
                yield from _without_holes(part)


def _is_box(ring: Any) -> bool:
    return len(ring.coords) == 5 and len({x for x, _ in ring.coords}) == 2
