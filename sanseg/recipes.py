"""Named settings of training runs: the released ones, and those for pictures of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sanseg.data.transforms import Augmentation
from sanseg.losses import LossConfig
from sanseg.model.config import SANConfig
from sanseg.train import TrainConfig


def released(model: SANConfig) -> TrainConfig:
    """The settings both released models were trained with on COCO-Stuff, exactly."""
    return TrainConfig()


def own_data(model: SANConfig) -> TrainConfig:
    """Some hundred pictures on one machine, at the size the model sees pictures.

    Unknown pixels teach nothing, and the answer itself has a loss: query matching alone underfits few pictures.
    """
    return TrainConfig(
        iterations=2_000,
        batch=8,
        lr=2e-4,
        weight_decay=0.02,
        clip=1.0,
        warmup=50,
        save_every=100,
        evaluate_every=500,
        evaluate_pictures=200,
        loss=LossConfig(points=2_048, count_unknown=False, answer_weight=4.0, answer_points=2_048),
        augmentation=replace(Augmentation(), short_side=model.short_side, crop=model.short_side),
    )


RECIPES: dict[str, Callable[[SANConfig], TrainConfig]] = {"own_data": own_data, "released": released}
