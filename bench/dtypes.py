"""What another number type does to the answers on labelled pictures, beside float32's.

    python bench/dtypes.py --data DATA/voc DATA/msrc                     # `mini`, bfloat16, their val pictures
    python bench/dtypes.py --data DATA/voc --limit 20 --dtype float16 --device cuda

For each set: mIoU over the classes present in both types; the share of all pixels that keep their label; and that of
the clear pixels, where float32's best label leads its second best by more than 1 % of its score. A picture is asked
its set's own labels, without distractors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

import sanseg
from sanseg.data.datasets import SegmentationSet
from sanseg.devices import DTYPES
from sanseg.metrics import Metrics, Tally

LEAD = 0.01  # of the best score: what is less is a tie that rounding may decide


class Kept:
    """Pixels: of all and of the clear ones, how many there are and how many keep their label."""

    def __init__(self) -> None:
        self.all, self.clear = np.zeros(2), np.zeros(2)

    def add(self, same_HW: NDArray[np.bool_], clear_HW: NDArray[np.bool_]) -> None:
        self.all += same_HW.size, same_HW.sum()
        self.clear += clear_HW.sum(), (same_HW & clear_HW).sum()


def compare(
    exact: sanseg.Segmenter, other: sanseg.Segmenter, pictures: SegmentationSet, limit: int | None
) -> dict:
    words = pictures.vocabulary
    tallies = [Tally.empty(len(words.labels), edges=False) for _ in range(2)]
    kept = Kept()
    for index in track(range(len(pictures))[:limit], pictures.name, transient=True):
        sample = pictures[index]
        wanted = exact(sample.image, words, other=None, proposals=True)
        found = other(sample.image, words, other=None)
        for tally, answer in zip(tallies, (wanted, found), strict=True):
            tally.add(answer.label_map, sample.index_map)
        scores, _ = wanted.scores(wanted.label_map.shape)
        second, best = np.partition(scores[: len(words.labels)], -2, axis=0)[-2:]
        kept.add(wanted.label_map == found.label_map, best - second > LEAD * best)
    before, after = (Metrics.of(tally, words.labels).miou_present for tally in tallies)
    return {
        "float32": before,
        "other": after,
        "moved": after - before,
        "all_pixels_kept": 100 * kept.all[1] / kept.all[0],
        "clear_pixels_kept": 100 * kept.clear[1] / kept.clear[0],
        "clear_pixels": 100 * kept.clear[0] / kept.all[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="sets as `sanseg evaluate` takes")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, help="only so many pictures of each set")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    exact = sanseg.load(options.model, device=options.device, dtype="float32")
    other = sanseg.load(options.model, device=options.device, dtype=options.dtype)
    rows = {}
    for folder in options.data:
        pictures = SegmentationSet.open(folder, "val")
        rows[pictures.name] = compare(exact, other, pictures, options.limit)
    rows["mean"] = {
        name: float(np.mean([row[name] for row in rows.values()])) for name in next(iter(rows.values()))
    }
    if options.json:
        print(json.dumps(rows))
        return
    table = Table(
        "val, percent", "mIoU float32", options.dtype, "moved", "pixels kept", "clear ones kept", "clear"
    )
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
