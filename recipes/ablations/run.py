"""The paper's ablations at the scale of the model in the box: which of its choices hold there.

    python recipes/ablations/run.py --data DATA --run runs/ablations

Each variant is trained on the box's own CLIP with a fresh side adapter, the same budget, pictures and settings, and
three seeds; then evaluated on the `val` splits. Every (variant, seed) is a resumable run; those that are done are not
done again. Stop it and start it again at any time. Prints a table of what is done at the end.

Two processes of one thread each, which share the work by --seed and --variant, get through more than one of two.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sanseg.data.datasets import SegmentationSet
from sanseg.data.transforms import Augmentation
from sanseg.evaluate import evaluate
from sanseg.images import write_json
from sanseg.losses import LossConfig
from sanseg.model.config import SAN_MINI, SideAdapterConfig
from sanseg.model.fresh import fresh_san
from sanseg.model.san import SAN
from sanseg.model.weights import load_san
from sanseg.segmenter import Segmenter
from sanseg.train import TrainConfig, train

SETS = ("coco_panoptic", "voc", "msrc", "camvid", "facade")
ITERATIONS = 300  # of every variant; two stages share them
LOSS = LossConfig(points=512, count_unknown=False, answer_weight=4.0, answer_points=512)
SETTINGS = TrainConfig(
    iterations=ITERATIONS,
    batch=8,
    lr=8e-4,
    weight_decay=0.02,
    clip=1.0,
    warmup=20,
    dtype="bfloat16",
    save_every=100,
    loss=LOSS,
    augmentation=Augmentation(short_side=256, scale=(0.7, 1.3), crop=224),
)


@dataclass(frozen=True)
class Variant:
    """What differs from the released way. side: fields of the side adapter's configuration."""

    side: Mapping[str, Any] = field(default_factory=dict)
    clip: str = "position"
    clip_lr: float = 1.0
    parts: tuple[str, ...] = ("all",)


VARIANTS = {
    "as released": Variant(),
    "two stages": Variant(parts=("masks", "recognition")),
    "mask as bias": Variant({"bias": "mask"}),
    "CLIP fine-tuned": Variant(clip="visual"),
    "CLIP fine-tuned, 0.1 of the rate": Variant(clip="visual", clip_lr=0.1),
    "CLIP's positions frozen": Variant(clip="none"),
    # The box's masks also take the stem's stride-8 features: with them the three fusions are four places.
    "fusion at 1 place": Variant({"fusion": ((2, 2),), "mask_stride": 16}),
    "no fusion": Variant({"fusion": (), "mask_stride": 16}),
}


def untrained(side: SideAdapterConfig, seed: int) -> SAN:
    """The box's CLIP and an untrained side adapter."""
    san = fresh_san(load_san("mini"), side, seed=seed)
    with torch.no_grad():
        san.side_adapter.query.mul_(0.1)
        san.side_adapter.query_position.mul_(0.1)
    return san


def train_variant(variant: Variant, seed: int, data: Path, run: Path) -> SAN:
    san = untrained(replace(SAN_MINI.side, **variant.side), seed)
    sets = [SegmentationSet.open(data / name) for name in SETS]
    settings = replace(SETTINGS, seed=seed, trains=variant.clip, clip_lr=variant.clip_lr)
    for part in variant.parts:
        share = replace(settings, iterations=ITERATIONS // len(variant.parts), part=part)
        train(san, sets, share, run / part)
    return san


def measure(san: SAN, data: Path) -> dict[str, float]:
    segmenter = Segmenter(san)
    found = {
        name: evaluate(
            lambda image, vocabulary: segmenter(image, vocabulary, other=None).label_map,
            SegmentationSet.open(data / name, "val"),
        ).miou_present
        for name in SETS
    }
    return {**found, "mean": statistics.fmean(found.values())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    options = parser.parse_args()
    for seed in options.seed:  # all variants at one seed first: a run cut short still compares
        for name in options.variant:
            folder = folder_of(options.run, name, seed)
            if (folder / "result.json").exists():
                continue
            san = train_variant(VARIANTS[name], seed, options.data, folder)
            result = measure(san, options.data)
            write_json(folder / "result.json", result)
            print(
                f"{name}, seed {seed}: {json.dumps({k: round(v, 1) for k, v in result.items()})}", flush=True
            )
    table(options.run)


def folder_of(run: Path, name: str, seed: int | str) -> Path:
    return run / f"{name.replace(' ', '-')}-{seed}"


def table(run: Path) -> None:
    """Means over the seeds that are done, and the standard deviation of the last of them."""
    print(f"| variant | seeds | {' | '.join(SETS)} | mean | spread |")
    print("| --- " * (len(SETS) + 4) + "|")
    for name in VARIANTS:
        files = run.glob(f"{folder_of(run, name, '*').name}/result.json")
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        if not results:
            continue
        cells = [f"{statistics.fmean(one[column] for one in results):.1f}" for column in (*SETS, "mean")]
        spread = f"{statistics.stdev(one['mean'] for one in results):.1f}" if len(results) > 1 else ""
        print(f"| {name} | {len(results)} | {' | '.join(cells)} | {spread} |")


if __name__ == "__main__":
    main()
