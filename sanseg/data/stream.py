"""Training examples: from sets on disk to batches, endless, shuffled, augmented.

B batch, P Q height and width of the padded crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sanseg.data.datasets import SegmentationSet
from sanseg.data.transforms import Augmentation, augment, to_tensors
from sanseg.vocabulary import other_id


@dataclass(frozen=True)
class Example:
    """One picture ready for training.

    image: float32 (3, P, Q), normalised, zero in the padding.
    index_map: int64 (P, Q), unknown in the padding.
    source: which of the mixed sets it is from.
    """

    name: str
    image: Tensor
    index_map: Tensor
    source: int


@dataclass(frozen=True)
class Batch:
    """Examples of one padded size: images float32 (B, 3, P, Q), index_maps int64 (B, P, Q)."""

    names: tuple[str, ...]
    images: Tensor
    index_maps: Tensor
    sources: tuple[int, ...]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Batch:
        return cls(
            names=tuple(example.name for example in examples),
            images=torch.stack([example.image for example in examples]),
            index_maps=torch.stack([example.index_map for example in examples]),
            sources=tuple(example.source for example in examples),
        )

    def to(self, device: torch.device) -> Batch:
        return replace(self, images=self.images.to(device), index_maps=self.index_maps.to(device))


class Stream(Dataset[Example]):
    """The endless, shuffled, augmented road of training examples from one or several sets.

    Example number n is the same in every run with the same seed, whatever was asked before: its epoch, its
    place in that epoch's order, and the draws of its augmentation follow from (seed, n) alone. So a run that
    resumes at step s asks for the numbers from s * batch on, and the number of workers does not matter.

    `repeats`: how often an epoch shows each set's pictures, by default once; 0.5 is a random half of them.
    `mean`, `std`: the model's, of RGB in 0..1.
    """

    def __init__(
        self,
        sets: Sequence[SegmentationSet],
        augmentation: Augmentation,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        repeats: Sequence[float] = (),
    ) -> None:
        self.sets = tuple(sets)
        self.augmentation = augmentation
        self.mean, self.std = tuple(mean), tuple(std)
        self.seed = seed
        self.repeats = tuple(repeats) or (1.0,) * len(self.sets)
        if len(self.repeats) != len(self.sets):
            raise ValueError(f"{len(self.repeats)} repeats for {len(self.sets)} sets: give one for each set")
        self._order = 0, self._shuffle(0)
        if len(self) == 0:
            raise ValueError("there is no picture to train on: give a set that has some, and repeats above 0")

    def __len__(self) -> int:
        """Examples in an epoch."""
        return len(self._order[1])

    def __getitem__(self, number: int) -> Example:
        epoch, place = divmod(number, len(self))
        if self._order[0] != epoch:
            self._order = epoch, self._shuffle(epoch)
        source, index = self._order[1][place]
        sample = self.sets[source][index]
        labels = len(self.sets[source].files.labels)
        rng = np.random.default_rng((self.seed, epoch, place))
        image, index_map = augment(sample.image, sample.index_map, self.augmentation, rng)
        padded = to_tensors(
            image, index_map, self.augmentation.crop, self.mean, self.std, other_id(labels) + 1
        )
        return Example(sample.name, *padded, source=source)

    def _shuffle(self, epoch: int) -> list[tuple[int, int]]:
        """(set, picture) of each place of an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        places: list[tuple[int, int]] = []
        for source, (one, repeat) in enumerate(zip(self.sets, self.repeats, strict=True)):
            rounds = [int(index) for _ in range(math.ceil(repeat)) for index in rng.permutation(len(one))]
            places += [(source, index) for index in rounds[: round(repeat * len(one))]]
        return [places[place] for place in rng.permutation(len(places))]
