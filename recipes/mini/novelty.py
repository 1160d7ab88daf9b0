"""How much more a label scores that no mask was called in training (`SANConfig.novelty`), fixed on training data.

    python recipes/mini/novelty.py --data DATA --model runs/mini/withheld-kinds.safetensors

The model of the training with names withheld is asked pictures of that training, whose masks hold none of these
names, in all labels of their set, these ten among them: each pixel that gets one of them is an error. The novelty to
take is the largest that costs the other names at most LOSS of mIoU, the mean over the sets.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from san import SETS
from withheld import holds, without

import sanseg
from sanseg.data.datasets import SegmentationSet
from sanseg.metrics import Metrics, Tally
from sanseg.segmenter import Segmenter

NOVELTIES = tuple(n / 4 for n in range(13))
LOSS = 0.5  # of mIoU, in percent


@torch.inference_mode()
def others_miou(segmenters: list[Segmenter], one: SegmentationSet, pictures: int) -> list[float]:
    """Of the names that are not withheld, in percent, for each novelty, over so many pictures drawn."""
    trained = without(one)
    kept = [label for label in one.files.labels if not holds(label)]
    places = np.array([one.files.labels.index(label) for label in kept] + [255] * (256 - len(kept)), np.uint8)
    tallies = [Tally.empty(len(one.files.labels), edges=False) for _ in segmenters]
    drawn = np.random.default_rng(0).permutation(len(trained))[:pictures]
    for number in track(drawn.tolist(), one.name):
        sample = trained[number]
        encoded = segmenters[0].encode(sample.image)
        for segmenter, tally in zip(segmenters, tallies, strict=True):
            words = segmenter.resolve(one.vocabulary, None)
            tally.add(segmenter.answer(encoded, words).label_map, places[sample.index_map])
    seen = [not holds(label) for label in one.files.labels]
    return [Metrics.of(tally, one.files.labels, seen).miou_seen for tally in tallies]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pictures", type=int, default=40, help="of each set")
    options = parser.parse_args()
    base, segmenters = sanseg.load(options.model).san, []
    for novelty in NOVELTIES:
        segmenter = sanseg.load(options.model)
        segmenter.san.config = replace(base.config, novelty=novelty)
        segmenters.append(segmenter)
    sets = [SegmentationSet.open(options.data / name) for name in SETS]
    sets = [one for one in sets if any(map(holds, one.files.labels))]
    found = np.array([others_miou(segmenters, one, options.pictures) for one in sets])
    means = found.mean(0)
    table = Table("novelty", *(one.name for one in sets), "mean")
    for novelty, column, mean in zip(NOVELTIES, found.T, means, strict=True):
        table.add_row(f"{novelty:.2f}", *(f"{value:.1f}" for value in column), f"{mean:.2f}")
    Console().print(table)
    fits = [novelty for novelty, mean in zip(NOVELTIES, means, strict=True) if mean >= means[0] - LOSS]
    Console().print(f"the largest that costs at most {LOSS}: {max(fits)}")


if __name__ == "__main__":
    main()
