"""An experiment: a finished box trains on with CLIP's whole image tower, stem included (docs/LOG.md, 2026-11-24).

    python recipes/mini/thaw.py --data DATA --model runs/mini/mini.safetensors --run runs/mini

At a fraction of the side adapter's learning rate, for the tower knows more words than the sets have. Stop it at any
time and start it again. At the end it writes `thawed.safetensors`, in float16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from san import LOSS, SETS

from sanseg.data.datasets import SegmentationSet
from sanseg.data.transforms import Augmentation
from sanseg.model.weights import load_san, save_san
from sanseg.train import TrainConfig, train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True, help="by name or path, as everywhere")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    sets = [SegmentationSet.open(options.data / name) for name in SETS]
    config = TrainConfig(
        iterations=options.steps,
        batch=16,
        lr=4e-4,
        clip_lr=0.2,
        weight_decay=0.02,
        clip=1.0,
        warmup=50,
        dtype="bfloat16",
        trains="visual",
        save_every=100,
        repeats=tuple(SETS.values()),
        loss=LOSS,
        augmentation=Augmentation(short_side=320, scale=(0.6, 1.3), crop=256),
    )
    san = load_san(options.model)
    train(san, sets, config, options.run / "thaw")
    save_san(options.run / "thawed.safetensors", san, kind="san", dtype=torch.float16)


if __name__ == "__main__":
    main()
