"""What a finished run becomes: TIFFs, polygons, a small painted picture, the numbers.

H W pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sanseg import draw, geo
from sanseg.images import write_json, write_png
from sanseg.large.part import Part
from sanseg.segmentation import Region
from sanseg.version import VERSION
from sanseg.vocabulary import Vocabulary, other_id
from sanseg.windows import ArrayReader, WindowReader

OVERVIEW = 2048  # pixels, the longer side of the overlay
ENDINGS = {  # of the files' names, by kind
    "index": ".index.tif",
    "confidence": ".confidence.tif",
    "geojson": ".geojson",
    "overlay": ".overlay.png",
    "json": ".json",
}


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
        part, where = self.part, self.where
        tags = {"SANSEG": VERSION, "MODEL": self.model, "VOCABULARY": self.words.hash}
        if kind == "index":
            labels, other = self.words.labels, self.names[self._other_id]
            stripes = part.stripes("labels", geo.BLOCK)
            geo.write_index(file, stripes, part.shape, labels, other, where, tags, self.words.colours)
        elif kind == "confidence":
            geo.write_confidence(file, part.stripes("confidence", geo.BLOCK), part.shape, where, tags)
        elif kind == "geojson":
            geo.write_geojson(file, part.stripes("labels", geo.POLYGON_BLOCK), self.names, where)
        elif kind == "overlay":
            write_png(file, self.overlay())
        else:
            write_json(file, self.to_dict())

    @property
    def _other_id(self) -> int:
        return other_id(len(self.words.names))

    @cached_property
    def names(self) -> dict[int, str]:
        """Of all ids that name something; "other" in as many brackets as it takes to be no label's name."""
        other = "other"
        while any(other in names for names in self.words.names):
            other = f"({other})"
        return {**dict(enumerate(self.words.labels)), self._other_id: other}

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels, as `Segmentation.to_dict`, and what windows and maps add to it."""
        regions, unknown = self.regions()
        words, crs = self.words, self.where.crs
        return {
            "sanseg": VERSION,
            "model": self.model,
            "width": self.part.shape[1],
            "height": self.part.shape[0],
            "regions": [
                {
                    name: round(value, 6) if isinstance(value, float) else value
                    for name, value in fields.items()
                }
                for fields in map(asdict, regions)
            ],
            "unknown": {"id": self.part.unknown, "pixels": unknown},
            "other": {
                "id": self._other_id,
                "name": self.names[self._other_id],
                "colour": "#" + bytes(draw.OTHER_COLOUR).hex(),
                "words": list(words.other),
            },
            "labels": [
                {"id": id_, "label": names[0], "synonyms": list(names[1:])}
                for id_, names in enumerate(words.names)
            ],
            "templates": self.templates,
            "settings": words.settings(),
            "vocabulary": words.hash,
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
        return draw.overlay(
            image, ids, self.words.labels, self.names[self._other_id], colours=self.words.colours
        )

    def regions(self) -> tuple[list[Region], int]:
        """The labels that occur, the largest first, as `Segmentation.regions`; and how many pixels are unknown.

        A share is of the pixels that are known.
        """
        part, names = self.part, self.names
        pixels = np.zeros(part.unknown + 1, dtype=np.int64)
        steps = np.zeros(part.unknown + 1)
        both = zip(part.stripes("labels", geo.BLOCK), part.stripes("confidence", geo.BLOCK), strict=True)
        for (_, ids), (_, confidence) in both:
            pixels += np.bincount(ids.ravel(), minlength=len(pixels))
            steps += np.bincount(ids.ravel(), weights=confidence.ravel(), minlength=len(pixels))
        unknown = int(pixels[-1])
        known = max(1, int(pixels.sum()) - unknown)
        pixels[-1] = 0
        order = np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)].tolist()
        return [
            Region(
                id_,
                names[id_],
                n := int(pixels[id_]),
                n / known,
                float(steps[id_]) / geo.CONFIDENCE_STEPS / n,
            )
            for id_ in order
        ], unknown
