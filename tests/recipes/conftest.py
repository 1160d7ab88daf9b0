"""Recipes are scripts beside the package: here they are imported as they import each other, by their own names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sanseg.vocabulary import Vocabulary

MINI = Path(__file__).parents[2] / "recipes" / "mini"
SCRIPTS = (
    "withheld",
    "photos",
    "vocabularies",
    "questions",
    "open_vocabulary",
    "measure",
    "text",
    "examples",
    "san",
    "kinds",
    "classes",
    "average",
    "novelty",
    "control",
)
UNKNOWN, OTHER = 255, 254


@pytest.fixture(scope="session")
def mini() -> Iterator[ModuleType]:
    """The scripts of recipes/mini as attributes of one module."""
    found = ModuleType("mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(MINI)
        for name in SCRIPTS:
            setattr(found, name, import_module(name))
        yield found


def write_set(
    folder: Path, labels: Sequence[str], masks: Mapping[str, Sequence[int]], split: str = "val"
) -> Path:
    """A set whose pictures have one column of 4 x 4 pixels for each id, in a grey that is 10 times the id."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for stem, ids in masks.items():
        mask = np.repeat(np.array(ids, np.uint8), 4)[None].repeat(4, axis=0)
        Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")
        Image.fromarray(grey(mask)).save(folder / "images" / f"{stem}.png")
    described = {"labels": [*labels], "other": OTHER, "splits": {"train": [], "val": [], split: [*masks]}}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def grey(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat((10 * (ids % 20))[..., None], 3, axis=2).astype(np.uint8)


class Seen(NamedTuple):
    label_map: NDArray[np.uint8]
    confidence: NDArray[np.float32]


class Reader:
    """Answers as a segmenter that sees in a grey of `write_set` a word, and knows some others for it.

    sees: the word for the id of each grey. knows: another word -> the one it means.
    A pixel gets the first label that has its word, or means it; where none has, the last label.
    """

    def __init__(self, sees: Sequence[str], knows: Mapping[str, str] | None = None) -> None:
        self.sees, self.knows, self.encoded = sees, knows or {}, 0

    def encode(self, image: NDArray[np.uint8]) -> SimpleNamespace:
        self.encoded += 1
        return SimpleNamespace(segment=lambda words, other: self(image, words, other=other))

    def __call__(self, image: NDArray[np.uint8], vocabulary: Vocabulary, *, other: None) -> Seen:
        assert other is None, "distractors took part"
        meant = [{self.knows.get(name, name) for name in names} for names in vocabulary.names]
        last = len(meant) - 1
        answer = [next((n for n, some in enumerate(meant) if word in some), last) for word in self.sees]
        label_map = np.array(answer, np.uint8)[image[..., 0] // 10 % len(answer)]
        return Seen(label_map, np.ones(label_map.shape, np.float32))
