"""What the box is trained on: pictures with masks, drawn so that rare labels are seen, and photos with a name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from photos import Photo

from sanseg.data.datasets import SegmentationSet
from sanseg.data.stream import Example
from sanseg.data.transforms import Augmentation, augment, to_tensors
from sanseg.images import read_image
from sanseg.model.config import OPENAI_MEAN, OPENAI_STD

RARE = 0.08  # a label shown by a smaller share of its set's pictures is rare
ELSEWHERE = 0.3  # how often a picture is asked another set's labels, where enough of it has one
ENOUGH = 0.5  # of what is labelled


class Pictures:
    """Endless draws of pictures with masks; example number n of an augmentation is the same in every run.

    shares: how often each set is drawn, relative to the others. Within a set, a picture is drawn more often for its
    rarest label, by the square root of how rare that is (repeat factors, Gupta et al., "LVIS", CVPR 2019).
    """

    def __init__(self, sets: Sequence[SegmentationSet], shares: Sequence[float]) -> None:
        self.sets = tuple(sets)
        self.shares = np.cumsum(shares) / np.sum(shares)
        self.weights = [np.cumsum(repeat_factors(one)) for one in sets]
        self.tables = {
            (a, b): translation(sets[a], sets[b])
            for a in range(len(sets))
            for b in range(len(sets))
            if a != b
        }

    def draw(self, number: int, augmentation: Augmentation) -> Example:
        rng = np.random.default_rng((0, number))
        source = int(np.searchsorted(self.shares, rng.random(), side="right"))
        weights = self.weights[source]
        sample = self.sets[source][int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]
        image, index_map = augment(sample.image, sample.index_map, augmentation, rng)
        if rng.random() < ELSEWHERE:
            source, index_map = self._elsewhere(source, index_map, rng)
        padded = to_tensors(image, index_map, augmentation.crop, OPENAI_MEAN, OPENAI_STD, 255)
        return Example(sample.name, *padded, source=source)

    def _elsewhere(
        self, source: int, index_map: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[int, NDArray[np.uint8]]:
        """Another set and the map in its labels; as it was where no other set knows ENOUGH of it."""
        labelled = index_map < len(self.sets[source].files.labels)
        for other in rng.permutation([one for one in range(len(self.sets)) if one != source]).tolist():
            map_there = self.tables[source, other][index_map]
            known = (map_there < len(self.sets[other].files.labels)).sum()
            if known > 0 and known >= ENOUGH * labelled.sum():
                return other, map_there
        return source, index_map


def repeat_factors(one: SegmentationSet) -> NDArray[np.float64]:
    """How often to draw each picture, at least 1."""
    shown = [np.unique(one[index].index_map) for index in range(len(one))]
    labels = len(one.files.labels)
    shown = [ids[ids < labels] for ids in shown]
    pictures = np.bincount(np.concatenate(shown), minlength=labels)
    factor = np.sqrt(np.maximum(1.0, RARE * len(one) / np.maximum(1, pictures)))
    return np.array([max(factor[ids], default=1.0) for ids in shown])


def translation(own: SegmentationSet, other: SegmentationSet) -> NDArray[np.uint8]:
    """(256,): the id in `other` of the label that shares a name, 255, unknown, for all else."""
    table = np.full(256, 255, np.uint8)
    for id_, names in enumerate(own.vocabulary.names):
        for there, others in enumerate(other.vocabulary.names):
            if set(names) & set(others):
                table[id_] = there
    return table


class Photos:
    """Photos without masks, endless and in an order of their own; an example's source is the number of its name."""

    def __init__(self, photos: Sequence[Photo], names: Sequence[str]) -> None:
        self.photos = tuple(photos)
        self.number = {name: number for number, name in enumerate(names)}

    def draw(self, number: int, augmentation: Augmentation) -> Example:
        epoch, place = divmod(number, len(self.photos))
        photo = self.photos[int(np.random.default_rng((1, epoch)).permutation(len(self.photos))[place])]
        image = read_image(photo.file)
        rng = np.random.default_rng((2, number))
        view, index_map = augment(image, np.full(image.shape[:2], 255, np.uint8), augmentation, rng)
        padded = to_tensors(view, index_map, augmentation.crop, OPENAI_MEAN, OPENAI_STD, 255)
        return Example(photo.file.name, *padded, source=self.number[photo.name])
