"""What all pictures of a folder show together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sanseg.folders.manifest import Record


@dataclass(frozen=True)
class Total:
    """A label in all pictures. pictures: in how many it occurs. share: of all pixels. confidence: mean by pixel."""

    label: str
    pictures: int
    share: float
    confidence: float


def totals(records: Iterable[Record]) -> list[Total]:
    """The labels that occur, the largest first; pictures that failed are left out."""
    pictures: dict[str, int] = {}
    pixels: dict[str, float] = {}
    sure: dict[str, float] = {}
    everything = 0
    for record in records:
        if record.error is not None:
            continue
        size = record.width * record.height
        everything += size
        for label, share in record.areas.items():
            pictures[label] = pictures.get(label, 0) + 1
            pixels[label] = pixels.get(label, 0.0) + share * size
            sure[label] = sure.get(label, 0.0) + share * size * record.confidence.get(label, 0.0)
    return [
        Total(label, pictures[label], pixels[label] / everything, sure[label] / pixels[label])
        for label in sorted(pixels, key=lambda label: (-pixels[label], label))
        if pixels[label] > 0
    ]
