"""GeoJSON: a polygon with its holes for each segment, other among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sanseg.extras import need
from sanseg.formats.format import Options
from sanseg.images import encode_json

if TYPE_CHECKING:
    from sanseg.segmentation import Segmentation


def polygons(segmentation: Segmentation, options: Options) -> bytes:
    """In pixels, x to the right and y down."""
    collection = feature_collection(segmentation, simplify=options.simplify)
    told = options.simplified | {"picture": options.picture}
    return encode_json(collection | told, indent=None)


def feature_collection(
    segmentation: Segmentation,
    *,
    simplify: float = 0.0,
    transform: Sequence[float] | None = None,
    crs: str | None = None,
) -> dict[str, Any]:
    """A FeatureCollection, the largest segment first; exterior rings run against the clock, as RFC 7946 wants.

    simplify: in pixels, before the transform.
    transform: (a, b, c, d, e, f) takes column x and row y to (a x + b y + c, d x + e y + f), as a rasterio Affine
        begins; None leaves pixels.
    crs: the name of the coordinates, as "EPSG:32633", written as the older GeoJSON did and GDAL still reads.
    """
    shapely = need("shapely", "formats", "GeoJSON")
    affinity = need("shapely.affinity", "formats", "GeoJSON")
    features, colours = [], segmentation.colours
    for segment in segmentation.segments():
        outline = segment.polygon(simplify)
        if transform is not None:
            a, b, c, d, e, f = transform[:6]
            outline = affinity.affine_transform(outline, (a, b, d, e, c, f))
        red, green, blue = colours[segment.id].tolist()
        properties = {
            "id": segment.id,
            "label": segment.label,
            "confidence": round(segment.confidence, 6),
            "pixels": segment.pixels,
            "fill": f"#{red:02x}{green:02x}{blue:02x}",
        }
        geometry = shapely.geometry.mapping(shapely.orient_polygons(outline))
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    named = {} if crs is None else {"crs": {"type": "name", "properties": {"name": crs}}}
    return {"type": "FeatureCollection", **named, **segmentation.source(), "features": features}
