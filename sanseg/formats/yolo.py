"""YOLO segmentation: a polygon a line. The class is the label's place in the list, other has no lines.

The text has no room for names or for who made it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sanseg.formats.format import Options

if TYPE_CHECKING:
    from sanseg.segmentation import Segmentation


def text(segmentation: Segmentation, options: Options) -> bytes:
    """The class, then x and y in turns, from 0 to 1 of the width and height, to six decimals."""
    height, width = segmentation.label_map.shape
    lines = []
    for segment in segmentation.segments(other=False):
        for ring in segment.rings(options.simplify):
            numbers = " ".join(f"{number:.6f}" for number in (ring / (width, height)).ravel())
            lines.append(f"{segment.id} {numbers}\n")
    return "".join(lines).encode()
