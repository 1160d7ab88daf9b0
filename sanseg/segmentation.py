"""Segmentation: the result, what can be asked of it, and how it is shown and saved.

H W pixels of the picture as it came.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table
from rich.text import Text

from sanseg import draw
from sanseg import formats as _formats
from sanseg.extras import need
from sanseg.images import ImageSource, encode_png, read_image, write_bytes
from sanseg.queries import Queries, QueryMasks, Size
from sanseg.segments import Segment, find_segments
from sanseg.version import VERSION
from sanseg.vocabulary import Vocabulary, other_id

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from supervision import Detections

SHOWN_SIDE = 1024  # pixels, of the longer side of a picture in a notebook


@dataclass(frozen=True)
class Region:
    """All pixels of one label. share: of the picture, in (0, 1]. mean_confidence: in [0, 1]."""

    id: int
    label: str
    pixels: int
    share: float
    mean_confidence: float


def find_regions(pixels: NDArray[Any], confidence: NDArray[Any], names: Mapping[int, str]) -> list[Region]:
    """The labels that occur, the largest first; of equals, the lower id.

    pixels, confidence: for each id how many it has, and the sum of their confidence. names: of the ids.
    """
    largest_first = np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)].tolist()
    everything = int(pixels.sum())
    return [
        Region(id_, names[id_], n := int(pixels[id_]), n / everything, float(confidence[id_]) / n)
        for id_ in largest_first
    ]


def source(words: Vocabulary, model: str, templates: str) -> dict[str, str]:
    """As `Segmentation.source`."""
    return {"sanseg": VERSION, "model": model, "templates": templates, "vocabulary": words.hash}


def numbers(
    words: Vocabulary, model: str, templates: str, shape: tuple[int, int], regions: Iterable[Region]
) -> dict[str, Any]:
    """As `Segmentation.to_dict`. shape: height and width."""
    return {
        "sanseg": VERSION,
        "model": model,
        "width": shape[1],
        "height": shape[0],
        "regions": [
            {name: round(value, 6) if isinstance(value, float) else value for name, value in fields.items()}
            for fields in map(asdict, regions)
        ],
        "other": {
            "id": other_id(len(words.names)),
            "name": words.other_name,
            "colour": "#" + bytes(draw.OTHER_COLOUR).hex(),
            "words": list(words.other),
        },
        "labels": [
            {"id": id_, "label": names[0], "synonyms": list(names[1:])}
            for id_, names in enumerate(words.names)
        ],
        "templates": templates,
        "settings": words.settings(),
        "vocabulary": words.hash,
    }


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """What a picture shows, in the words that were asked.

    label_map: (H, W), ids: an index into `labels`, or `other_id`. uint8 for at most 254 labels, else uint16.
    confidence: float32 (H, W) in [0, 1], the winner's share of the score of all rows, distractors included.
    vocabulary: the words, with the distractors that competed.
    model: the name of the model. templates: the prompt set it was asked with.
    image: uint8 (H, W, 3), RGB, the picture; None where it was not kept.
    queries: what the queries say of it, for `proposals` and `scores`; None unless asked for.
    """

    label_map: draw.LabelMap
    confidence: NDArray[np.float32]
    vocabulary: Vocabulary
    model: str
    templates: str
    image: NDArray[np.uint8] | None = None
    queries: Queries | None = None

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
        return self.vocabulary.other_name

    @property
    def names(self) -> dict[int, str]:
        """What the ids of the label map mean: the labels in the order asked, then other."""
        return self.vocabulary.meanings

    def source(self) -> dict[str, str]:
        """Who made this, of which words; every file says it: sanseg (its version), model, templates, vocabulary."""
        return source(self.vocabulary, self.model, self.templates)

    @property
    def colours(self) -> NDArray[np.uint8]:
        """The colour of every id, RGB: the vocabulary's where it has one; see `draw.colour_table`."""
        return draw.colour_table(len(self.labels), self.vocabulary.colours)

    def regions(self) -> list[Region]:
        """The labels that occur, other among them, the largest first."""
        ids = self.label_map.ravel()
        pixels = np.bincount(ids, minlength=self.other_id + 1)
        assert len(pixels) == self.other_id + 1, f"the id {ids.max()} is no label's"
        confidence = np.bincount(ids, weights=self.confidence.ravel(), minlength=len(pixels))
        return find_regions(pixels, confidence, self.names)

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

    def segments(self, *, other: bool = True) -> list[Segment]:
        """The connected regions, the largest first: label, confidence, pixels, box, mask, polygon. See `Segment`.

        other: whether those of other are among them.
        Needs the extra `formats`: raises ValueError, saying so, where it is missing.
        """
        names = self.names if other else dict(enumerate(self.labels))
        return find_segments(self.label_map, self.confidence, names)

    def proposals(self, size: Size | None = None) -> QueryMasks:
        """The queries' own masks, embeddings and scores, before they became one label map. See `QueryMasks`.

        size: height and width of the masks; None is that of the mask grid, `label_map.shape` the picture's.
        Raises ValueError where the queries were not kept.
        """
        return self._kept().proposals(size)

    def scores(self, size: Size | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The score of every label and of other, (K + 1, h, w), and of all rows together, (h, w).

        At the size `label_map.shape` the label map is where they are largest, at the price of K x H x W numbers.
        Thresholds and temperature come after, and are not in them.
        size: as for `proposals`. Raises ValueError where the queries were not kept.
        """
        return self._kept().scores(size)

    def _kept(self) -> Queries:
        if self.queries is None:
            raise ValueError(
                "this result did not keep what the queries say: ask with proposals=True, as "
                "segmenter(image, words, proposals=True)"
            )
        return self.queries

    def to_supervision(self) -> Detections:
        """The segments, less those of other, as supervision.Detections: boxes, masks, confidence, class_id.

        class_id is the id in the label map, `data["class_name"]` the label. Masks are a CompactMask. Boxes include
        their last pixel, as supervision has it. Needs the extras `formats` and `supervision`.
        """
        supervision = need("supervision", "supervision", "to_supervision")
        segments = self.segments(other=False)
        if not segments:
            empty: Detections = supervision.Detections.empty()
            return empty
        boxes = np.array([segment.box for segment in segments], dtype=np.float32) - (0, 0, 1, 1)
        masks = [segment.coco_rle() for segment in segments]
        detections: Detections = supervision.Detections(
            xyxy=boxes.astype(np.float32),
            mask=supervision.CompactMask.from_coco_rle(masks, boxes, self.label_map.shape),
            confidence=np.array([segment.confidence for segment in segments], dtype=np.float32),
            class_id=np.array([segment.id for segment in segments]),
            data={"class_name": np.array([segment.label for segment in segments])},
            metadata=self.source(),
        )
        return detections

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
        height, width = self.label_map.shape
        return numbers(self.vocabulary, self.model, self.templates, (height, width), self.regions())

    def plot(self, ax: Axes | None = None, *, opacity: float = 0.5) -> Axes:
        """Drawn with matplotlib: the picture, its labels over it, and a legend at the right. For papers.

        ax: what to draw on; None is a new figure of pyplot's. opacity: of the colours, 0..1.
        Needs matplotlib, the extra `plot`: raises ValueError, saying so, where it is missing.
        """
        matplotlib = need("matplotlib", "plot", "plot()")
        patches = need("matplotlib.patches", "plot", "plot()")
        if ax is None:
            _, ax = need("matplotlib.pyplot", "plot", "plot()").subplots(layout="constrained")
        assert ax is not None
        ax.imshow(np.asarray(self._painted(opacity=opacity)), interpolation="nearest")
        ax.set_axis_off()
        table = self.colours / 255
        with matplotlib.rc_context({"text.parse_math": False}):  # a dollar in a label begins no formula
            # The share comes first: matplotlib leaves out what begins with an underscore.
            shown = [
                patches.Patch(
                    color=table[region.id].tolist(), label=f"{draw.percent(region.share)}  {region.label}"
                )
                for region in self.regions()[: draw.MAX_LEGEND]
            ]
            ax.legend(handles=shown, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        return ax

    def _painted(self, *, opacity: float = 0.5, side: int | None = None, legend: bool = False) -> Image.Image:
        """The overlay, its longer side at most so many pixels; colours alone where there is no picture."""
        image = self.image
        if image is None:
            image, opacity = np.full((*self.label_map.shape, 3), 255, dtype=np.uint8), 1.0
        label_map = self.label_map
        if side is not None:
            image, label_map = draw.shrink(image, label_map, side)
        return draw.overlay(
            image,
            label_map,
            self.labels,
            self.other_name,
            opacity=opacity,
            legend=legend,
            colours=self.vocabulary.colours,
        )

    def _repr_png_(self) -> bytes:
        """What a notebook shows where it shows no HTML."""
        return encode_png(self._painted(side=SHOWN_SIDE, legend=True))

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture painted, and a table of what occurs."""
        png = b64encode(encode_png(self._painted(side=SHOWN_SIDE))).decode("ascii")
        table = self.colours
        regions = self.regions()
        rows = [
            f'<tr><td><span style="background: rgb{tuple(table[region.id].tolist())}">&emsp;</span> '
            f"{escape(region.label)}</td><td>{draw.percent(region.share)}</td>"
            f"<td>{region.mean_confidence:.2f}</td></tr>"
            for region in regions[: draw.MAX_LEGEND]
        ]
        if len(regions) > len(rows):
            rows.append(f"<tr><td>and {len(regions) - len(rows)} more</td><td></td><td></td></tr>")
        height, width = self.label_map.shape
        return (
            f'<div><img alt="segmentation" style="max-width: 100%" src="data:image/png;base64,{png}">'
            "<table><tr><th>label</th><th>share</th><th>confidence</th></tr>"
            f"{''.join(rows)}</table><small>{width} x {height}, {escape(self.model)}, "
            f"vocabulary {self.vocabulary_hash[:12]}, sanseg {VERSION}</small></div>"
        )

    def save(
        self,
        path: str | PathLike[str],
        stem: str | None = None,
        formats: Iterable[str] = _formats.DEFAULT,
        *,
        picture: str | None = None,
        simplify: float = 0.0,
    ) -> dict[str, Path]:
        """Writes one file, `save("out.png")`, or a set of them into a folder, `save("out", "cat")`.

        One file: in the format that its name ends as, ".index.png", ".geojson"; .png alone is the overlay.
        A set: STEM with the ending of each format, in the folder `path`.

        formats: keys of `sanseg.formats.FORMATS`; docs/FORMATS.md has what each of them holds.
        picture: the name of the picture, for files that name it; None is STEM.jpg.
        simplify: how far polygons may stray from the borders of pixels, in pixels; 0 is exact.

        Files are whole or absent, folders made where missing, and the same result gives the same bytes. A folder of
        masks loses those that earlier words left in it. Returns the paths written, by format.

        Raises ValueError for an unknown format or ending, a stem that is no file name, what a format lacks here (a
        picture, queries, an extra), and formats beside the name of one file; OSError where the disk refuses.
        """
        chosen = _formats.check(formats)
        if stem is None:
            if chosen != _formats.DEFAULT:
                raise ValueError(
                    f"{path} is one file, in the format of its ending: for several give a folder and a stem, as "
                    "save(folder, stem, formats)"
                )
            name, stem = _formats.of_ending(Path(path))
            paths = {name: Path(path)}
        else:
            if not stem or Path(stem).name != stem:
                raise ValueError(f"{stem!r} is no file name: give one without folders, as 'cat'")
            paths = {name: Path(path) / (stem + _formats.FORMATS[name].ending) for name in chosen}
        named = f"{stem}.jpg" if picture is None else picture
        # The bytes of a name may be no UTF-8, which files are.
        options = _formats.Options(named.encode(errors="replace").decode(), simplify)
        for name, file in paths.items():
            content = _formats.FORMATS[name].make(self, options)
            if isinstance(content, bytes):
                write_bytes(file, content)
            else:
                _write_masks(file, content)
        return paths

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        shown = ", ".join(f"{region.label} {draw.percent(region.share)}" for region in self.regions()[:5])
        return f"Segmentation({width}x{height}, {len(self.labels)} labels, {self.model}: {shown})"


def _write_masks(folder: Path, files: Mapping[str, bytes]) -> None:
    """Each file whole; masks that are there and not among them go."""
    for name, content in files.items():
        write_bytes(folder / name, content)
    for there in folder.glob("[0-9]*-*.png"):
        if there.name not in files and "." not in there.stem:  # 0-sky.index.png is no mask of ours
            there.unlink()
