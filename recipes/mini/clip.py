"""The box, step 2 of 3: a small CLIP image tower on a frozen EfficientNet-Lite0, into the space of words.

    python recipes/mini/clip.py --data DATA --lite0 FILE --run runs/mini

It reads names' target embeddings from step 1 (`text_targets.pt`, made in its first minutes), so it can run beside
it. Four things are learned at once:

- regions: [SLS] tokens with the ground-truth mask as attention bias name the mask's label, among its set's labels;
- patches: so do the patch tokens after the last block, and, through a head that is thrown away, after the block
  where the side adapter last reads;
- pictures: the class token names what Lite0's own ImageNet head sees, among ImageNet's 1,000 names;
- patches, among the same names, where that head is sure.

Stop it at any time and start it again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from stem_weights import Lite0Head, load_stem
from torch import Tensor, nn

from sanseg.data.datasets import SegmentationSet
from sanseg.data.stream import Batch, Example, Stream
from sanseg.data.transforms import Augmentation, augment, to_tensors
from sanseg.images import read_image
from sanseg.model.clip import VisionTower
from sanseg.model.config import OPENAI_MEAN, OPENAI_STD, SAN_MINI
from sanseg.model.transformer import recognition_mask

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
HARDNESS = (3.0, 12.0)  # how strongly the bias turns [SLS] tokens away from the rest of the picture


class Photos:
    """Pictures without masks, endless and in an order of their own."""

    def __init__(self, folder: Path, augmentation: Augmentation) -> None:
        self.files = sorted((folder / "images").glob("*.jpg"))
        self.augmentation = augmentation

    def __getitem__(self, number: int) -> Example:
        epoch, place = divmod(number, len(self.files))
        file = self.files[int(np.random.default_rng((1, epoch)).permutation(len(self.files))[place])]
        image = read_image(file)
        rng = np.random.default_rng((2, number))
        view, index_map = augment(image, np.full(image.shape[:2], 255, np.uint8), self.augmentation, rng)
        padded = to_tensors(view, index_map, self.augmentation.crop, OPENAI_MEAN, OPENAI_STD, 255)
        return Example(file.name, *padded, source=-1)


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


def imagenet_rows(data: Path, rows: dict[str, Tensor]) -> Tensor:
    """(1000, E), in the order of the classes, which is that of their WordNet ids."""
    lines = (data / "photos/labels.tsv").read_text(encoding="utf-8").splitlines()
    named = sorted(line.split("\t") for line in lines if line.startswith("in_"))
    return torch.stack([rows[name.strip()] for _, _, name in named])


def region_biases(
    index_maps: Tensor, sources: tuple[int, ...], counts: list[int], heads: int
) -> tuple[Tensor, list[Tensor]]:
    """Ground-truth masks as biases (B, N, T, h, w), padded to the most masks of a picture; and their labels."""
    labels, biases = [], []
    for index_map, source in zip(index_maps, sources, strict=True):
        present = torch.unique(index_map)
        present = present[present < counts[source]]
        masks = (index_map == present[:, None, None]).float()
        inside = F.adaptive_max_pool2d(masks, CROP // 16) if len(present) else masks[:, ::16, ::16]
        hardness = torch.empty(len(present), 1, 1).uniform_(*HARDNESS)
        labels.append(present)
        biases.append((inside - 1) * hardness)
    most = max(1, *(len(one) for one in labels))
    padded = torch.stack([F.pad(bias, (0, 0, 0, 0, 0, most - len(bias))) for bias in biases])
    return padded[:, None].expand(-1, heads, -1, -1, -1), labels


class Learner(nn.Module):
    """The tower, a temperature, and the throw-away head."""

    def __init__(self, lite0: Path) -> None:
        super().__init__()
        self.tower = VisionTower(SAN_MINI.clip)
        stem, self.lite0_head = load_stem(lite0, SAN_MINI.clip.vision.width)
        self.tower.stem.load_state_dict(stem.state_dict())
        nn.init.normal_(self.tower.class_token, std=0.02)
        self.tower.stem.to(memory_format=torch.channels_last)  # three times as fast in bfloat16
        self.early = nn.Linear(SAN_MINI.clip.vision.width, SAN_MINI.clip.embed)
        self.logit_scale = nn.Parameter(torch.tensor(15.0).log())
        for module in (self.tower.stem.first, self.tower.stem.stages):
            module.requires_grad_(False)

    def forward(self, images: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        """Region, picture, patch and early patch embeddings; Lite0's logits of pictures and places."""
        tower = self.tower
        with torch.no_grad():
            _, middle, last = tower.stem.features(images.contiguous(memory_format=torch.channels_last))
            head: Lite0Head = self.lite0_head
            places = head.dense(last)
            seen = head(last)
        split = SAN_MINI.split
        shallow = tower.shallow_of(tower.stem.join(middle, last), None, split, (split,))
        early = F.normalize(self.early(shallow.tokens[:, 1:]).float(), dim=-1)
        mask = recognition_mask(bias)
        context = shallow.tokens
        with_masks = len(bias)
        sls = context[:with_masks, :1].expand(-1, bias.shape[2], -1)
        for block in tower.blocks[split:]:
            sls, _ = block.beside(sls, context[:with_masks], mask, last=True)
            context = block(context)
        embedded = tower.embed(context).float()
        return tower.embed(sls).float(), embedded[:, 0], embedded[:, 1:], early, seen.float(), places.float()


def patch_labels(index_maps: Tensor) -> Tensor:
    """The label of one random pixel of every 16 x 16: (B, h w)."""
    B, H, W = index_maps.shape
    cells = index_maps.view(B, H // 16, 16, W // 16, 16).transpose(2, 3).reshape(B, -1, 256)
    return cells.gather(2, torch.randint(256, (*cells.shape[:2], 1)))[..., 0]


def losses(
    learner: Learner, batch: Batch, photos: Batch, rows: list[Tensor], imagenet: Tensor
) -> dict[str, Tensor]:
    counts = [len(one) for one in rows]
    bias, labels = region_biases(batch.index_maps, batch.sources, counts, SAN_MINI.clip.vision.heads)
    images = torch.cat([batch.images, photos.images])
    with torch.autocast("cpu", torch.bfloat16):
        regions, picture, patches, early, seen, places = learner(images, bias)
    scale = learner.logit_scale.exp().clamp(max=50)
    wanted = patch_labels(batch.index_maps)
    region, dense, shallow = [], [], []
    for number, source in enumerate(batch.sources):
        classifier = rows[source].T
        count = len(labels[number])
        if count:
            logits = scale * regions[number, :count] @ classifier
            region.append(F.cross_entropy(logits, labels[number], reduction="none"))
        known = wanted[number] < counts[source]
        for kept, tokens in ((dense, patches), (shallow, early)):
            logits = scale * tokens[number][known] @ classifier
            kept.append(F.cross_entropy(logits, wanted[number][known], reduction="none"))
    names = F.log_softmax(scale * picture @ imagenet.T, dim=-1)
    pooled = F.avg_pool2d(patches.mT.unflatten(2, (CROP // 16,) * 2), 2).permute(0, 2, 3, 1)
    places = places.softmax(-1)
    sure = places.amax(-1)
    place_names = F.log_softmax(scale * F.normalize(pooled, dim=-1) @ imagenet.T, dim=-1)
    return {
        "region": torch.cat(region).mean(),
        "patch": torch.cat(dense).mean(),
        "early": torch.cat(shallow).mean(),
        "picture": -(seen.softmax(-1) * names).sum(-1).mean(),
        "place": (-(places * place_names).sum(-1) * sure).sum() / sure.sum(),
    }


WEIGHTS = {"region": 1.0, "patch": 1.0, "early": 0.5, "picture": 0.3, "place": 0.2}


def batches(
    stream: Stream, photos: Photos, step: int, size: int, others: int
) -> Iterator[tuple[Batch, Batch]]:
    """Step after step, one step ahead in a thread."""

    def load(number: int) -> tuple[Batch, Batch]:
        return (
            Batch.of([stream[number * size + i] for i in range(size)]),
            Batch.of([photos[number * others + i] for i in range(others)]),
        )

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(load, step)
        while True:
            step += 1
            now, ahead = ahead, pool.submit(load, step)
            yield now.result()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--data", "--lite0", "--run"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--photos", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = name_rows(options.run / "text_targets.pt")
    sets = [SegmentationSet.open(options.data / name) for name in SETS]
    augmentation = Augmentation(short_side=320, scale=(0.6, 1.3), crop=CROP)
    stream = Stream(sets, augmentation, OPENAI_MEAN, OPENAI_STD, seed=0, repeats=list(SETS.values()))
    photos = Photos(options.data / "photos", Augmentation(short_side=288, scale=(0.9, 1.2), crop=CROP))
    classifiers, imagenet = rows_of(sets, rows), imagenet_rows(options.data, rows)

    learner = Learner(options.lite0)
    trained = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=8e-4,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / 100, max(0.0, 1 - n / options.steps) ** 0.9)
    )
    step, checkpoint = 0, options.run / "clip.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in (("learner", learner), ("optimizer", optimizer), ("schedule", schedule)):
            part.load_state_dict(state[name])
        step = state["step"]
    log, started, means = (options.run / "clip.jsonl").open("a"), time.time(), {}
    for batch, some_photos in batches(stream, photos, step, options.batch, options.photos):
        if step >= options.steps:
            break
        torch.manual_seed(step)
        parts = losses(learner, batch, some_photos, classifiers, imagenet)
        loss = sum(WEIGHTS[name] * part for name, part in parts.items())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        step += 1
        for name, part in parts.items():
            means[name] = means.get(name, 0.0) + part.item() / 25
        if step % 25 == 0:
            line = {"step": step, **{k: round(v, 4) for k, v in means.items()}}
            line |= {"scale": learner.logit_scale.exp().item(), "seconds": round(time.time() - started)}
            log.write(json.dumps(line) + "\n")
            log.flush()
            print(line, flush=True)
            means = {}
        if step % 100 == 0 or step == options.steps:
            state = {"learner": learner.state_dict(), "step": step}
            state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            torch.save(state, f"{checkpoint}.part")
            Path(f"{checkpoint}.part").replace(checkpoint)


if __name__ == "__main__":
    main()
