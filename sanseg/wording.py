"""What a text tower makes of words before any picture is asked: which it can hardly tell apart, which are odd to it.

K labels, E shared embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sanseg.data.labelsets import LABELSETS, read_labelset
from sanseg.distractors import distractors
from sanseg.model.templates import prompts
from sanseg.model.tokenizer import Tokenizer, clean
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary

PIECES = 4  # a word of so many tokens or more is hardly known
NEAR = 0.7  # of spelling, as difflib measures it
MIXED_UP = 0.99  # below this share, two words can hardly be told apart: regions look less alike than this


@dataclass(frozen=True)
class Pair:
    """Two words and how alike they are.

    cosine: of their rows. share: what the first of them gets, of the two, in a region that looks exactly like it, so
    at best; 0.5 where the words are the same to the model, 1 where they are nothing alike.
    """

    first: str
    second: str
    cosine: float
    share: float


@dataclass(frozen=True, eq=False)
class Wording:
    """What `examine` found.

    words: the labels and, marked by "not", the negative words. cosines: float32 (K, K), of each with each.
    pairs: of words, the most alike first. oddities: what is odd about a name, in a line that begins with it.
    suggestions: for names that no built-in list holds, those that are spelt nearly so, the nearest first.
    meanings: for the same names, all of them, those that are nearest to the text tower, and the cosine of each.
    """

    words: tuple[str, ...]
    cosines: NDArray[np.float32]
    pairs: tuple[Pair, ...]
    oddities: tuple[str, ...]
    suggestions: dict[str, tuple[str, ...]]
    meanings: dict[str, tuple[tuple[str, float], ...]]


def examine(
    segmenter: Segmenter, vocabulary: Vocabulary, progress: Callable[[int, int], None] = lambda done, of: None
) -> Wording:
    """Reads words with a model's text tower, in the prompts that they are asked with.

    progress: as `near_in_meaning` calls it.
    """
    asked = Vocabulary(vocabulary.names, templates=vocabulary.templates, negatives=vocabulary.negatives)
    classifier = segmenter.classifier(asked)
    rows = classifier.weight[:-1].float().cpu().numpy()  # the last is "nothing"
    cosines: NDArray[np.float32] = np.clip(rows @ rows.T, -1, 1)
    words = (*asked.labels, *(f"not {word}" for word in asked.negatives))
    names = [*(name for names in asked.names for name in names), *asked.negatives]
    text = segmenter.san.clip.text.config
    wording = prompts(asked.templates or segmenter.san.config.templates)
    tokenizer = Tokenizer(text.merges)
    return Wording(
        words,
        cosines,
        tuple(find_pairs(words, cosines, classifier.scale)),
        tuple(line for name in names for line in find_oddities(name, tokenizer, wording, text.context)),
        {name: near for name in names if (near := suggest(name))},
        near_in_meaning(segmenter, names, progress),
    )


def find_pairs(words: Sequence[str], cosines: NDArray[np.float32], scale: float) -> list[Pair]:
    """All pairs, the most alike first. scale: what the model multiplies cosines by to get logits."""
    first, second = np.triu_indices(len(words), k=1)
    alike = cosines[first, second]
    order = np.argsort(-alike, kind="stable")
    return [
        Pair(words[i], words[j], cosine := float(cosines[i, j]), 1 / (1 + math.exp(-scale * (1 - cosine))))
        for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True)
    ]


def find_oddities(name: str, tokenizer: Tokenizer, wording: Iterable[str], context: int) -> list[str]:
    """What may keep a text tower from knowing a name: a line each."""
    found = []
    words = list(dict.fromkeys(clean(name).split()))
    foreign = [word for word in words if any(one.isalpha() and not _latin(one) for one in word)]
    for word in words:
        pieces = len(tokenizer.encode(word))
        if pieces >= PIECES and word not in foreign and any(letter.isalpha() for letter in word):
            found.append(
                f"{name}: {word!r} falls into {pieces} pieces, so it was rare in training: try a common word"
            )
    if foreign:
        found.append(
            f"{name}: {foreign[0]!r} is not in Latin script, and CLIP read English: write it in English"
        )
    elif not any(one.isalpha() for one in name):
        found.append(f"{name}: it has no letters, and means little to a text tower: write what it is")
    longest = max(len(tokenizer.encode(prompt.replace("{}", name))) for prompt in wording)
    if longest > context - 2:
        found.append(
            f"{name}: its longest prompt has {longest} tokens, all after {context - 2} are cut off: shorten it"
        )
    return found


def _latin(letter: str) -> bool:
    return ord(letter) < 0x250 or 0x1E00 <= ord(letter) < 0x1F00


def suggest(name: str, count: int = 3) -> tuple[str, ...]:
    """Names of the built-in lists that are spelt nearly so, the nearest first; none for one that they hold."""
    known, key = _known(), _key(name)
    if key in known:
        return ()
    return tuple(known[near] for near in get_close_matches(key, known, count, NEAR))


def near_in_meaning(
    segmenter: Segmenter,
    names: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, of: None,
    count: int = 3,
) -> dict[str, tuple[tuple[str, float], ...]]:
    """For each name that no built-in list holds, the names of the lists that a model's text tower takes for nearest.

    All are read as bare names, so that a tower reads some 1,500 texts once, whatever the prompts: the text cache keeps
    them. Where every name is in a list, none is read.
    progress: called with how many names of the lists are read, and of how many; not where all are in the cache.
    Returns names and their cosines, the nearest first.
    """
    known = _known()
    unknown = [name for name in dict.fromkeys(names) if _key(name) not in known]
    if not unknown:
        return {}
    lists, read = tuple(dict.fromkeys(known.values())), 0

    def advance(more: int) -> None:
        nonlocal read
        read += more
        progress(read, len(lists))

    asked = Vocabulary(tuple((name,) for name in lists), templates="plain")
    theirs = _rows(segmenter, asked, advance)
    own = _rows(segmenter, Vocabulary(tuple((name,) for name in unknown), templates="plain"))
    nearest = {}
    for name, cosines in zip(unknown, np.clip(own @ theirs.T, -1, 1), strict=True):
        order = np.argsort(-cosines, kind="stable")[:count]
        nearest[name] = tuple((lists[row], float(cosines[row])) for row in order)
    return nearest


def _rows(
    segmenter: Segmenter, words: Vocabulary, progress: Callable[[int], None] | None = None
) -> NDArray[np.float32]:
    embeddings = segmenter.embed(words, None, progress).embeddings
    assert embeddings is not None
    row = {name: number for number, name in enumerate(embeddings.names)}
    return embeddings.rows[[row[name] for (name,) in words.names]]


def _key(name: str) -> str:
    return " ".join(name.casefold().split())


@cache
def _known() -> dict[str, str]:
    """Every name of the label sets and of the everyday words, by its lower case."""
    names = [
        name for labelset in LABELSETS for label in read_labelset(labelset) for name in label.split(" | ")
    ]
    # Benchmark names hold synonyms between commas.
    parts = [part.strip() for name in [*names, *distractors([])] for part in name.split(",")]
    return {part.casefold(): part for part in reversed(parts)}
