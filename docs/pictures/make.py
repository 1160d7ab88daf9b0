"""README's picture: the example photos above what `make demo` made of them.

python docs/pictures/make.py demo-output
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
HEIGHT, GAP = 300, 8  # pixels


def column(photo: Path, results: Path) -> Image.Image:
    """A photo above its overlay, which has the legend below."""
    original = Image.open(photo).convert("RGB")
    overlay = Image.open(results / f"{photo.stem}.overlay.png").convert("RGB")
    scale = HEIGHT / original.height
    top, below = (
        image.resize((round(image.width * scale), round(image.height * scale)))
        for image in (original, overlay)
    )
    whole = Image.new("RGB", (max(top.width, below.width), top.height + GAP + below.height), "white")
    whole.paste(top, (0, 0))
    whole.paste(below, (0, top.height + GAP))
    return whole


def main(results: Path) -> None:
    columns = [column(photo, results) for photo in sorted((HERE.parents[1] / "examples").glob("*.jpg"))]
    width = sum(one.width for one in columns) + GAP * (len(columns) - 1)
    picture = Image.new("RGB", (width, max(one.height for one in columns)), "white")
    left = 0
    for one in columns:
        picture.paste(one, (left, 0))
        left += one.width + GAP
    picture.save(HERE / "demo.jpg", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
