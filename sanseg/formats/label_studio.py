"""A task of Label Studio: a brush stroke for each label, exact, holes too.

Brush strokes are RGBA pictures of one colour, in the run lengths of thi.ng/rle-pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sanseg.formats.format import Options
from sanseg.images import encode_json
from sanseg.segments import run_lengths

if TYPE_CHECKING:
    from sanseg.segmentation import Region, Segmentation

WORD_BITS = 8
SIZES = (3, 4, 8, 16)  # bits of a run's length, less 1: each run takes the first that has room
MAX_RUN = 1 << SIZES[-1]


def task(segmentation: Segmentation, options: Options) -> bytes:
    """What no stroke covers is other. `data.image` is the picture's name: change it to where Label Studio finds it."""
    found = [region for region in segmentation.regions() if region.id != segmentation.other_id]
    source = segmentation.source()
    prediction = {
        "model_version": f"{source['model']}, sanseg {source['sanseg']}",
        "score": round(float(segmentation.confidence.mean()), 6),
        "result": [_stroke(segmentation, region) for region in found],
    }
    return encode_json(
        [{"data": {"image": options.picture}, "meta": source, "predictions": [prediction]}], indent=None
    )


def _stroke(segmentation: Segmentation, region: Region) -> dict[str, Any]:
    height, width = segmentation.label_map.shape
    mask = np.equal(segmentation.label_map, region.id)
    return {
        "id": f"sanseg-{region.id}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": round(region.mean_confidence, 6),
        "value": {"format": "rle", "rle": [*pack(mask)], "brushlabels": [region.label]},
    }


def pack(mask: NDArray[np.bool_]) -> bytes:
    """A mask as an RGBA picture, 255 where it is and else 0, in the run lengths of rle-pack.

    Bits: how many words (32), the bits of a word less 1 (5), four sizes less 1 (4 each); then for each run 1, which
    of the sizes (2), the length less 1 in so many bits, and the word.
    """
    head = [f"{4 * mask.size:032b}", f"{WORD_BITS - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    bits = "".join([*head, *_runs(4 * run_lengths(mask))])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _runs(lengths: NDArray[np.int64]) -> Iterator[str]:
    for number, length in enumerate(lengths.tolist()):
        word = f"{255 * (number % 2):0{WORD_BITS}b}"
        while length > 0:
            part = min(length, MAX_RUN)
            place = next(place for place, size in enumerate(SIZES) if part <= 1 << size)
            yield f"1{place:02b}{part - 1:0{SIZES[place]}b}{word}"
            length -= part
