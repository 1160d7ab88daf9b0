"""The box, step 3 of 3: a SAN on the small CLIP, which is frozen.

    python recipes/mini/san.py --data DATA --run runs/mini

It reads text.pt and clip.pt of the steps before and trains with `sanseg.train`; the loss of the answer itself is on,
since query matching alone underfits 2,700 pictures. Stop it at any time and start it again. At the end it writes
`mini.safetensors`, in float16: copy it to sanseg/model/assets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sanseg.data.datasets import SegmentationSet
from sanseg.data.transforms import Augmentation
from sanseg.losses import LossConfig
from sanseg.model.config import SAN_MINI
from sanseg.model.san import SAN
from sanseg.model.weights import save_san
from sanseg.train import TrainConfig, train

SETS = {  # how often an epoch shows each set
    "coco_panoptic": 3.0,
    "coco_things": 1.0,
    "voc": 0.7,
    "clothing": 1.0,
    "facade": 0.7,
    "msrc": 1.0,
    "camvid": 1.0,
}
LOSS = LossConfig(
    points=1_024,
    count_unknown=False,
    answer_weight=4.0,
    answer_points=1_024,
)


def untrained(run: Path) -> SAN:
    """A SAN with the CLIP of steps 1 and 2 and a fresh side adapter."""
    torch.manual_seed(0)
    san = SAN(SAN_MINI)
    learned = torch.load(run / "clip.pt", weights_only=True)["learner"]
    tower = {
        name.removeprefix("tower."): value for name, value in learned.items() if name.startswith("tower.")
    }
    san.clip.visual.load_state_dict(tower)
    san.clip.text.load_state_dict(torch.load(run / "text.pt", weights_only=True)["tower"])
    with torch.no_grad():
        san.clip.logit_scale.copy_(learned["logit_scale"])
        san.side_adapter.query.mul_(0.1)
        san.side_adapter.query_position.mul_(0.1)
    return san.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=320)
    options = parser.parse_args()
    sets = [SegmentationSet.open(options.data / name) for name in SETS]
    config = TrainConfig(
        iterations=options.steps,
        batch=options.batch,
        lr=6e-4,
        weight_decay=0.02,
        clip=1.0,
        warmup=100,
        dtype="bfloat16",
        trains="none",  # nothing is gained from moving CLIP's positions: it saw these pictures
        save_every=100,
        repeats=tuple(SETS.values()),
        loss=LOSS,
        augmentation=Augmentation(short_side=320, scale=(0.6, 1.3), crop=options.crop),
    )
    san = untrained(options.run)
    train(san, sets, config, options.run / "san")
    save_san(options.run / "mini.safetensors", san, kind="san", dtype=torch.float16)


if __name__ == "__main__":
    main()
