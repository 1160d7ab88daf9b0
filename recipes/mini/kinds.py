"""The box, step 3 of 4: words move towards what they are a kind of.

    python recipes/mini/kinds.py --data DATA --wordnet DIR --run runs/mini
    python recipes/mini/kinds.py --data DATA --wordnet DIR --run runs/mini --withheld

A woman is a person, a taxi is a car: the mask sets have labels for few kinds of things, and a network that learned
"person" is to answer to "woman". Nouns move part of the way towards the nearest label of the mask sets that stands
above them in WordNet, by their first sense; the nouns that the measure of synonyms asks for (synonyms.txt) do not.
The text tower of step 1 learns these targets, all others staying what they were, and takes its place in what step 2
wrote. The classifier's classes keep their embeddings: moved too, they took dogs and cows for others. Stop it at any
time and start it again.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable
from itertools import chain, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from text import read_targets, train, wordnet_first_senses, wordnet_synsets
from torch import Tensor
from vocabularies import read_pairs

from sanseg.data.datasets import SegmentationSet
from sanseg.model.config import CLIP_MINI
from sanseg.model.text import TextTower
from sanseg.model.weights import load_san, save_san

TOWARDS = 0.5  # of the way
NOT_ABOVE = {"food"}  # WordNet's first sense of it is all that nourishes, coffee too
MOVED = 0.5  # of the texts drawn are nouns that move, the others stay


def wordnet_parents(folder: Path) -> dict[str, tuple[str, ...]]:
    """The synsets right above each synset."""
    parents = {}
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            fields = line.partition(" | ")[0].split(" ")
            parents[fields[0]] = tuple(there for mark, there in pairwise(fields) if mark == "@")
    return parents


def kinds(folder: Path, labels: Collection[str]) -> dict[str, str]:
    """For each noun the label that stands nearest above it, where one does; labels themselves have none.

    A label stands where its first sense does. Nouns that the measure of synonyms asks for are left out.
    """
    first, parents = wordnet_first_senses(folder), wordnet_parents(folder)
    standing = [label for label in labels if label.casefold() in first and label not in NOT_ABOVE]
    place = {first[label.casefold()]: label for label in standing}
    known = {label.casefold() for label in labels} | {one.casefold() for one in read_pairs().values()}
    found = {}
    for synset, lemmas in wordnet_synsets(folder).items():
        upwards = chain.from_iterable(levels_above(synset, parents))
        above = next((place[one] for one in upwards if one in place), None)
        for lemma in lemmas:
            if above and lemma.casefold() not in known and first.get(lemma.casefold()) == synset:
                found[lemma] = above
    return found


def levels_above(synset: str, parents: dict[str, tuple[str, ...]]) -> Iterable[list[str]]:
    """The synsets above, those right above first."""
    level, seen = [synset], {synset}
    while level:
        above = dict.fromkeys(there for one in level for there in parents.get(one, ()))
        level = [one for one in above if one not in seen]
        seen.update(level)
        yield level


def moved(texts: list[str], rows: Tensor, above: dict[str, str]) -> Tensor:
    """Targets (len(texts), E), each noun of `above` TOWARDS its label, unit length."""
    place = {text: number for number, text in enumerate(texts)}
    nouns = [noun for noun, label in above.items() if noun in place and label in place]
    own, to = (torch.tensor([place[one] for one in some]) for some in (nouns, [above[one] for one in nouns]))
    targets = rows.clone()
    targets[own] = F.normalize(rows[own].lerp(rows[to], TOWARDS), dim=-1)
    return targets


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--data", "--wordnet", "--run"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--withheld", action="store_true", help="into withheld.safetensors")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=512)
    options = parser.parse_args()
    torch.manual_seed(0)
    described = sorted(options.data.glob("*/dataset.json"))
    labels = [
        name
        for file in described
        for names in SegmentationSet.open(file.parent).vocabulary.names
        for name in names
    ]
    texts, weight, rows = read_targets(options.run)
    above = kinds(options.wordnet, dict.fromkeys(labels))
    moves = torch.tensor([text in above for text in texts])
    weight = torch.where(
        moves, MOVED * weight / weight[moves].sum(), (1 - MOVED) * weight / weight[~moves].sum()
    )
    tower = TextTower(CLIP_MINI)
    tower.load_state_dict(torch.load(options.run / "text.pt", weights_only=True)["tower"])
    wanted = moved(texts, rows.float(), above)
    train(options.run / "kinds.pt", tower, texts, weight, wanted, options.steps, options.batch, 3e-4)

    file = options.run / f"{'withheld' if options.withheld else 'mini'}.safetensors"
    san = load_san(str(file))
    san.clip.text.load_state_dict(tower.state_dict())
    save_san(options.run / f"{file.stem}-kinds.safetensors", san, kind="san", dtype=torch.float16)


if __name__ == "__main__":
    main()
