"""CVAT for images 1.1: a mask for each segment, exact, holes too. What no mask covers is other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from sanseg.formats.format import Options
from sanseg.segments import run_lengths

if TYPE_CHECKING:
    from sanseg.segmentation import Segmentation

FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # no XML may hold these


def xml(segmentation: Segmentation, options: Options) -> bytes:
    """`meta` has the labels with the overlay's colours, and who made it; `image` the masks, row by row."""
    height, width = segmentation.label_map.shape
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    meta = SubElement(root, "meta")
    SubElement(meta, "sanseg", {name: _legal(value) for name, value in segmentation.source().items()})
    task = SubElement(meta, "task")
    SubElement(task, "size").text = "1"
    SubElement(task, "mode").text = "annotation"
    labels = SubElement(task, "labels")
    for name, (red, green, blue) in zip(segmentation.labels, segmentation.colours.tolist(), strict=False):
        label = SubElement(labels, "label")
        SubElement(label, "name").text = _legal(name)
        SubElement(label, "color").text = f"#{red:02x}{green:02x}{blue:02x}"
        SubElement(label, "type").text = "mask"
        SubElement(label, "attributes")
    size = {"width": str(width), "height": str(height)}
    image = SubElement(root, "image", {"id": "0", "name": _legal(options.picture), **size})
    for segment in segmentation.segments(other=False):
        left, top, right, bottom = segment.box
        mask = {
            "label": _legal(segment.label),
            "source": "auto",
            "occluded": "0",
            "rle": ", ".join(map(str, run_lengths(segment.crop).tolist())),
            "left": str(left),
            "top": str(top),
            "width": str(right - left),
            "height": str(bottom - top),
            "z_order": "0",
        }
        SubElement(image, "mask", mask)
    ElementTree.indent(root)
    data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _legal(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)
