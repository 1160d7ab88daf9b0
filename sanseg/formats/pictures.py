"""Pictures: the overlay, the label map, and a mask for each label. Their text chunks say where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sanseg.formats.format import Options
from sanseg.images import encode_png

if TYPE_CHECKING:
    from sanseg.segmentation import Segmentation

LONGEST = 40  # characters of a label in the name of a file


def overlay(segmentation: Segmentation, options: Options) -> bytes:
    return encode_png(segmentation.overlay(), text=_text(segmentation))


def index(segmentation: Segmentation, options: Options) -> bytes:
    """Pixels are ids: 8 bits and the overlay's colours, or 16 bits without colours for more than 254 labels."""
    palette = segmentation.colours if segmentation.other_id == 254 else None
    return encode_png(segmentation.label_map, palette, _text(segmentation))


def masks(segmentation: Segmentation, options: Options) -> dict[str, bytes]:
    """For each label that occurs, and other, ID-LABEL.png: 255 where it is, else 0."""
    files = {}
    for region in segmentation.regions():
        mask = np.equal(segmentation.label_map, region.id).astype(np.uint8) * np.uint8(255)
        text = _text(segmentation) | {"Label": region.label}
        files[f"{region.id}-{_file_name(region.label)}.png"] = encode_png(mask, text=text)
    return files


def _text(segmentation: Segmentation) -> dict[str, str]:
    return text_chunks(segmentation.source(), segmentation.names)


def text_chunks(source: Mapping[str, str], names: Mapping[int, str]) -> dict[str, str]:
    """Labels: ids and names, as JSON. The rest is who made it, of which words: `Segmentation.source`."""
    return {
        "Software": f"sanseg {source['sanseg']}",
        "Model": source["model"],
        "Templates": source["templates"],
        "Vocabulary": source["vocabulary"],
        "Labels": json.dumps(names, ensure_ascii=False),
    }


def _file_name(label: str) -> str:
    """A label in letters and digits that any file system takes."""
    words = "".join(letter if letter.isalnum() else " " for letter in label).split()
    return "-".join(words)[:LONGEST].strip("-") or "label"
