"""A folder of photos, by one call for each and by the folder's road: photos per second, and the memory at the peak.

    python bench/folder.py
    python bench/folder.py --photos 16 --rounds 3 --no-overlay

Both ways write what `sanseg segment` writes, of JPEG photos drawn from examples/: crops, enlarged to 1600 x 1200,
with a little noise so that they cost what photos cost. "one by one" loads the model once, then reads, segments and
saves each photo in turn; "lanes" is `Segmenter.segment_each`. They take turns, half of the photos at a time. Their
label maps must be the same but for one pixel in 100,000, for each lane has its share of torch's threads, and
convolutions round by their number. The peak is of a process of its own for each way. Threads are torch's default; set
OMP_NUM_THREADS to change them. Unix only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

import sanseg
from sanseg.images import ImageSource
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Segmenter

WORDS = "cat, sofa, person, cup, spoon, table, wall, sky"
WIDTH, HEIGHT = 1600, 1200
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere


def make_photos(folder: Path, number: int) -> list[Path]:
    """Crops of the examples, three quarters of them or more."""
    random = np.random.default_rng(0)
    examples = [Image.open(path) for path in sorted((Path(__file__).parents[1] / "examples").glob("*.jpg"))]
    paths = []
    for place in range(number):
        example = examples[place % len(examples)]
        width = random.uniform(0.75, 1) * min(example.width, example.height * WIDTH / HEIGHT)
        left, top = (
            random.uniform(0, side - used)
            for side, used in ((example.width, width), (example.height, width * HEIGHT / WIDTH))
        )
        box = (left, top, left + width, top + width * HEIGHT / WIDTH)
        photo = example.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box)
        noisy = np.asarray(photo) + random.normal(0, 4, (HEIGHT, WIDTH, 3))
        paths.append(folder / f"{place:03}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def formats(overlay: bool) -> tuple[str, ...]:
    return ("overlay", "index", "json") if overlay else ("index", "json")


def one_by_one(segmenter: Segmenter, paths: Sequence[Path], out: Path, overlay: bool) -> None:
    for path in paths:
        segmenter(path, WORDS).save(out, path.stem, formats(overlay))


def lanes(segmenter: Segmenter, paths: Sequence[Path], out: Path, overlay: bool) -> None:
    def save(path: ImageSource, result: Segmentation) -> None:
        assert isinstance(path, Path)
        result.save(out, path.stem, formats(overlay))

    for failure in segmenter.segment_each(paths, WORDS, save):
        assert failure is None, failure


WAYS: dict[str, Callable[[Segmenter, Sequence[Path], Path, bool], None]] = {
    "one by one": one_by_one,
    "lanes": lanes,
}


def peak_bytes(way: str, model: str, paths: Sequence[Path], out: Path, overlay: bool) -> tuple[int, int]:
    """Of the process, which is a new one: once the model is ready, and after the photos."""
    segmenter = ready(model, paths[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    WAYS[way](segmenter, paths, out, overlay)
    return before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def differing(*label_maps: Path) -> int:
    """How many pixels of two label maps are not the same."""
    one, other = (np.asarray(Image.open(path)) for path in label_maps)
    return int((one != other).sum())


def ready(model: str, path: Path) -> Segmenter:
    """After its first picture, so that nothing that is timed is the first."""
    segmenter = sanseg.load(model, "cpu")
    segmenter(path, WORDS)
    return segmenter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="mini", help="a name or a checkpoint")
    parser.add_argument("--overlay", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--peak", action=argparse.BooleanOptionalAction, default=True, help="measure memory")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with TemporaryDirectory(prefix="sanseg-folder-") as name:
        folder = Path(name)
        paths = make_photos(folder, options.photos)
        segmenter = ready(options.model, paths[0])
        half = -(-len(paths) // 2)
        for _ in range(options.rounds):
            seconds = dict.fromkeys(WAYS, 0.0)
            for some in (paths[:half], paths[half:]):
                for way, run in WAYS.items():
                    start = time.perf_counter()
                    run(segmenter, some, folder / way, options.overlay)
                    seconds[way] += time.perf_counter() - start
            for way, taken in seconds.items():
                rates[way].append(len(paths) / taken)
        written = [sorted(path.name for path in (folder / way).iterdir()) for way in WAYS]
        moved = [differing(*(folder / way / f"{path.stem}.index.png" for way in WAYS)) for path in paths]
        found: dict[str, object] = {
            way: {"photos_per_second": round(statistics.median(rate), 2)} for way, rate in rates.items()
        }
        if options.peak:
            for way in WAYS:
                arguments = (way, options.model, paths, folder / "peak", options.overlay)
                with multiprocessing.get_context("spawn").Pool(1) as alone:
                    before, after = alone.apply(peak_bytes, arguments)
                found[f"{way}, memory"] = {
                    "ready_gigabytes": round(before / 1e9, 2),
                    "peak_gigabytes": round(after / 1e9, 2),
                }
    ratios = [fast / slow for slow, fast in zip(*rates.values(), strict=True)]
    found |= {
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "files": len(written[0]),
        "pixels_that_differ": sum(moved),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(found))
    assert written[0] == written[1], "the two ways wrote different files"
    assert sum(moved) <= len(paths) * WIDTH * HEIGHT / 100_000, "the two ways give different label maps"


if __name__ == "__main__":
    main()
