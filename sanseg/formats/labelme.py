"""LabelMe: polygons to correct by hand. What no polygon covers is other."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

from sanseg.formats.format import Options
from sanseg.images import encode_json, encode_png

if TYPE_CHECKING:
    from sanseg.segmentation import Segmentation

VERSION = "5.5.0"  # of LabelMe, whose form this is


def polygons(segmentation: Segmentation, options: Options) -> bytes:
    """A segment with holes is several shapes of one group.

    The picture is in the file, as LabelMe's own are, where this result holds it; else it is looked for beside it.
    """
    height, width = segmentation.label_map.shape
    shapes = [
        {
            "label": segment.label,
            "points": ring.tolist(),
            "group_id": number,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for number, segment in enumerate(segmentation.segments(other=False), 1)
        for ring in segment.rings(options.simplify)
    ]
    image = segmentation.image
    document = {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": options.picture,
        "imageData": None if image is None else b64encode(encode_png(image)).decode("ascii"),
        "imageHeight": height,
        "imageWidth": width,
        **segmentation.source(),
        **options.simplified,
    }
    return encode_json(document, indent=None)
