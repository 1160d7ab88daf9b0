"""What the box is judged by, in percent.

    python recipes/mini/measure.py --data DATA --model mini --json FILE --withheld-model FILE

- The `val` split of each set with its own labels: mIoU over the classes present, and the mean over the sets.
- Synonyms: each label that has one in synonyms.txt is replaced by it, a word that no list of labels in training
  holds. Share of the pixels that keep their label, of those whose label, in the first answer, has a synonym;
  all pixels of a picture count, whatever its mask says.
- Large vocabulary: `val` asked all names of all sets at once. An answer that the set lacks is wrong.
- Pictures: the CLIP alone, Caltech's 101 names, on the photos that `photos.held_out` keeps from training.
- With a model trained with names withheld (withheld.py): what it makes of them, and what the others lose
  (open_vocabulary.py).
- Seconds for a 640x480 photo, and the size of the checkpoint.

Each picture of `val` is encoded once and asked all vocabularies, without distractors.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from open_vocabulary import Both, compare
from photos import CALTECH, Photo, held_out, read_photos
from PIL import Image
from questions import Figures, Tick, ask, kept_by_pair
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from vocabularies import read_pairs, united

import sanseg
from sanseg.data.datasets import SegmentationSet
from sanseg.images import prepare, read_image, write_json
from sanseg.model.weights import NAMED
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary

SETS = ("msrc", "voc", "facade", "camvid", "coco_panoptic", "clothing")
EXAMPLE = Path(__file__).parents[2] / "examples" / "cat.jpg"
WORDS = "cat, sofa, blanket, wall, plant"

# Columns of the table: a figure of `Figures`, and what it is called.
SHOWN = {
    "miou": "mIoU",
    "pixel_accuracy": "right",
    "synonyms_kept": "synonyms",
    "large_miou": "large mIoU",
    "large_pixel_accuracy": "large right",
    "large_outside": "outside",
}


@torch.inference_mode()
def name_photos(
    segmenter: Segmenter, photos: Sequence[Photo], tick: Tick, limit: int | None = None
) -> dict[str, float]:
    """How often the right one of Caltech's names is the CLIP's first, and among its first five, in percent."""
    san, names = segmenter.san, list(dict.fromkeys(one.name for one in photos if one.source == CALTECH))
    rows_KE = segmenter.classifier(Vocabulary.of(names)).weight[:-1]  # the last is "nothing"
    ranks = []
    for photo in held_out(photos)[:limit]:
        picture, _ = prepare(read_image(photo.file), san.config)
        picture_13HW = picture[None].to(segmenter.device)
        embedding_E = san.clip.visual(san.clip_image(picture_13HW))[0].float()
        order = (rows_KE @ embedding_E).argsort(descending=True).tolist()
        ranks.append(order.index(names.index(photo.name)))
        tick(1)
    return {f"top-{n}": 100 * statistics.fmean(rank < n for rank in ranks) for n in (1, 5)}


def seconds(segmenter: Segmenter, runs: int = 10) -> float:
    """From the bytes of a 640x480 JPEG to the label map of five labels, as a user asks: median, warm."""
    file = io.BytesIO()
    with Image.open(EXAMPLE) as photo:
        photo.resize((640, 480)).save(file, "JPEG")
    times = []
    for _ in range(1 + runs):
        started = time.perf_counter()
        segmenter(file.getvalue(), WORDS)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def megabytes(model: str) -> float | None:
    """Of the checkpoint; None for a model that is downloaded."""
    file = NAMED.get(model, Path(model))
    return file.stat().st_size / 1e6 if isinstance(file, Path) else None


def show(console: Console, sets: Mapping[str, Figures], once: Mapping[str, float | None]) -> None:
    """sets: by name, their mean among them. once: what is not measured of each set."""
    table = Table()
    table.add_column("val, percent", no_wrap=True)
    for heading in SHOWN.values():
        table.add_column(heading, justify="right")
    for name, one in sets.items():
        table.add_row(name, *(number(getattr(one, figure)) for figure in SHOWN))
    console.print(table)
    rest = Table("of all")
    rest.add_column("", justify="right")
    for called, value in once.items():
        rest.add_row(called, number(value))
    console.print(rest)


def show_names(console: Console, names: Mapping[str, Both]) -> None:
    table = Table("IoU in percent")
    for heading in ("shipped", "names withheld", "ratio"):
        table.add_column(heading, justify="right")
    for name, both in names.items():
        table.add_row(name, number(both.shipped), number(both.withheld), number(both.ratio))
    console.print(table)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini", help="by name or path, as everywhere")
    parser.add_argument("--withheld-model", help="another, trained with names withheld")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--limit", type=int, help="only so many pictures of each set, to try it")
    options = parser.parse_args()
    console, limit, pairs = Console(), options.limit, read_pairs()
    segmenter, photos = sanseg.load(options.model), read_photos(options.data / "photos")
    sets = [SegmentationSet.open(path.parent) for path in sorted(options.data.glob("*/dataset.json"))]
    vals = [SegmentationSet.open(options.data / name, "val") for name in SETS]
    large = united(one.vocabulary for one in sets)
    with Progress(console=console) as progress:

        def bar(what: str, sets: Iterable[Sized]) -> Tick:
            total = sum(len(range(len(one))[:limit]) for one in sets)
            return partial(progress.advance, progress.add_task(what, total=total))

        asked = [ask(segmenter, val, pairs, large, bar(val.name, [val]), limit) for val in vals]
        named = name_photos(segmenter, photos, bar("photos", [held_out(photos)]), limit)
        names = {}
        if options.withheld_model:
            withheld = sanseg.load(options.withheld_model)
            names = compare(segmenter, withheld, sets, vals, asked, bar, limit)
    figures = dict(zip(SETS, map(Figures.of, asked), strict=True))
    mean = Figures.mean(figures.values())
    kept = kept_by_pair(asked, pairs)
    once = {
        "pixels of all sets kept by synonyms": kept["all"],
        **{f"Caltech's names, {top}": share for top, share in named.items()},
        "seconds for a photo": seconds(segmenter),
        "megabytes": megabytes(options.model),
    }
    show(console, figures | {"mean": mean}, once)
    if names:
        show_names(console, names)
    if options.json:
        found = {
            "model": options.model,
            "limit": limit,
            "threads": torch.get_num_threads(),
            "names at once": len(large.names),
            "sets": {name: asdict(one) for name, one in figures.items()},
            "mean": asdict(mean),
            **once,
            "synonyms": kept,
            "names withheld": {name: asdict(both) | {"ratio": both.ratio} for name, both in names.items()},
        }
        write_json(options.json, found)


if __name__ == "__main__":
    main()
