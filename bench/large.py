"""A large TIFF by windows: seconds, windows per second, and the memory at the peak; resumed after kill -9 on request.

    python bench/large.py --photos ../shared/data/photos
    python bench/large.py --sides 4000 8000 --window 1024
    python bench/large.py --sides 4000 --kill --seams

For each side a square RGB TIFF (tiled, 8 bits, map coordinates made up) is made of photos, laid side by side at
their own size, and segmented as `sanseg segment` does it, in a process of its own, which is told where it stands at
most every ten seconds. Memory is the most that process ever held, and what it held once the model was ready and one
window was done: the difference must not grow with the area, only a little with the width. --kill stops each run with
kill -9 once half of its windows are done, lets it go on, and compares the files with those of a run that was not
stopped. --seams also measures, on a corner of 4,096 pixels: in which share of the overlaps windows beside each other
agree, and how often the label changes across seams and elsewhere, with blending and for windows without overlap.
Unix only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rasterio
import torch
from PIL import Image
from rasterio.transform import Affine
from rasterio.windows import Window

import sanseg
from sanseg.geo import Raster
from sanseg.large.run import Options, segment_large
from sanseg.windows import ArrayReader, Layout, Windows, steps

WORDS = "sky, tree, grass, water, road, building, person, car, animal, food, furniture, wall"
BLOCK = 512
SEAMS_SIDE, SEAMS_FROM = 4096, 100  # from where no window ends where a shelf of photos does
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere


def make_tiff(path: Path, side: int, photos: list[Path]) -> None:
    """A mosaic: a shelf of photos below the other, each as high as the shelf, written a row of blocks at a time."""
    random = np.random.default_rng(0)
    place = Affine(0.3, 0, 500_000, 0, -0.3, 5_000_000)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": place}
    tiles = {
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    with rasterio.open(path, "w", width=side, height=side, **profile, **tiles) as dataset:
        for top in range(0, side, BLOCK):
            shelf, filled = np.zeros((BLOCK, side, 3), dtype=np.uint8), 0
            while filled < side:
                photo = Image.open(photos[random.integers(len(photos))]).convert("RGB")
                wide = max(1, round(photo.width * BLOCK / photo.height))
                pixels = np.asarray(photo.resize((wide, BLOCK)))[:, : side - filled]
                shelf[:, filled : filled + pixels.shape[1]] = pixels
                filled += pixels.shape[1]
            shelf = shelf[: side - top]
            dataset.write(shelf.transpose(2, 0, 1), window=Window(0, top, side, len(shelf)))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 1e9


def work(
    path: Path, out: Path, model: str, device: str, options: Options, kill_at: float, found: Any
) -> None:
    """Segments in this process, which is a new one, and puts what it took into the queue `found`."""
    segmenter = sanseg.load(model, device)
    words = segmenter.resolve(WORDS)
    with Raster.open(path) as raster:
        layout = Layout(min(raster.height, options.window), min(raster.width, options.window), options.window)
        Windows(segmenter, raster, words, layout).see((0, 0))
    ready, start, told, seen = peak(), time.perf_counter(), 0.0, [0, 0]

    def progress(done: int, windows: int) -> None:
        nonlocal told
        seen[:] = done, windows
        if time.perf_counter() - told > 10:
            told = time.perf_counter()
            print(f"{done} of {windows} windows, {told - start:.0f} s, {peak():.2f} GB", file=sys.stderr)
        if kill_at and done >= kill_at * windows:
            os.kill(os.getpid(), signal.SIGKILL)

    segment_large(segmenter, path, words, out, "big", options, progress)
    seconds = time.perf_counter() - start
    found.put(
        {
            "windows": seen[1],
            "seconds": round(seconds, 1),
            "windows_per_second": round(seen[1] / seconds, 2),
            "ready_gigabytes": round(ready, 2),
            "peak_gigabytes": round(peak(), 2),
        }
    )


def alone(*arguments: Any) -> dict[str, Any] | None:
    """What `work` found in a process of its own; None where it was killed."""
    spawn = multiprocessing.get_context("spawn")
    found = spawn.Queue()
    process = spawn.Process(target=work, args=(*arguments, found))
    process.start()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return None
    assert process.exitcode == 0, process.exitcode
    answer: dict[str, Any] = found.get()
    return answer


def checksums(folder: Path) -> dict[str, str]:
    def checksum(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return {path.name: checksum(path) for path in sorted(folder.iterdir())}


def seams(path: Path, model: str, device: str, options: Options) -> Iterator[tuple[str, dict[str, float]]]:
    segmenter = sanseg.load(model, device)
    with Raster.open(path) as raster:
        side = min(SEAMS_SIDE, raster.height - SEAMS_FROM)
        corner = slice(SEAMS_FROM, SEAMS_FROM + side)
        image, _ = raster.read(corner, corner)
    for name, overlap in (("blended", options.overlap), ("without overlap", 0.0)):
        layout = Layout(side, side, options.window, overlap)
        words = segmenter.resolve(WORDS, None)  # seams within "other" would not show
        windows = Windows(segmenter, ArrayReader(image), words, layout)
        found = asdict(steps(np.concatenate([band.label_map for band in windows.answer()]), layout))
        if overlap:
            found["agreement"] = windows.agreement()
        yield name, {key: round(value, 4) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[20_000])
    parser.add_argument("--photos", type=Path, default=Path(__file__).parents[1] / "examples")
    parser.add_argument("--model", default="mini", help="a name or a checkpoint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--geojson", action="store_true")
    parser.add_argument("--kill", action="store_true", help="also stop each run in the middle, and compare")
    parser.add_argument("--seams", action="store_true", help="also measure seams")
    parser.add_argument("--folder", type=Path, help="for the files, which stay; else a temporary one")
    options = parser.parse_args()
    photos = sorted(options.photos.rglob("*.jpg"))[:500]
    assert photos, f"no .jpg in {options.photos}"
    how = Options(window=options.window, overlap=options.overlap, geojson=options.geojson)
    with TemporaryDirectory(prefix="sanseg-large-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for side in options.sides:
            path = folder / f"{side}.tif"
            make_tiff(path, side, photos)
            whole, resumed = folder / f"{side}-whole", folder / f"{side}-resumed"
            took = alone(path, whole, options.model, options.device, how, 0.0)
            assert took is not None
            found: dict[str, Any] = {"side": side, **took, "threads": torch.get_num_threads()}
            found["megabytes"] = {file.name: round(file.stat().st_size / 1e6, 1) for file in whole.iterdir()}
            if options.kill:
                assert alone(path, resumed, options.model, options.device, how, 0.5) is None
                rest = alone(path, resumed, options.model, options.device, how, 0.0)
                assert rest is not None
                found["resumed_seconds"] = rest["seconds"]
                found["resumed_same_bytes"] = checksums(resumed) == checksums(whole)
            if options.seams:
                found["seams"] = dict(seams(path, options.model, options.device, how))
            print(json.dumps(found), flush=True)
            assert found.get("resumed_same_bytes", True), "the resumed run wrote other files"


if __name__ == "__main__":
    main()
