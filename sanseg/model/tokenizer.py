"""CLIP's tokenizer: byte-pair encoding of lower-cased words, with the merges table that CLIP was published with."""

from __future__ import annotations

import gzip
import html
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from itertools import pairwise

import ftfy
import regex
import torch
from torch import Tensor

from sanseg.model.config import CLIP_MERGES

START, END = "<start_of_text>", "<end_of_text>"
_WORDS = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)


def clean(text: str) -> str:
    """Text as CLIP reads it: broken Unicode repaired, HTML entities resolved twice, spaces folded, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class Tokenizer:
    """Words to token ids, with the first `merges` rows of CLIP's merges table."""

    def __init__(self, merges: int = CLIP_MERGES) -> None:
        if not 0 <= merges <= CLIP_MERGES:
            raise ValueError(f"merges is {merges}: CLIP's table has 0 to {CLIP_MERGES}")
        characters = _byte_characters()
        pairs = _merges_table()[:merges]
        letters = list(characters.values())
        vocabulary = [*letters, *(c + "</w>" for c in letters), *("".join(p) for p in pairs), START, END]
        self._ids = {token: number for number, token in enumerate(vocabulary)}
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._characters = characters
        self.start, self.end = self._ids[START], self._ids[END]
        self._word_ids = lru_cache(maxsize=65_536)(self._merge)

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, without start and end."""
        return [number for word in _WORDS.findall(clean(text)) for number in self._word_ids(word)]

    def __call__(self, texts: Sequence[str], context: int) -> Tensor:
        """Token ids int64 (len(texts), L): start, text, end, then zeros; L is that of the longest text, at most
        `context`. A text that is too long loses its tail and keeps its end token, as CLIP has it."""
        rows = [[self.start, *self.encode(text)[: context - 2], self.end] for text in texts]
        tokens = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=torch.long)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = torch.tensor(row)
        return tokens

    def _merge(self, word: str) -> tuple[int, ...]:
        if word in (START, END):
            return (self._ids[word],)
        parts = [self._characters[byte] for byte in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, CLIP_MERGES))
            if best not in self._ranks:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return tuple(self._ids[part] for part in parts)


@lru_cache(maxsize=1)
def _merges_table() -> list[tuple[str, str]]:
    asset = resources.files("sanseg.model") / "assets" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(asset.read_bytes()).decode("utf-8").split("\n")[1 : CLIP_MERGES + 1]
    return [(first, second) for first, second in (line.split() for line in lines)]


def _byte_characters() -> dict[int, str]:
    """A printable character for each of the 256 bytes: itself where it prints, else one from 256 upwards."""
    printing = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    rest = [byte for byte in range(256) if byte not in printing]
    return {byte: chr(byte) for byte in printing} | {byte: chr(256 + n) for n, byte in enumerate(rest)}
