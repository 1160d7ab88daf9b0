"""Other words for the labels of a set: synonyms, and the labels of all sets at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sanseg.vocabulary import Vocabulary

SYNONYMS = Path(__file__).parent / "synonyms.txt"
OUTSIDE = 255  # in a table of ids: none of the labels asked about

Ids = NDArray[np.uint8]
"""(256,) or more: for the index of each label what it is called instead, OUTSIDE for all else."""


def read_pairs(file: Path = SYNONYMS) -> dict[str, str]:
    """Label -> synonym, from lines `label | synonym`."""
    pairs: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        label, synonym = line.split(" | ")
        pairs[label] = synonym
    return pairs


def paired(vocabulary: Vocabulary, pairs: Mapping[str, str]) -> tuple[str | None, ...]:
    """For each label the first of its names that has a synonym, None where none has."""
    return tuple(next((name for name in names if name in pairs), None) for names in vocabulary.names)


def renamed(vocabulary: Vocabulary, pairs: Mapping[str, str]) -> Vocabulary:
    """The labels in their order, the synonym alone for each that has one.

    Raises ValueError where a synonym is another label's name.
    """
    chosen = zip(vocabulary.names, paired(vocabulary, pairs), strict=True)
    words = Vocabulary(tuple(names if label is None else (pairs[label],) for names, label in chosen))
    if len(words.names) != len(vocabulary.names):
        raise ValueError(f"two of {', '.join(vocabulary.labels)} get one synonym: give each its own")
    return words


def united(vocabularies: Iterable[Vocabulary]) -> Vocabulary:
    """The labels of all, those that share a name merged into the first of them."""
    groups: list[dict[str, str]] = []  # name, case folded -> name
    for names in (names for vocabulary in vocabularies for names in vocabulary.names):
        own = {name.casefold(): name for name in names}
        first, *others = [*(group for group in groups if group.keys() & own.keys()), own]
        for group in others:
            for key, name in group.items():
                first.setdefault(key, name)
        if first is own:
            groups.append(own)
        groups = [group for group in groups if group is first or not group.keys() & own.keys()]
    return Vocabulary(tuple(tuple(group.values()) for group in groups))


def places(large: Vocabulary, vocabulary: Vocabulary) -> Ids:
    """For each label of a united vocabulary the index of the label of one of its parts that it answers for.

    Raises ValueError where two labels of that part were merged: an answer could mean either.
    """
    owner = {name.casefold(): index for index, names in enumerate(vocabulary.names) for name in names}
    found = [{owner[n.casefold()] for n in names if n.casefold() in owner} for names in large.names]
    for names, indices in zip(large.names, found, strict=True):
        if len(indices) > 1:
            raise ValueError(
                f"{' | '.join(names)} merges labels of one set: ask that set apart from the rest"
            )
    return table(min(indices, default=OUTSIDE) for indices in found)


def table(ids: Iterable[int]) -> Ids:
    """What each index becomes, as an array to look up label maps in."""
    listed = [*ids]
    padding = [OUTSIDE] * (256 - len(listed))
    return np.array(listed + padding, dtype=np.uint8)
