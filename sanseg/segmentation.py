"""Segmentation: the result, what can be asked of it, and all that is saved from it.

H W pixels of the picture as it came.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table
from rich.text import Text

from sanseg import draw
from sanseg.images import ImageSource, read_image, write_json, write_png
from sanseg.version import VERSION
from sanseg.vocabulary import Vocabulary, other_id

if TYPE_CHECKING:
    from sanseg.model.san import Proposals

# What `Segmentation.save` writes into a file whose name ends so; the first that fits.
ENDINGS = {"index": ".index.png", "json": ".json", "overlay": ".png"}


@dataclass(frozen=True)
class Region:
    """All pixels of one label. share: of the picture, in (0, 1]. mean_confidence: in [0, 1]."""

    id: int
    label: str
    pixels: int
    share: float
    mean_confidence: float


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """What a picture shows, in the words that were asked.

    label_map: (H, W), ids: an index into `labels`, or `other_id`. uint8 for at most 254 labels, else uint16.
    confidence: float32 (H, W) in [0, 1], the winner's share of the score of all rows, distractors included.
    vocabulary: the words, with the distractors that competed.
    model: the name of the model. templates: the prompt set it was asked with.
    image: uint8 (H, W, 3), RGB, the picture; None where it was not kept.
    proposals: the masks and embeddings of all queries, of a batch of one; None unless asked for.
    """

    label_map: draw.LabelMap
    confidence: NDArray[np.float32]
    vocabulary: Vocabulary
    model: str
    templates: str
    image: NDArray[np.uint8] | None = None
    proposals: Proposals | None = None

    def __post_init__(self) -> None:
        assert self.label_map.ndim == 2, self.label_map.shape
        assert self.label_map.dtype == (np.uint8 if self.other_id == 254 else np.uint16), self.label_map.dtype
        assert self.confidence.shape == self.label_map.shape, (self.confidence.shape, self.label_map.shape)
        assert self.image is None or self.image.shape == (*self.label_map.shape, 3), self.image.shape

    @property
    def labels(self) -> tuple[str, ...]:
        """The first name of each label, in the order asked: what ids are indices into."""
        return self.vocabulary.labels

    @property
    def vocabulary_hash(self) -> str:
        """SHA-256 of the vocabulary, 64 hexadecimal digits."""
        return self.vocabulary.hash

    @property
    def other_id(self) -> int:
        """The id of what is none of the labels: 254 for at most 254 labels, else 65534."""
        return other_id(len(self.vocabulary.names))

    @property
    def other_name(self) -> str:
        """What that id is called: "other", in as many brackets as it takes to be no label's name."""
        name = "other"
        while any(name in names for names in self.vocabulary.names):
            name = f"({name})"
        return name

    def regions(self) -> list[Region]:
        """The labels that occur, other among them, the largest first."""
        # One name for each id, the ids between the last label and other have none.
        labels = (*self.labels, *[""] * (self.other_id - len(self.labels)), self.other_name)
        ids = self.label_map.ravel()
        pixels = np.bincount(ids, minlength=len(labels))
        assert len(pixels) == len(labels), f"the id {ids.max()} is no label's"
        confidence = np.bincount(ids, weights=self.confidence.ravel(), minlength=len(labels))
        largest_first = np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)].tolist()
        return [
            Region(id_, labels[id_], n := int(pixels[id_]), n / len(ids), float(confidence[id_]) / n)
            for id_ in largest_first
        ]

    def areas(self) -> dict[str, float]:
        """The share of the picture of every label, in the order asked, and of other: 0 where it is not."""
        return dict.fromkeys((*self.labels, self.other_name), 0.0) | {
            region.label: region.share for region in self.regions()
        }

    def mean_confidence(self) -> dict[str, float]:
        """The mean confidence over the pixels of each label that occurs, other among them."""
        return {region.label: region.mean_confidence for region in self.regions()}

    def mask(self, label: str) -> NDArray[np.bool_]:
        """Where a label is: bool (H, W). label: any of its names, or `other_name`.

        Raises ValueError for a name that was not asked for.
        """
        ids = {name: id_ for id_, names in enumerate(self.vocabulary.names) for name in names}
        ids[self.other_name] = self.other_id
        if label not in ids:
            asked = ", ".join(self.labels[:10]) + (", ..." if len(self.labels) > 10 else "")
            raise ValueError(f"{label!r} was not asked for: choose from {asked}, or {self.other_name}")
        return np.equal(self.label_map, ids[label])

    def overlay(
        self, image: ImageSource | None = None, *, opacity: float = 0.5, legend: bool = True
    ) -> Image.Image:
        """The picture painted with its labels, and a legend below; see `draw.overlay`. RGB.

        image: the picture, where this result does not hold it.
        Raises ValueError where there is no picture, or one of another size.
        """
        picture = self.image if image is None else read_image(image)
        if picture is None:
            raise ValueError("this result holds no picture: pass it, as overlay(image)")
        return draw.overlay(
            picture,
            self.label_map,
            self.labels,
            self.other_name,
            opacity=opacity,
            legend=legend,
            colours=self.vocabulary.colours,
        )

    def table(self) -> Table:
        """The labels that occur, their share of the picture and mean confidence, the largest first."""
        table = Table("label")
        table.add_column("share of the picture", justify="right")
        table.add_column("mean confidence", justify="right")
        for region in self.regions():
            # Text: a label is no markup, even if it is called "[red]".
            table.add_row(Text(region.label), draw.percent(region.share), f"{region.mean_confidence:.2f}")
        return table

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels, as `save` writes it: plain values, numbers to six decimals."""
        labels = [
            {"id": id_, "label": names[0], "synonyms": list(names[1:])}
            for id_, names in enumerate(self.vocabulary.names)
        ]
        regions = [
            {name: round(value, 6) if isinstance(value, float) else value for name, value in fields.items()}
            for fields in map(asdict, self.regions())
        ]
        height, width = self.label_map.shape
        return {
            "sanseg": VERSION,
            "model": self.model,
            "width": width,
            "height": height,
            "regions": regions,
            "other": {
                "id": self.other_id,
                "name": self.other_name,
                "colour": "#" + bytes(draw.OTHER_COLOUR).hex(),
                "words": list(self.vocabulary.other),
            },
            "labels": labels,
            "templates": self.templates,
            "settings": self.vocabulary.settings(),
            "vocabulary": self.vocabulary_hash,
        }

    def save(
        self,
        path: str | PathLike[str],
        stem: str | None = None,
        *,
        overlay: bool = True,
        index: bool = True,
        json: bool = True,
    ) -> dict[str, Path]:
        """Writes one file, `save("out.png")`, or a set of them into a folder, `save("out", "cat")`.

        One file: .png is the overlay, .index.png the label map, .json the numbers (`to_dict`).
        A set: STEM.overlay.png, STEM.index.png and STEM.json in the folder `path`, less those set to False.

        The index PNG holds the ids: 8 bits, the overlay's colours as its palette; for more than 254 labels
        16 bits, without colours. Files are whole or absent, folders made where missing, and the same result
        gives the same bytes. Returns the paths written, by kind: "overlay", "index", "json".

        Raises ValueError for another ending, a stem that is no file name, or an overlay where this holds no
        picture; OSError where the disk refuses.
        """
        if stem is None:
            name = Path(path).name.lower()
            kind = next((kind for kind, ending in ENDINGS.items() if name.endswith(ending)), None)
            if kind is None:
                raise ValueError(
                    f"{path} ends in none of .png, .index.png and .json: choose one, or give a folder and a "
                    "stem, as save(folder, stem)"
                )
            paths = {kind: Path(path)}
        else:
            if not stem or Path(stem).name != stem:
                raise ValueError(f"{stem!r} is no file name: give one without folders, as 'cat'")
            wanted = {"overlay": overlay, "index": index, "json": json}
            paths = {
                kind: Path(path) / f"{stem}{'.overlay' * (kind == 'overlay')}{ENDINGS[kind]}"
                for kind in wanted
                if wanted[kind]
            }
        for kind, file in paths.items():
            self._write(kind, file)
        return paths

    def _write(self, kind: str, path: Path) -> None:
        if kind == "json":
            write_json(path, self.to_dict())
        elif kind == "overlay":
            write_png(path, self.overlay())
        elif self.other_id == 254:
            write_png(path, self.label_map, draw.colour_table(len(self.labels), self.vocabulary.colours))
        else:
            write_png(path, self.label_map)

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        shown = ", ".join(f"{region.label} {draw.percent(region.share)}" for region in self.regions()[:5])
        return f"Segmentation({width}x{height}, {len(self.labels)} labels, {self.model}: {shown})"
