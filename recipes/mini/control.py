"""What the box has to beat: one dense head on a frozen EfficientNet-Lite0, into the same space of words.

    python recipes/mini/control.py --data DATA --lite0 LITE0.pth --run runs/mini
    python recipes/mini/control.py --data DATA --lite0 LITE0.pth --run runs/mini --withheld

Strides 16 and 32 joined, a 3x3 convolution of 256 channels, a 1x1 convolution to the shared space, cross-entropy of
every known pixel against its own set's labels. It takes the words of a finished model, trains, and prints mIoU on the
`val` splits and IoU of the ten names of withheld.py, as measure.py counts them; `control.json` and
`control-withheld.json` hold them. Stop it at any time and start it again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import SETS as VAL
from numpy.typing import NDArray
from open_vocabulary import count, figures_of
from precision import autocast
from questions import mean
from rich.progress import track
from stem_weights import load_stem
from torch import Tensor, nn
from withheld import left_out, without

from sanseg.data.datasets import SegmentationSet
from sanseg.data.stream import Batch, Stream
from sanseg.data.transforms import Augmentation
from sanseg.images import prepare, write_json
from sanseg.model.config import CLIP_MINI, OPENAI_MEAN, OPENAI_STD, SAN_MINI
from sanseg.model.stem import Lite0Stem
from sanseg.model.text import TextEncoder
from sanseg.model.weights import load_san
from sanseg.vocabulary import Vocabulary

SETS = {  # how often an epoch shows each set
    "coco_panoptic": 3.0,
    "coco_things": 1.0,
    "voc": 0.7,
    "clothing": 1.0,
    "facade": 0.5,
    "msrc": 1.0,
    "camvid": 1.0,
}
SHOWN = replace(SAN_MINI, short_side=320)  # of the pictures that it is asked, as of those that teach it
CROP = 256
SAVE_EVERY = 100  # steps


class Control(nn.Module):
    """Pictures to unit embeddings (B, E, h, w) at stride 16."""

    def __init__(self, lite0: Path, words: TextEncoder) -> None:
        super().__init__()
        self.words = words
        self.stem = load_stem(lite0, Lite0Stem.NAME, CLIP_MINI.vision.width)
        self.stem.requires_grad_(False)
        self.head = nn.Sequential(
            nn.Conv2d(112 + 320, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, CLIP_MINI.embed, 1)
        )
        self.logit_scale = nn.Parameter(torch.tensor(15.0).log())

    def forward(self, image_B3HW: Tensor) -> Tensor:
        with torch.no_grad():
            _, middle, last = self.stem.features(image_B3HW)
            coarse = F.interpolate(last, size=middle.shape[-2:], mode="bilinear", align_corners=False)
        return F.normalize(self.head(torch.cat([middle, coarse], 1)).float(), dim=1)

    def logits(self, embedding_Ehw: Tensor, rows_KE: Tensor, size: tuple[int, int]) -> Tensor:
        """(K, *size)."""
        scores = self.logit_scale.exp() * torch.einsum("ke,ehw->khw", rows_KE, embedding_Ehw)
        return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]

    @torch.no_grad()
    def rows(self, vocabulary: Vocabulary) -> Tensor:
        """(K, E): the mean over a label's synonyms."""
        return self.words.rows(vocabulary.names, SAN_MINI.templates)

    @torch.inference_mode()
    def label_map(self, image: NDArray[np.uint8], vocabulary: Vocabulary) -> NDArray[np.uint8]:
        padded, geometry = prepare(image, SHOWN)
        scores = self.logits(self(padded[None])[0], self.rows(vocabulary), geometry.padded)
        scores = scores[:, : geometry.content[0], : geometry.content[1]]
        scores = F.interpolate(scores[None], size=geometry.original, mode="bilinear", align_corners=False)
        return scores[0].argmax(0).numpy().astype(np.uint8)


def train(
    control: Control, sets: Sequence[SegmentationSet], steps: int, batch: int, checkpoint: Path
) -> None:
    """Its state lies at `checkpoint`, and it goes on from there."""
    classifiers = [control.rows(one.vocabulary) for one in sets]
    augmentation = Augmentation(short_side=SHOWN.short_side, scale=(0.6, 1.3), crop=CROP)
    stream = Stream(sets, augmentation, OPENAI_MEAN, OPENAI_STD, seed=0, repeats=list(SETS.values()))
    trained = [*control.head.parameters(), control.logit_scale]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    begin = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        control.head.load_state_dict(state["head"])
        control.logit_scale.data.copy_(state["logit_scale"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["step"]
    for step in track(range(begin, steps), "control"):
        drawn = Batch.of([stream[step * batch + i] for i in range(batch)])
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps) ** 0.9
        with autocast():
            embeddings = control(drawn.images)
        losses = []
        for embedding, index_map, source in zip(embeddings, drawn.index_maps, drawn.sources, strict=True):
            wanted = index_map[2::4, 2::4]
            known = wanted < len(classifiers[source])
            logits = control.logits(embedding, classifiers[source], (CROP // 4, CROP // 4))
            summed = F.cross_entropy(logits[None], wanted[None].where(known, -100), reduction="sum")
            losses.append(summed / known.sum().clamp(min=1))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            state = {"head": control.head.state_dict(), "logit_scale": control.logit_scale.detach()}
            state |= {"optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, f"{checkpoint}.part")
            Path(f"{checkpoint}.part").replace(checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--data", "--lite0", "--run"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--words", default="mini", help="a SAN whose words are taken, by name or path")
    parser.add_argument("--withheld", action="store_true", help="train without the names of withheld.py")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--limit", type=int, help="only so many pictures of each set, to try it")
    options = parser.parse_args()
    torch.manual_seed(0)
    name = "control-withheld" if options.withheld else "control"
    options.run.mkdir(parents=True, exist_ok=True)
    sets = [SegmentationSet.open(options.data / one) for one in SETS]
    control = Control(options.lite0, TextEncoder(load_san(options.words).clip.text))
    shown = [without(one) for one in sets] if options.withheld else sets
    train(control, shown, options.steps, options.batch, options.run / f"{name}.pt")

    vals = [SegmentationSet.open(options.data / one, "val") for one in VAL]
    tested = [one for one in map(left_out, sets) if len(one)]
    on_val = count(control.label_map, vals, lambda _: None, options.limit)
    on_tested = count(control.label_map, tested, lambda _: None, options.limit)
    miou = {one: counted.miou for one, counted in zip(VAL, on_val, strict=True)}
    miou["mean"] = mean(miou.values())
    found = {"mIoU": miou, "IoU": figures_of(on_val, on_tested)}
    print(json.dumps(found, indent=1))
    write_json(options.run / f"{name}.json", found)


if __name__ == "__main__":
    main()
