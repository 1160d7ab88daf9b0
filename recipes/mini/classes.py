"""The box, step 4 of 4: what the classes of the stem's classifier are kinds of.

    python recipes/mini/classes.py --data DATA --wordnet DIR --model MODEL.safetensors

A ram is a sheep, a speedboat a boat; the words alone do not say so ("ram" lies nearer to "bird" than to "sheep").
The text tower embeds each of ImageNet's classes once more (`Guess.kinds`), mixed with the synsets that stand above
it in WordNet, each step upwards counting half. No picture is needed. The model is written anew, in float16.

DIR of --wordnet: data.noun of WordNet 3.0, whose ids the ImageNet photos are called by.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from kinds import levels_above, wordnet_parents
from photos import IMAGENET_SAMPLE, Photo, read_photos
from text import wordnet_synsets
from torch import Tensor

from sanseg.model.config import SAN_MINI
from sanseg.model.san import SAN
from sanseg.model.text import TextEncoder
from sanseg.model.weights import load_san, save_san

STEP = 0.5  # how much a kind counts beside what is one step below it


def synset_of(photo: Photo) -> str:
    """Of a photo called in_nNUMBER: the number."""
    found = re.fullmatch(r"in_n(\d{8})", photo.file.stem)
    if not found:
        raise ValueError(
            f"{photo.file} is not called in_n and the 8 digits of a synset: its class is not known"
        )
    return found[1]


def with_kinds(folder: Path, classes: Sequence[tuple[str, str]]) -> list[list[tuple[tuple[str, ...], float]]]:
    """For each class, given by the id of its synset and its name, the words it is known by, and how much they count.

    First its name and lemmas, then the lemmas of each visible kind above it.
    """
    synsets, parents = wordnet_synsets(folder), wordnet_parents(folder)
    found = []
    for synset, name in classes:
        known = [(tuple(dict.fromkeys((name, *synsets.get(synset, ())))), 1.0)]
        for steps, level in enumerate(levels_above(synset, parents), start=1):
            known += [(synsets[one], STEP**steps) for one in level if one in synsets]
        found.append(known)
    return found


@torch.no_grad()
def embed_kinds(words: TextEncoder, classes: Sequence[Sequence[tuple[tuple[str, ...], float]]]) -> Tensor:
    """(C, E), unit length: of what `with_kinds` gives, each group of words as the mean of its words."""
    groups = list(dict.fromkeys(group for known in classes for group, _ in known))
    rows = F.normalize(words.rows(groups, SAN_MINI.templates), dim=-1)
    place = {group: number for number, group in enumerate(groups)}
    mixed = [sum(weight * rows[place[group]] for group, weight in known) for known in classes]
    return F.normalize(torch.stack(mixed), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--data", "--wordnet", "--model"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    photos = [one for one in read_photos(options.data / "photos") if one.source == IMAGENET_SAMPLE]
    before = load_san(options.model)
    san = SAN(SAN_MINI, before.labels)
    san.load_state_dict(before.state_dict(), strict=False)  # one without kinds comes to have them
    classes = with_kinds(options.wordnet, sorted((synset_of(one), one.name) for one in photos))
    san.clip.visual.guess.kinds.data.copy_(embed_kinds(TextEncoder(san.clip.text.eval()), classes))
    save_san(options.model, san, kind="san", dtype=torch.float16)


if __name__ == "__main__":
    main()
