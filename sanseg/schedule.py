"""What a training run does when: its settings, by default the released recipe's, optimizer and learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import AdamW

from sanseg.data.transforms import Augmentation
from sanseg.devices import DTYPES
from sanseg.losses import LossConfig
from sanseg.model.san import CLIP_TRAINS, SAN

PART_LOSSES: dict[str, dict[str, Any]] = {  # two stages: first where things are, then what they are
    "all": {},
    "masks": {"class_weight": 0.0, "answer_weight": 0.0},
    "recognition": {"mask_weight": 0.0, "dice_weight": 0.0},
}
# These change no number that is computed: a run may go on with others.
NOT_COMPUTED = (
    "workers",
    "save_every",
    "keep",
    "accumulation",
    "checkpointing",
    "evaluate_every",
    "evaluate_pictures",
    "pictures",
    "trackers",
)

# Position and query embeddings do not decay, nor do the norms of ViT blocks. All else does: "nothing",
# biases, and the norms of the fusion, which the released recipe does not recognise as norms.
EMBEDDINGS = (
    "side_adapter.query",
    "side_adapter.query_position",
    "side_adapter.position",
    "clip.visual.position",
)


@dataclass(frozen=True)
class TrainConfig:
    """A run; by default the released recipe's (which has the same numbers for both models).

    `clip`: the gradient's largest total norm. `power`: of the polynomial decay to zero.
    `warmup`: iterations over which the learning rate rises linearly first.
    `clip_lr`: a factor on the learning rate of CLIP's own weights, where they train.
    `batch`: pictures of a step, over all processes. `accumulation`: into how many passes each process divides
    its share, one after the other: less memory, the same losses.
    `dtype`: a key of DTYPES, what the network computes in; weights and losses are float32.
    `trains`: what of CLIP trains, a key of `model.san.CLIP_TRAINS`. `part`: what of the side adapter, of PARTS.
    `checkpointing`: activation checkpointing, less memory for a third more time.
    `workers`: processes that load pictures, 0 for none. `save_every`: iterations. `keep`: states that stay.
    `evaluate_every`: iterations, 0 for at the end only. `evaluate_pictures`: of each set, 0 for all of them.
    `pictures`: of each set that are painted then. `trackers`: what else is told the figures, keys of
    `run.TRACKERS`.
    `repeats`: how often an epoch shows each set (`data.stream.Stream`); empty is once each.
    """

    iterations: int = 60_000
    batch: int = 32
    accumulation: int = 1
    lr: float = 1e-4
    weight_decay: float = 1e-4
    clip: float = 0.01
    power: float = 0.9
    warmup: int = 0
    clip_lr: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    trains: str = "position"
    part: str = "all"
    checkpointing: bool = False
    workers: int = 0
    save_every: int = 1_000
    keep: int = 3
    evaluate_every: int = 0
    evaluate_pictures: int = 0
    pictures: int = 4
    trackers: tuple[str, ...] = ()
    repeats: tuple[float, ...] = ()
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is unknown: use one of {', '.join(DTYPES)}")
        for name in ("lr", "clip_lr", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number from 0 on")
        for given, known in ((self.trains, CLIP_TRAINS), (self.part, PART_LOSSES)):
            if given not in known:
                raise ValueError(f"{given!r} cannot be trained: choose from {', '.join(known)}")
        for name in ("iterations", "batch", "accumulation", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        for name in ("workers", "warmup", "evaluate_every", "evaluate_pictures", "pictures"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more")


def learning_rate(iteration: int, config: TrainConfig) -> float:
    """Of the optimizer's step number `iteration`, counted from 0."""
    warm = min(1.0, (iteration + 1) / config.warmup) if config.warmup else 1.0
    return float(config.lr * warm * (1 - iteration / config.iterations) ** config.power)


def trainable(san: SAN) -> dict[str, nn.Parameter]:
    """What a run trains, by name: the parameters that require a gradient (`SAN.freeze` sets which)."""
    found = {name: parameter for name, parameter in san.named_parameters() if parameter.requires_grad}
    if not found:
        raise ValueError(
            "no parameter requires a gradient: call san.freeze() to train what the release trains"
        )
    return found


def make_optimizer(san: SAN, config: TrainConfig) -> AdamW:
    """AdamW, with weight decay for all but the embeddings and the blocks' norms.

    A group's `factor` multiplies the learning rate: `clip_lr` for what CLIP brought along, but for its
    positional embedding, which the released recipe trains like the side adapter.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable(san).items():
        spared = name in EMBEDDINGS or (".blocks." in name and ".norm_" in name)
        brought = name.startswith("clip.") and name != "clip.visual.position"
        key = (0.0 if spared else config.weight_decay, config.clip_lr if brought else 1.0)
        groups.setdefault(key, []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (decay, factor), parameters in groups.items()
        ],
        lr=config.lr,
    )
