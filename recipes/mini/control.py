"""What the box has to beat: one dense head on a frozen EfficientNet-Lite0, into the same space of words.

    python recipes/mini/control.py --data DATA --lite0 LITE0.pth --run runs/mini

Strides 16 and 32 joined, a 3x3 convolution of 256 channels, a 1x1 convolution to the shared space, cross-entropy of
every known pixel against its own set's labels. It reads the names' targets of step 1, trains, and prints mIoU on the
`val` splits.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import SETS as VAL
from numpy.typing import NDArray
from precision import autocast
from stem_weights import load_stem
from torch import Tensor, nn

from sanseg.data.datasets import SegmentationSet
from sanseg.data.stream import Batch, Stream
from sanseg.data.transforms import Augmentation
from sanseg.evaluate import evaluate
from sanseg.images import prepare
from sanseg.model.config import CLIP_MINI, OPENAI_MEAN, OPENAI_STD, SAN_MINI
from sanseg.model.stem import Lite0Stem

SETS = {  # how often an epoch shows each set
    "coco_panoptic": 3.0,
    "coco_things": 1.0,
    "voc": 0.7,
    "clothing": 1.0,
    "facade": 0.5,
    "msrc": 1.0,
    "camvid": 1.0,
}
CROP = 256


def name_rows(prepared: Path) -> dict[str, Tensor]:
    """Name -> target embedding, of all texts of step 1."""
    stored = torch.load(prepared, weights_only=True)
    return dict(zip(stored["texts"], stored["targets"].float(), strict=True))


def rows_of(sets: list[SegmentationSet], rows: dict[str, Tensor]) -> list[Tensor]:
    """Classifier rows (K, E) of each set: the mean over a label's synonyms."""
    return [
        F.normalize(torch.stack([sum(rows[n] for n in names) for names in one.vocabulary.names]), dim=-1)
        for one in sets
    ]


class Control(nn.Module):
    """Pictures to unit embeddings (B, E, h, w) at stride 16."""

    def __init__(self, lite0: Path) -> None:
        super().__init__()
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--data", "--lite0", "--run"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = name_rows(options.run / "text_targets.pt")
    sets = [SegmentationSet.open(options.data / name) for name in SETS]
    classifiers = rows_of(sets, rows)
    augmentation = Augmentation(short_side=320, scale=(0.6, 1.3), crop=CROP)
    stream = Stream(sets, augmentation, OPENAI_MEAN, OPENAI_STD, seed=0, repeats=list(SETS.values()))
    control = Control(options.lite0)
    optimizer = torch.optim.AdamW(
        [*control.head.parameters(), control.logit_scale], lr=1e-3, weight_decay=0.01
    )
    for step in range(options.steps):
        batch = Batch.of([stream[step * options.batch + i] for i in range(options.batch)])
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / options.steps) ** 0.9
        with autocast():
            embeddings = control(batch.images)
        loss = torch.stack(
            [
                F.cross_entropy(
                    control.logits(embedding, classifiers[source], (CROP // 4, CROP // 4))[None],
                    index_map[None, 2::4, 2::4].where(index_map[2::4, 2::4] < len(classifiers[source]), -100),
                    reduction="sum",
                )
                / (index_map[2::4, 2::4] < len(classifiers[source])).sum().clamp(min=1)
                for embedding, index_map, source in zip(
                    embeddings, batch.index_maps, batch.sources, strict=True
                )
            ]
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {loss.item():.3f}", flush=True)

    found = {}
    for name in VAL:
        val = SegmentationSet.open(options.data / name, "val")
        classifier = rows_of([val], rows)[0]

        @torch.inference_mode()
        def predict(
            image: NDArray[np.uint8], _: object, classifier: Tensor = classifier
        ) -> NDArray[np.uint8]:
            padded, geometry = prepare(image, SAN_MINI)
            scores = control.logits(control(padded[None])[0], classifier, geometry.padded)
            scores = scores[:, : geometry.content[0], : geometry.content[1]]
            scores = F.interpolate(scores[None], size=geometry.original, mode="bilinear", align_corners=False)
            return scores[0].argmax(0).numpy().astype(np.uint8)

        found[name] = evaluate(predict, val).miou_present
        print(f"{name:14} {found[name]:5.1f}", flush=True)
    found["mean"] = sum(found.values()) / len(found)
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


if __name__ == "__main__":
    main()
