"""Seconds and peak memory of a label map with many labels on a large picture.

    python bench/labelmap_memory.py                  # random proposals of the released B/16's sizes
    python bench/labelmap_memory.py --model mini     # the whole road, from a photo in memory

Unix only. Threads are torch's default; set OMP_NUM_THREADS to change them.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import sanseg
from sanseg.images import Geometry
from sanseg.labelmap import label_map


def random_proposals(labels: int, height: int, width: int) -> float:
    """Seconds for smooth random masks of 100 queries, on a grid of 40 rows."""
    grid = (40, round(40 * width / height))
    resized = (16 * grid[0], 16 * grid[1])
    coarse = torch.randn(1, 100, 10, 13)
    masks = 5 * F.interpolate(coarse, size=grid, mode="bicubic", align_corners=False)[0] - 5
    probabilities = (4 * torch.randn(100, labels + 1)).softmax(-1)[:, :-1]
    start = time.perf_counter()
    label_map(masks, probabilities, range(labels), Geometry((height, width), resized, resized))
    return time.perf_counter() - start


def whole_road(model: str, labels: int, height: int, width: int) -> float:
    """Seconds from a photo and words, known already, to a Segmentation."""
    segmenter = sanseg.load(model, "cpu")
    small = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    photo = np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    names = [f"thing number {number}" for number in range(labels)]
    segmenter(photo[:64, :64], names)
    start = time.perf_counter()
    segmenter(photo, names)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, default=847)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--model", help="a name or a checkpoint")
    options = parser.parse_args()
    torch.manual_seed(0)
    size = (options.labels, options.height, options.width)
    seconds = whole_road(options.model, *size) if options.model else random_proposals(*size)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(
        json.dumps(
            {
                "labels": options.labels,
                "megapixels": round(options.height * options.width / 1e6, 1),
                "model": options.model or "random proposals",
                "threads": torch.get_num_threads(),
                "seconds": round(seconds, 2),
                "peak_gigabytes": round(peak / 1e9, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
