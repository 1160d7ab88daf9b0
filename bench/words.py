"""The first and the second use of a large vocabulary: CLIP B/16's text tower, 847 labels in 14 prompts each.

    python bench/words.py
    python bench/words.py --labels coco_stuff_171

Random weights: the time does not depend on their values. "plain" is every prompt at the tower's whole context, the
prompts of one label at a time; a sample of labels spread over the set is run that way in turn with our
batches, and its time multiplied. Embeddings of the sample are compared. "again" is a fresh process that finds
them in the cache's file: the checksum of the tower's weights, which names them there, and the reading; loading the
weights is not counted. Threads are torch's default; set OMP_NUM_THREADS to change them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor

from sanseg.data.labelsets import LABELSETS, read_labelset
from sanseg.model.checkpoint import fingerprint
from sanseg.model.config import CLIP_VIT_B16
from sanseg.model.templates import TEMPLATES
from sanseg.model.text import TextEncoder, TextTower
from sanseg.model.text_cache import TextCache
from sanseg.model.tokenizer import Tokenizer

SAMPLE = 16  # labels that are encoded the plain way


def make_tower() -> TextTower:
    torch.manual_seed(0)
    return TextTower(CLIP_VIT_B16).eval()


@torch.inference_mode()
def plain(tower: TextTower, tokenizer: Tokenizer, name: str) -> Tensor:
    """The embedding (E,) of one label, as the released code has it."""
    context = tower.config.context
    tokens = tokenizer([template.replace("{}", name) for template in TEMPLATES["vild"]], context)
    tokens = F.pad(tokens, (0, context - tokens.shape[1]))
    x = tower.embedding(tokens) + tower.position
    for block in tower.blocks:
        x = block(x, causal=True)
    end = x[torch.arange(len(x)), tokens.argmax(dim=1)]
    prompts = F.normalize(tower.norm_final(end) @ tower.projection, dim=-1)
    return F.normalize(prompts.mean(0), dim=-1)


def first_use(names: Sequence[str], file: Path) -> tuple[float, float, int, float]:
    """Seconds of all names our way; seconds of one the plain way, how many ran so, and how far apart they are."""
    tower = make_tower()
    encoder = TextEncoder(tower, fingerprint(tower), TextCache(file))
    sample, expected = list(names[:: max(1, len(names) // SAMPLE)]), {}
    plain(tower, encoder.tokenizer, "ready")
    TextEncoder(tower)(["ready"], "vild")
    ours = by_plain = 0.0
    since = time.perf_counter()

    def in_turn(_: int) -> None:
        """After each of our batches two labels the plain way, so that a busy machine is busy for both."""
        nonlocal ours, by_plain, since
        start = time.perf_counter()
        ours += start - since
        for name in sample[len(expected) : len(expected) + 2]:
            expected[name] = plain(tower, encoder.tokenizer, name)
        since = time.perf_counter()
        by_plain += since - start

    found = encoder(names, "vild", in_turn)
    ours += time.perf_counter() - since
    places = [names.index(name) for name in expected]
    apart = (found[places] - torch.stack([*expected.values()])).abs().max().item()
    return ours, by_plain / len(expected), len(expected), apart


def second_use(names: Sequence[str], file: Path) -> float:
    """Seconds in a process that never encoded these names."""
    tower = make_tower()
    tower.register_forward_pre_hook(_fail)
    start = time.perf_counter()
    TextEncoder(tower, fingerprint(tower), TextCache(file))(names, "vild")
    return time.perf_counter() - start


def _fail(*_: object) -> None:
    raise AssertionError("a name was not in the cache")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", choices=LABELSETS, default="ade20k_847")
    options = parser.parse_args()
    names = read_labelset(options.labels)
    with TemporaryDirectory(prefix="sanseg-words-") as folder:
        file = Path(folder) / "text.sqlite"
        ours, of_one, sampled, apart = first_use(names, file)
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            again = alone.apply(second_use, (names, file))
    by_plain = of_one * len(names)
    print(
        json.dumps(
            {
                "labels": len(names),
                "prompts": len(names) * len(TEMPLATES["vild"]),
                "threads": torch.get_num_threads(),
                "labels_by_plain": sampled,
                "plain_seconds": round(by_plain, 1),
                "first_seconds": round(ours, 1),
                "ratio": round(by_plain / ours, 1),
                "again_seconds": round(again, 2),
                "apart": apart,
            }
        )
    )


if __name__ == "__main__":
    main()
