"""What a finished run becomes: TIFFs, polygons, a small painted picture, the numbers.

H W pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sanseg import draw, geo
from sanseg.formats.pictures import text_chunks
from sanseg.images import encode_png, write_bytes, write_json
from sanseg.large import files
from sanseg.large.part import Part
from sanseg.segmentation import Region, find_regions, numbers, source
from sanseg.vocabulary import Vocabulary
from sanseg.windows import ArrayReader, WindowReader

OVERVIEW = 2048  # pixels, the longer side of the overlay
ENDINGS = {  # of the files' names, by kind
    "index": ".index.tif",
    "confidence": ".confidence.tif",
    "geojson": ".geojson",
    "overlay": ".overlay.png",
    "json": ".json",
}
ALWAYS = ("index", "confidence")  # of these


@dataclass(frozen=True)
class Results:
    """part: its rows are all done. reader: the picture. where: it lies on the map. model, templates: their names.

    read_as: how the picture was read, as the numbers tell it.
    """

    part: Part
    words: Vocabulary
    model: str
    templates: str
    reader: WindowReader
    where: geo.Georeference
    read_as: dict[str, Any]

    def write(self, out: Path, stem: str, kinds: Collection[str]) -> dict[str, Path]:
        """Makes the files of these kinds in the folder of the run, then renames them to STEM.* in `out`.

        Files of other kinds that an earlier run left there are removed. Returns what was written, by kind.
        """
        made = {kind: self.part.folder / f"result{ENDINGS[kind]}" for kind in ENDINGS if kind in kinds}
        for kind, file in made.items():
            self._make(kind, file)
        for kind, ending in ENDINGS.items():
            if kind not in made:
                (out / f"{stem}{ending}").unlink(missing_ok=True)
        return {kind: file.replace(out / f"{stem}{ENDINGS[kind]}") for kind, file in made.items()}

    def _make(self, kind: str, file: Path) -> None:
        part, where, words = self.part, self.where, self.words
        made_by = source(words, self.model, self.templates)
        tags = {name.upper(): value for name, value in made_by.items()}
        if kind == "index":
            stripes = part.stripes("labels", files.BLOCK)
            files.write_index(
                file, stripes, part.shape, words.labels, words.other_name, where, tags, words.colours
            )
        elif kind == "confidence":
            files.write_confidence(file, part.stripes("confidence", files.BLOCK), part.shape, where, tags)
        elif kind == "geojson":
            files.write_geojson(file, self._both(files.POLYGON_BLOCK), words.meanings, where, made_by)
        elif kind == "overlay":
            write_bytes(file, encode_png(self.overlay(), text=text_chunks(made_by, words.meanings)))
        else:
            write_json(file, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels, as `Segmentation.to_dict`, and what windows and maps add to it."""
        regions, unknown = self.regions()
        crs = self.where.crs
        return {
            **numbers(self.words, self.model, self.templates, self.part.shape, regions),
            "unknown": {"id": self.part.unknown, "pixels": unknown},
            "windows": self.read_as,
            "crs": crs.to_string() if crs else None,
            "transform": list(self.where.transform)[:6] if crs else None,
        }

    def overlay(self) -> Image.Image:
        """The whole picture painted, small: every n-th pixel."""
        part, reader = self.part, self.reader
        height, width = part.shape
        if isinstance(reader, geo.Raster):
            image, _ = reader.overview(OVERVIEW)
            h, w = image.shape[:2]
        else:
            scale = min(1.0, OVERVIEW / max(height, width))
            h, w = max(1, round(height * scale)), max(1, round(width * scale))
        rows, columns = (
            ((np.arange(small) + 0.5) * side / small).astype(np.intp)
            for small, side in ((h, height), (w, width))
        )
        if isinstance(reader, ArrayReader):
            image = reader.image[np.ix_(rows, columns)]
        ids = part.labels_at(rows.tolist(), columns)
        words = self.words
        return draw.overlay(image, ids, words.labels, words.other_name, colours=words.colours)

    def regions(self) -> tuple[list[Region], int]:
        """The labels that occur, the largest first, as `Segmentation.regions`; and how many pixels are unknown.

        A share is of the pixels that are known.
        """
        part = self.part
        pixels = np.zeros(part.unknown + 1, dtype=np.int64)
        steps = np.zeros(part.unknown + 1)
        for _, ids, confidence in self._both(files.BLOCK):
            pixels += np.bincount(ids.ravel(), minlength=len(pixels))
            steps += np.bincount(ids.ravel(), weights=confidence.ravel(), minlength=len(pixels))
        unknown = int(pixels[part.unknown])
        pixels[part.unknown] = 0
        return find_regions(pixels, steps / files.CONFIDENCE_STEPS, self.words.meanings), unknown

    def _both(self, high: int) -> Iterator[tuple[slice, draw.LabelMap, NDArray[np.uint16]]]:
        """Label map and confidence from top to bottom, so many rows at a time."""
        pairs = zip(*(self.part.stripes(name, high) for name in ("labels", "confidence")), strict=True)
        for (rows, ids), (_, confidence) in pairs:
            yield rows, ids, confidence
