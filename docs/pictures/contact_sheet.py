"""The model card's picture: public-domain photos that `mini` has never seen, each asked words of its own.

    python docs/pictures/contact_sheet.py PHOTOS [MODEL [SHEET.jpg]]

PHOTOS: a folder with the files that public_domain.tsv names; what each is asked and where it comes from stands there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import sanseg
from sanseg.draw import contact_sheet

HERE = Path(__file__).parent


def main(photos: Path, model: str = "mini", sheet: str = str(HERE / "public_domain.jpg")) -> None:
    segmenter = sanseg.load(model)
    tiles = []
    for line in (HERE / "public_domain.tsv").read_text(encoding="utf-8").splitlines():
        file, words, _ = line.split("\t")
        seen = segmenter(photos / file, words, None)
        assert seen.image is not None
        tiles += [(seen.image, file), (np.asarray(seen.overlay()), words)]
    contact_sheet(tiles, columns=6, side=300).save(sheet, quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
