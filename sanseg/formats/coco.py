"""COCO's JSON of annotations, one for each segment, as run lengths or as polygons.

What no annotation covers is other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sanseg.formats.format import Options
from sanseg.images import encode_json

if TYPE_CHECKING:
    from sanseg.segmentation import Segmentation
    from sanseg.segments import Segment


def run_lengths(segmentation: Segmentation, options: Options) -> bytes:
    """Exact, holes too."""
    segments = segmentation.segments(other=False)
    return _document(segmentation, options, segments, [segment.coco_rle() for segment in segments])


def polygons(segmentation: Segmentation, options: Options) -> bytes:
    """A segment with holes is several polygons of one annotation."""
    segments = segmentation.segments(other=False)
    rings = [[ring.ravel().tolist() for ring in segment.rings(options.simplify)] for segment in segments]
    return _document(segmentation, options, segments, rings, **options.simplified)


def _document(
    segmentation: Segmentation, options: Options, segments: list[Segment], outlines: list[Any], **told: float
) -> bytes:
    """A category's id is that of the label map and 1: COCO's begin at 1, and 0 means background to some tools."""
    height, width = segmentation.label_map.shape
    image = {"id": 1, "file_name": options.picture, "width": width, "height": height}
    annotations = []
    for number, (segment, outline) in enumerate(zip(segments, outlines, strict=True), 1):
        left, top, right, bottom = segment.box
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": segment.id + 1,
                "segmentation": outline,
                "area": segment.pixels,
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
                "score": round(segment.confidence, 6),
            }
        )
    categories = [{"id": id_ + 1, "name": label} for id_, label in enumerate(segmentation.labels)]
    info = {"description": "sanseg", **segmentation.source(), **told}
    document = {"info": info, "images": [image], "categories": categories, "annotations": annotations}
    return encode_json(document, indent=None)
