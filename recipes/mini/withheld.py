"""Ten names withheld from a training, to measure what the box makes of words it never saw.

    python recipes/mini/withheld.py --data DATA

prints what that leaves of each set. The training with names withheld has no picture whose mask holds one of them
(these become its test pictures), does not hear the names as wrong answers either, and has no photo and no caption
in which a word contains one of them.

By the letter of the protocol, "a word containing it" is any word with these letters: not only birdhouse and
waterfall, also thatch for hat, and that. The captions with that and what are five in a hundred, no great loss.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sanseg.data.datasets import IndexMap, SegmentationSet
from sanseg.data.files import Masks, Picture

WITHHELD = ("sheep", "boat", "bird", "flower", "book", "bicycle", "water", "hat", "skirt", "sunglasses")

# Classes of ImageNet, as photos/labels.tsv calls them, that are a kind of the thing (a few of many, for birds and
# boats). The stem was trained on these with their names, and its head teaches the image tower, so that the name is
# withheld but not what it looks like. In doubt a name counts as known: a comic book is a magazine to WordNet.
# Of water there are only places beside it and things in it (lakeside, seashore, breakwater, geyser).
IMAGENET = {
    "sheep": ("ram", "bighorn"),
    "boat": ("canoe", "catamaran", "fireboat", "gondola", "lifeboat", "speedboat"),
    "bird": ("goldfinch", "hummingbird", "magpie", "robin"),
    "flower": ("daisy", "yellow lady's slipper"),
    "book": ("comic book",),
    "bicycle": ("bicycle-built-for-two", "mountain bike"),
    "water": (),
    "hat": ("bonnet", "cowboy hat", "sombrero"),
    "skirt": ("hoopskirt", "miniskirt", "overskirt"),
    "sunglasses": ("sunglass", "sunglasses"),
}


def which(text: str) -> str | None:
    """The first of WITHHELD that a word of a text contains, in the singular, whatever the case; None for none.

    text: a name, a label with ` | ` between its synonyms, or a caption.
    """
    folded = text.casefold()
    return next((name for name in WITHHELD if name.removesuffix("es") in folded), None)


def holds(text: str) -> bool:
    """Whether a name, a label or a caption is withheld."""
    return which(text) is not None


def photo_kept(name: str) -> bool:
    """Whether a photo of this name stays in the training with names withheld."""
    return not holds(name)


def caption_kept(text: str) -> bool:
    """Whether a caption does."""
    return not holds(text)


def left_out(one: SegmentationSet) -> SegmentationSet:
    """The pictures whose mask holds a withheld label, with all labels of the set: to test on."""
    kept = {picture.name for picture in one.files.pictures} - _showing(one)
    return one.without(kept)


def without(one: SegmentationSet) -> SegmentationSet:
    """The other pictures, with the other labels: to train on."""
    kept = [not holds(label) for label in one.files.labels]
    table = np.arange(256, dtype=np.uint8)  # other and unknown stay what they are
    table[: len(kept)] = np.cumsum(kept) - 1
    rest = one.without(_showing(one))
    labels = tuple(label for label in one.files.labels if not holds(label))
    files = replace(rest.files, labels=labels, masks=FewerLabels(rest.files.masks, table))
    return SegmentationSet(one.name, files, one.form, one.split)


@dataclass(frozen=True)
class FewerLabels:
    """Masks of a set some of whose labels are gone. table: uint8 (256,), the new id of each old one."""

    masks: Masks
    table: NDArray[np.uint8]

    def read(self, picture: Picture, size: tuple[int, int]) -> IndexMap:
        return self.table[self.masks.read(picture, size)]


def _showing(one: SegmentationSet) -> set[str]:
    """Names of the pictures of whose mask any pixel has a withheld label."""
    labels = len(one.files.labels)
    assert labels <= 254, "other and unknown are taken for 254 and 255"
    ids = [id_ for id_, label in enumerate(one.files.labels) if holds(label)]
    if not ids:
        return set()
    samples = (one[index] for index in range(len(one)))
    return {sample.name for sample in samples if np.isin(sample.index_map, ids).any()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    table = Table("set", "withheld labels", title="train")
    for heading in ("pictures kept", "left out"):
        table.add_column(heading, justify="right")
    for described in sorted(data.glob("*/dataset.json")):
        one = SegmentationSet.open(described.parent)
        labels, tested = [label for label in one.files.labels if holds(label)], len(left_out(one))
        table.add_row(one.name, ", ".join(labels), str(len(one) - tested), str(tested))
    Console().print(table)


if __name__ == "__main__":
    main()
