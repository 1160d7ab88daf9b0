"""The box, step 1 of 4: a small CLIP text tower distilled from a sentence encoder.

    python recipes/mini/text.py --data DATA --minilm DIR --wordnet DIR --run runs/mini

DATA: the training pictures' folder (label lists, photo names, captions); benchmark label names in DATA/../labelsets
are read too, where they are. DIR of --minilm: all-MiniLM-L6-v2
(config, tokenizer, safetensors), read with the build-time package `transformers`. DIR of --wordnet: data.noun of
WordNet 3.0. About 30 minutes on one core; stop it at any time and start it again.

Targets are the teacher's embeddings less their mean, reduced to the shared width by PCA: without the mean,
unrelated names are orthogonal, so that a temperature can tell them apart. Nouns that WordNet holds for synonyms are
drawn together, for the teacher does not know all of them; those of recipes/mini/synonyms.txt are not, so that the
measure of synonyms stays one. Captions with withheld names (withheld.py) are left out, so that the same tower serves
the training with names withheld.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from precision import autocast
from torch import Tensor
from vocabularies import read_pairs
from withheld import caption_kept

from sanseg.model.config import CLIP_MINI
from sanseg.model.text import TextTower
from sanseg.model.tokenizer import Tokenizer

THINGS = {"05", "06", "08", "13", "15", "17", "18", "19", "20", "27"}  # WordNet's files of what can be seen
TOGETHER = 0.6  # of the way from a noun to the mean of its synonyms
LOOKS = [
    "red",
    "green",
    "blue",
    "yellow",
    "white",
    "black",
    "brown",
    "grey",
    "pink",
    "orange",
    "wooden",
    "metal",
    "plastic",
    "glass",
    "stone",
    "brick",
    "small",
    "large",
    "old",
    "new",
    "young",
    "wet",
    "dry",
    "striped",
    "empty",
    "broken",
    "open",
    "closed",
    "round",
    "tall",
    "wild",
    "parked",
    "a",
    "the",
    "two",
    "many",
]


def wordnet_synsets(folder: Path) -> dict[str, tuple[str, ...]]:
    """Lemmas of visible things by the id of their synset; instances (one city, one person) are left out."""
    synsets = {}
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        fields = line.split(" ")
        if line.startswith(" ") or fields[1] not in THINGS or " @i " in line:
            continue
        synsets[fields[0]] = tuple(fields[4 + 2 * n].replace("_", " ") for n in range(int(fields[3], 16)))
    return synsets


def wordnet_first_senses(folder: Path) -> dict[str, str]:
    """The synset that is the first sense of each noun, in lower case."""
    first = {}
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            first[fields[0].replace("_", " ")] = fields[-int(fields[2])]
    return first


def wordnet_synonyms(folder: Path, synsets: dict[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Lemmas that share the sense that is the first of each: what they mean when nothing else is said.

    A synset that holds a word which the measure of synonyms asks for is left out.
    """
    first = wordnet_first_senses(folder)
    asked = {synonym.casefold() for synonym in read_pairs().values()}
    groups = []
    for synset, lemmas in synsets.items():
        alike = tuple(lemma for lemma in lemmas if first.get(lemma.casefold()) == synset)
        if len(alike) > 1 and not asked & {lemma.casefold() for lemma in lemmas}:
            groups.append(alike)
    return groups


def label_names(data: Path) -> list[str]:
    """Every name that a label list or a photo of `data` has, and the benchmarks' that lie beside it."""
    names: dict[str, None] = {}
    for file in sorted(data.glob("*/dataset.json")):
        for label in json.loads(file.read_text())["labels"]:
            names |= dict.fromkeys(label.split(" | "))
    for line in (data / "photos/labels.tsv").read_text(encoding="utf-8").splitlines():
        names[line.split("\t")[-1].strip()] = None
    for file in sorted(data.parent.glob("labelsets/*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            name = line.split("\t")[-1].strip()
            names |= dict.fromkeys([name, *name.split(", ")])
    return list(names)


def corpus(data: Path, wordnet: Path, seed: int = 0) -> tuple[list[str], list[float]]:
    """Texts and how often each is drawn."""
    generator = random.Random(seed)
    labels = label_names(data)
    nouns = list(dict.fromkeys(lemma for lemmas in wordnet_synsets(wordnet).values() for lemma in lemmas))
    lines = (data / "text/captions_coco.txt").read_text(encoding="utf-8").splitlines()
    captions = [line.strip() for line in lines if caption_kept(line)]
    weight: dict[str, float] = {}
    for texts, share in ((captions, 0.15), (nouns, 0.35)):
        weight |= {text: share / len(texts) for text in texts if text}
    spans: set[str] = set()
    for caption in captions * 3:
        words = re.findall(r"[a-z']+", caption.lower())
        length = generator.choice((1, 1, 2, 2, 3, 4))
        if len(words) >= length:
            start = generator.randrange(len(words) - length + 1)
            spans.add(" ".join(words[start : start + length]))
    described = {f"{generator.choice(LOOKS)} {generator.choice(labels)}" for _ in range(20_000)}
    for extra, share in ((spans, 0.2), (described, 0.1), (labels, 0.2)):
        for text in sorted(extra):
            weight[text] = weight.get(text, 0) + share / len(extra)
    return list(weight), list(weight.values())


@torch.inference_mode()
def teach(texts: list[str], folder: Path) -> Tensor:
    """The teacher's unit embeddings (len(texts), 384), float32: mean over tokens."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    rows = torch.empty(len(texts), model.config.hidden_size)
    for start in range(0, len(order), 256):
        some = order[start : start + 256]
        batch = tokenizer(
            [texts[n] for n in some], padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        with autocast():
            hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        rows[some] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        if start % 25_600 == 0:
            print(f"teacher {start}/{len(order)}", flush=True)
    return rows


def targets(texts: list[str], weight: Tensor, teacher: Tensor, width: int) -> Tensor:
    """Teacher embeddings, centred, reduced to `width` by PCA, unit length."""
    share = weight / weight.sum()
    centred = teacher - (share[:, None] * teacher).sum(0)
    _, _, directions = torch.linalg.svd(centred.T @ (share[:, None] * centred))
    return F.normalize(centred @ directions[:width].T, dim=-1)


def drawn_together(texts: list[str], rows: Tensor, groups: list[tuple[str, ...]]) -> Tensor:
    """Targets (len(texts), E), each of a group moved by TOGETHER towards the mean of its group, unit length."""
    place = {text: number for number, text in enumerate(texts)}
    moved = rows.clone()
    for group in groups:
        some = [place[text] for text in group]
        moved[some] = rows[some].lerp(F.normalize(rows[some].mean(0), dim=-1), TOGETHER)
    return F.normalize(moved, dim=-1)


def read_targets(run: Path) -> tuple[list[str], Tensor, Tensor]:
    """All texts, how often each is drawn, and what it is to become, float16 (len(texts), E)."""
    stored = torch.load(run / "text_targets.pt", weights_only=True)
    return stored["texts"], stored["weight"], stored["targets"]


def train(
    checkpoint: Path,
    tower: TextTower,
    texts: list[str],
    weight: Tensor,
    wanted: Tensor,
    steps: int,
    batch: int,
    learning_rate: float,
) -> None:
    """Teaches the tower its targets; its state and log lie at `checkpoint` and beside it, and it goes on from there."""
    tokens = Tokenizer(CLIP_MINI.text.merges)(texts, CLIP_MINI.text.context)
    lengths = (tokens > 0).sum(1)
    decayed = [p for p in tower.parameters() if p.ndim > 1]
    rest = [p for p in tower.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )
    warm_up, step = steps // 10, 0
    drawn: list[Tensor] = []
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / warm_up, max(0.0, 1 - n / steps) ** 0.9)
    )
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        tower.load_state_dict(state["tower"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step = state["step"]
    log, started = checkpoint.with_suffix(".jsonl").open("a"), time.time()
    while step < steps:
        # Eight batches are drawn at once and sorted by length, so that short names are not padded to captions.
        if step % 8 == 0 or not drawn:
            generator = torch.Generator().manual_seed(step // 8)
            pool = torch.multinomial(weight, 8 * batch, generator=generator)
            drawn = list(pool[lengths[pool].argsort()].chunk(8))
        some = drawn[step % 8]
        shown = tokens[some, : int(lengths[some].max())]
        with autocast():
            embedding = tower(shown)
        embedding, target = embedding.float(), wanted[some].float()
        cosine = (embedding * target).sum(1).mean()
        apart = F.cross_entropy(embedding @ target.T / 0.05, torch.arange(len(some)))
        loss = 10 * (1 - cosine) + apart
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        step += 1
        if step % 50 == 0:
            line = {
                "step": step,
                "cosine": cosine.item(),
                "contrast": apart.item(),
                "seconds": time.time() - started,
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
            print(line, flush=True)
        if step % 500 == 0 or step == steps:
            state = {
                "tower": tower.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step,
            }
            torch.save(state, f"{checkpoint}.part")
            Path(f"{checkpoint}.part").replace(checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--data", "--minilm", "--wordnet", "--run"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=512)
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    prepared = options.run / "text_targets.pt"
    if not prepared.exists():
        texts, weights = corpus(options.data, options.wordnet)
        weight = torch.tensor(weights)
        rows = targets(texts, weight, teach(texts, options.minilm), CLIP_MINI.embed)
        rows = drawn_together(
            texts, rows, wordnet_synonyms(options.wordnet, wordnet_synsets(options.wordnet))
        )
        torch.save({"texts": texts, "weight": weight, "targets": rows.half()}, f"{prepared}.part")
        Path(f"{prepared}.part").replace(prepared)
    texts, weight, wanted = read_targets(options.run)
    train(
        options.run / "text.pt",
        TextTower(CLIP_MINI),
        texts,
        weight,
        wanted,
        options.steps,
        options.batch,
        1e-3,
    )


if __name__ == "__main__":
    main()
