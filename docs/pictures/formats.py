"""The picture of docs/FORMATS.md: one photo in every format, each file opened again by a library that its users use.

    python -m docs.pictures.formats [PHOTO [WORDS]]

From the root of the repository. Needs the extra `test`, and `pip install --no-deps label-studio-sdk` for Label
Studio's own decoder. Stops where a file that should be exact differs from the label map in one pixel.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

import sanseg
from sanseg.draw import colour_table, contact_sheet
from sanseg.formats import FORMATS
from sanseg.images import read_image, write_png
from sanseg.segmentation import Segmentation
from tests.formats import brush

HERE = Path(__file__).parent
SIMPLIFY = 3.0  # pixels, of the outlines that are drawn
SIDE = 320  # pixels, of a tile

Tile = tuple[np.ndarray, str]


class Gallery:
    """The tiles, each made by what opens the file."""

    def __init__(self, seg: Segmentation, folder: Path) -> None:
        assert seg.image is not None
        self.seg, self.photo, self.shape = seg, seg.image, seg.label_map.shape
        self.table = colour_table(len(seg.labels))
        self.ids = {label: id_ for id_, label in seg.names.items()}
        write_png(folder / "images" / "photo.png", self.photo)
        self.exact = seg.save(folder / "exact", "photo", FORMATS, picture="photo.png")
        self.rough = seg.save(folder / "rough", "photo", FORMATS, picture="photo.png", simplify=SIMPLIFY)
        self.folder = folder

    def painted(self, masks: Iterator[tuple[np.ndarray, int]]) -> np.ndarray:
        """Masks with their ids, which must give the label map, over the photo."""
        label_map = np.full(self.shape, self.seg.other_id, self.seg.label_map.dtype)
        for mask, id_ in masks:
            label_map[mask] = id_
        np.testing.assert_array_equal(label_map, self.seg.label_map)
        blended = Image.blend(Image.fromarray(self.photo), Image.fromarray(self.table[label_map]), 0.55)
        return np.asarray(blended)

    def outlined(self, rings: Iterator[tuple[list[tuple[float, float]], int]]) -> np.ndarray:
        """Polygons over the faded photo, three times as large so that lines are fine."""
        times = 3
        faded = Image.blend(Image.fromarray(self.photo), Image.new("RGB", self.shape[::-1], "white"), 0.5)
        large = faded.resize((times * faded.width, times * faded.height))
        draw = ImageDraw.Draw(large)
        for ring, id_ in rings:
            corners = [(times * x, times * y) for x, y in [*ring, ring[0]]]
            draw.line(corners, fill=tuple(self.table[id_].tolist()), width=2 * times + 2)
            for x, y in corners:
                draw.rectangle((x - 4, y - 4, x + 4, y + 4), fill="black")
        return np.asarray(large.resize(faded.size, Image.Resampling.LANCZOS))

    def overlay(self) -> np.ndarray:
        return read_image(self.exact["overlay"])

    def index(self) -> np.ndarray:
        import rasterio

        with rasterio.open(self.exact["index"]) as opened:
            ids, colours = opened.read(1), opened.colormap(1)
        np.testing.assert_array_equal(ids, self.seg.label_map)
        return np.array([colours[number][:3] for number in range(256)], np.uint8)[ids]

    def masks(self) -> np.ndarray:
        files = sorted(self.exact["masks"].iterdir())[:4]
        return np.asarray(
            contact_sheet([(read_image(file), file.name) for file in files], columns=2, side=240)
        )

    def json(self) -> np.ndarray:
        text = self.exact["json"].read_text(encoding="utf-8")
        assert json.loads(text)["vocabulary"] == self.seg.vocabulary_hash
        return page(text.splitlines()[:24])

    def csv(self) -> np.ndarray:
        with self.exact["csv"].open(encoding="utf-8", newline="") as file:
            rows = [*csv.DictReader(file)]
        figure, axes = chart()
        colours = self.table[[int(row["id"]) for row in rows]] / 255
        axes.barh([row["label"] for row in rows], [100 * float(row["share"]) for row in rows], color=colours)
        axes.invert_yaxis()
        axes.set_xlabel("% of the picture")
        return drawn(figure)

    def confidence(self) -> np.ndarray:
        with np.load(self.exact["confidence"]) as arrays:
            return (255 * colormaps["viridis"](arrays["confidence"].astype(float))[..., :3]).astype(np.uint8)

    def scores(self) -> np.ndarray:
        with np.load(self.exact["scores"]) as arrays:
            share = arrays["scores"].astype(float) / arrays["total"].astype(float)
            tiles = [
                ((255 * colormaps["magma"](one)[..., :3]).astype(np.uint8), str(label))
                for one, label in zip(share[:4], arrays["labels"], strict=False)
            ]
        return np.asarray(contact_sheet(tiles, columns=2, side=240))

    def coco_rle(self) -> np.ndarray:
        coco = self._coco(self.exact["coco-rle"])
        return self.painted((coco.annToMask(one) > 0, one["category_id"] - 1) for one in coco.anns.values())

    def coco_polygons(self) -> np.ndarray:
        coco = self._coco(self.exact["coco-polygons"])
        self.painted((coco.annToMask(one) > 0, one["category_id"] - 1) for one in coco.anns.values())
        coco = self._coco(self.rough["coco-polygons"])
        return self.outlined(
            (np.reshape(ring, (-1, 2)).tolist(), one["category_id"] - 1)
            for one in coco.anns.values()
            for ring in one["segmentation"]
        )

    @staticmethod
    def _coco(path: Path) -> object:
        from pycocotools.coco import COCO

        return COCO(path)

    def yolo(self) -> np.ndarray:
        import supervision

        (self.folder / "data.yaml").write_text(json.dumps({"names": [*self.seg.labels]}), encoding="utf-8")
        read = supervision.DetectionDataset.from_yolo(
            str(self.folder / "images"), str(self.folder / "rough"), str(self.folder / "data.yaml"), True
        )
        ((_, image, found),) = [*read]
        annotator = supervision.MaskAnnotator(self._supervision_colours(), 0.6)
        return np.asarray(annotator.annotate(image.copy(), found))[..., ::-1]

    def _supervision_colours(self) -> object:
        import supervision

        return supervision.ColorPalette(
            [supervision.Color(*colour) for colour in self.table[: len(self.seg.labels)].tolist()]
        )

    def labelme(self) -> np.ndarray:
        from labelme._label_file import LabelFile

        read = LabelFile(str(self.rough["labelme"]))
        np.testing.assert_array_equal(read_image(read.image_data), self.photo)
        return self.outlined((one["points"], self.ids[one["label"]]) for one in read.shapes)

    def label_studio(self) -> np.ndarray:
        decode = brush.sdk()
        if decode is None:
            sys.exit("Label Studio's own decoder is not here: pip install --no-deps label-studio-sdk")
        (task,) = json.loads(self.exact["label-studio"].read_text(encoding="utf-8"))
        values = [stroke["value"] for stroke in task["predictions"][0]["result"]]
        return self.painted(
            (
                decode(value["rle"]).reshape(*self.shape, 4)[..., 3] > 0,
                self.ids[value["brushlabels"][0]],
            )
            for value in values
        )

    def cvat(self) -> np.ndarray:
        def masks() -> Iterator[tuple[np.ndarray, int]]:
            for one in ElementTree.parse(self.exact["cvat"]).iter("mask"):
                left, top, width, height = (
                    int(one.attrib[name]) for name in ("left", "top", "width", "height")
                )
                runs = [int(number) for number in one.attrib["rle"].split(",")]
                mask = np.zeros(self.shape, bool)
                box = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
                mask[top : top + height, left : left + width] = box
                yield mask, self.ids[one.attrib["label"]]

        return self.painted(masks())

    def geojson(self) -> np.ndarray:
        import shapely
        from rasterio import features

        def collection(path: Path) -> list[dict]:
            return list(json.loads(path.read_text(encoding="utf-8"))["features"])

        pairs = [(one["geometry"], one["properties"]["id"]) for one in collection(self.exact["geojson"])]
        np.testing.assert_array_equal(features.rasterize(pairs, self.shape), self.seg.label_map)
        outlines = [
            (shapely.from_geojson(json.dumps(one["geometry"])), one["properties"]["id"])
            for one in collection(self.rough["geojson"])
        ]
        return self.outlined(
            ([*ring.coords], id_)
            for outline, id_ in outlines
            for ring in (outline.exterior, *outline.interiors)
        )

    def supervision(self) -> np.ndarray:
        import supervision

        found = self.seg.to_supervision()
        found = found[found.area > 0.002 * self.seg.label_map.size]
        image = Image.fromarray(self.photo)
        for annotator in (
            supervision.BoxAnnotator(self._supervision_colours(), 4),
            supervision.RichLabelAnnotator(self._supervision_colours(), font_size=20),
        ):
            names = (
                {"labels": found.data["class_name"].tolist()} if "Label" in type(annotator).__name__ else {}
            )
            image = annotator.annotate(image, found, **names)
        return np.asarray(image)

    def plot(self) -> np.ndarray:
        figure, axes = chart()
        self.seg.plot(axes)
        return drawn(figure)

    def proposals(self) -> np.ndarray:
        proposals = self.seg.proposals(self.shape)
        best = proposals.scores.max(axis=1).argsort()[::-1][:4]
        names = [*self.seg.labels, self.seg.other_name]
        tiles = [
            (
                (self.photo * proposals.masks[query, ..., None]).astype(np.uint8),
                f"{names[proposals.scores[query].argmax()]} {proposals.scores[query].max():.2f}",
            )
            for query in best
        ]
        return np.asarray(contact_sheet(tiles, columns=2, side=240))


OPENED_BY = {
    "overlay": "Pillow",
    "index": "rasterio",
    "masks": "Pillow",
    "json": "json",
    "csv": "csv",
    "confidence": "numpy",
    "scores": "numpy",
    "coco-rle": "pycocotools",
    "coco-polygons": "pycocotools",
    "yolo": "supervision",
    "labelme": "labelme",
    "label-studio": "its SDK",
    "cvat": "ElementTree",
    "geojson": "shapely",
}


def chart() -> tuple[Figure, object]:
    figure = Figure(figsize=(4.8, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def drawn(figure: Figure) -> np.ndarray:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return read_image(data.getvalue())


def page(lines: list[str]) -> np.ndarray:
    sheet = Image.new("RGB", (480, 18 * len(lines) + 12), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, line in enumerate(lines):
        draw.text((8, 6 + 18 * number), line, fill="black", font=font)
    return np.asarray(sheet)


def main(photo: str = "examples/astronaut.jpg", words: str = "person, helmet") -> None:
    warnings.filterwarnings("ignore", message="OpenCV|Dataset has no geotransform")
    seg = sanseg.load("mini", "cpu")(photo, words, proposals=True)
    with TemporaryDirectory(prefix="sanseg-formats-") as folder:
        gallery = Gallery(seg, Path(folder))
        tiles: list[Tile] = [(gallery.photo, "the photo")]
        for name in FORMATS:
            make: Callable[[], np.ndarray] = getattr(gallery, name.replace("-", "_"))
            tiles.append((make(), f"{name}, by {OPENED_BY[name]}"))
        tiles += [(gallery.supervision(), "to_supervision()"), (gallery.plot(), "plot()")]
        tiles.append((gallery.proposals(), "proposals()"))
    sheet = contact_sheet(tiles, columns=6, side=SIDE)
    sheet.quantize(256, dither=Image.Dither.NONE).save(HERE / "formats.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
