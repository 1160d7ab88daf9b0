"""`python -m tests.demo_outputs FOLDER`: what `make demo` wrote is whole, agrees with itself, and names the obvious."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
SHOWN = {"cat": "cat", "astronaut": "person", "coffee": "coffee cup"}  # photo: what covers a good part of it
AT_LEAST = 0.1  # of the picture


def problems(folder: Path) -> list[str]:
    """A line for each thing that is not as it should be."""
    found = []
    for photo in sorted(EXAMPLES.glob("*.jpg")):
        size = Image.open(photo).size
        overlay = Image.open(folder / f"{photo.stem}.overlay.png")
        index = Image.open(folder / f"{photo.stem}.index.png")
        described = json.loads((folder / f"{photo.stem}.json").read_text(encoding="utf-8"))
        if index.mode != "P" or index.size != size:
            found.append(f"{photo.stem}.index.png is {index.mode} {index.size}, the photo {size}")
        if overlay.width < size[0] or overlay.height <= size[1]:
            found.append(f"{photo.stem}.overlay.png is {overlay.size}: the photo with a legend is larger")
        pixels = {region["id"]: region["pixels"] for region in described["regions"]}
        counted = dict(
            zip(*(part.tolist() for part in np.unique(np.asarray(index), return_counts=True)), strict=True)
        )
        if counted != pixels:
            found.append(f"{photo.stem}: the index map holds {counted}, the JSON says {pixels}")
        shares = {region["label"]: region["share"] for region in described["regions"]}
        if shares.get(SHOWN[photo.stem], 0) < AT_LEAST:
            found.append(f"{photo.stem} shows a {SHOWN[photo.stem]}; the answer was {shares}")
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    print("\n".join(lines) or "the demo's outputs are right")
    sys.exit(bool(lines))
