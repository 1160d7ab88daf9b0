"""Everyday words that compete with a few labels, and which of them a label silences (distractors.txt)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


def distractors(names: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Everyday words (distractors.txt) that compete with these labels, each given by its synonyms.

    Left out is what names the same as a label, something it is a kind or a part of, or a kind or part of it.
    """
    tree = _taxonomy()
    covered = tree.related(
        {concept for synonyms in names for name in synonyms for concept in tree.find(name)}
    )
    return tuple(word for word in tree.distractors if word not in covered)


@dataclass(frozen=True)
class Taxonomy:
    """distractors.txt, read: which concepts are kinds or parts of which. Each is called by its first word."""

    concepts: dict[str, set[str]]  # word -> the concepts it may mean
    parents: dict[str, set[str]]
    children: dict[str, set[str]]
    distractors: tuple[str, ...]

    @classmethod
    def read(cls, lines: Iterable[str]) -> Taxonomy:
        concepts: dict[str, set[str]] = {}
        parents: dict[str, set[str]] = {}
        children: dict[str, set[str]] = {}
        distracting: list[str] = []
        path: list[str] = []  # the concept at each depth above this line
        for line in lines:
            if not line.strip() or line.startswith("#"):
                continue
            depth = (len(line) - len(line.lstrip())) // 2
            words = [word.strip() for word in line.removeprefix("  " * depth).removeprefix("* ").split(" | ")]
            concept = words[0]
            if line.lstrip().startswith("* "):
                distracting.append(concept)
            for word in words:
                concepts.setdefault(_fold(word), set()).add(concept)
            del path[depth:]
            parents.setdefault(concept, set()).update(path[-1:])
            if path:
                children.setdefault(path[-1], set()).add(concept)
            path.append(concept)
        return cls(concepts, parents, children, tuple(dict.fromkeys(distracting)))

    def find(self, name: str) -> set[str]:
        """The concepts a name may mean, by the longest ending that is known; empty if none is."""
        found: set[str] = set()
        for part in name.split(","):  # benchmark names hold synonyms between commas
            found |= next((self.concepts[form] for form in _endings(part) if form in self.concepts), set())
        return found

    def related(self, concepts: set[str]) -> set[str]:
        """These concepts, all that is above them, and all that is below them."""
        return _reach(concepts, self.parents) | _reach(concepts, self.children)


@cache
def _taxonomy() -> Taxonomy:
    return Taxonomy.read(files("sanseg").joinpath("distractors.txt").read_text(encoding="utf-8").split("\n"))


def _reach(start: set[str], edges: dict[str, set[str]]) -> set[str]:
    reached, fresh = set(start), set(start)
    while fresh:
        fresh = {step for concept in fresh for step in edges.get(concept, ())} - reached
        reached |= fresh
    return reached


PREPOSITIONS = frozenset(
    ("above", "at", "behind", "by", "for", "from", "in", "near", "of", "on", "under", "with")
)


def _endings(name: str) -> Iterator[str]:
    """Forms of a name under which it may be known, nearest first.

    "big black cats on a sofa" gives itself, then the endings of "big black cats", then those of "a sofa"; the
    last word of each also in the singular.
    """
    words = _fold(name).split()
    pieces = [[]] if not words else [words]
    for number, word in enumerate(words):
        if word in PREPOSITIONS and number > 0:
            pieces = [words[:number], words[number + 1 :]]
            break
    yield " ".join(words)
    for piece in pieces:
        for start in range(len(piece)):
            for last in _singulars(piece[-1]):
                yield " ".join([*piece[start:-1], last])


def _singulars(word: str) -> Iterator[str]:
    yield word
    for plural, singular in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(plural) and len(word) > len(plural) + 1:
            yield word.removesuffix(plural) + singular


def _fold(text: str) -> str:
    """Lower case, hyphens as spaces: "T-Shirt" is "t shirt"."""
    return " ".join(text.casefold().replace("-", " ").replace("_", " ").split())
