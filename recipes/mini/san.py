"""The box, step 2 of 4: a small CLIP's image tower and the SAN beside it, learned together.

    python recipes/mini/san.py --data DATA --lite2 LITE2.pth --run runs/mini
    python recipes/mini/san.py --data DATA --lite2 LITE2.pth --run runs/mini --withheld
    python recipes/mini/san.py --data DATA --lite2 LITE2.pth --run runs/mini --words MINI.safetensors
    python recipes/mini/san.py --data DATA --begin MINI.safetensors --run runs/mini  # the second leg only

It takes words as step 1's text tower embeds them, or as a finished model's does (no picture taught that one either),
and writes `mini.safetensors` (`withheld.safetensors`, of a training without the names of withheld.py), in float16.
The stem, EfficientNet-Lite2, is frozen, and so is its own ImageNet classifier, which guesses at regions in the space
of words (`model.stem.Guess`). Learned are the tower's blocks and the side adapter:

- SAN's own losses, and that of the answer, half of whose points are drawn evenly over a picture's labels;
- regions: [SLS] tokens with the ground-truth mask as attention bias name the mask's label, among its set's labels;
- patches, where the side adapter last reads: so do they, through a head that is thrown away;
- photos: the whole CLIP names what the photo is called, among all photos' names, and what the classifier sees.

Pictures with rare labels are drawn more often. A picture may be asked another set's labels where the two share most
of what it shows. Labels' embeddings are shaken, for synonyms lie near them, not on them. From step 2,000 on pictures
are larger, and fewer at a time; a second leg draws more of the sets that are hard. What is saved is an average of the
weights over the last steps. Stop it at any time and start it again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from photos import IMAGENET_SAMPLE, Photo, held_out, read_photos
from precision import autocast
from stem_weights import load_guess, load_stem
from torch import Tensor, nn
from withheld import photo_kept, without

from examples import Photos, Pictures
from sanseg.data.datasets import SegmentationSet
from sanseg.data.stream import Batch
from sanseg.data.transforms import Augmentation
from sanseg.losses import Draws, LossConfig, Normalisers, Target, reading_losses
from sanseg.model.clip import Shallow
from sanseg.model.config import SAN_MINI, SANConfig
from sanseg.model.san import SAN
from sanseg.model.text import Classifier, TextEncoder, TextTower
from sanseg.model.weights import load_san, save_san

# How often a picture is drawn of each set: at first, and in the second leg, more of those that are hard.
SETS = {
    "coco_panoptic": (450, 900),
    "coco_things": (330, 300),
    "voc": (620, 450),
    "clothing": (550, 900),
    "facade": (330, 400),
    "msrc": (330, 250),
    "camvid": (230, 800),
}
LOSS = LossConfig(points=1_024, count_unknown=False, answer_weight=4.0, answer_points=1_024)
OTHERS = {"region": 1.0, "early": 0.5, "photo": 0.5}  # weights of the losses that are not SAN's


@dataclass(frozen=True)
class Stage:
    """From step number `begins` on. short_side, crop: of pictures with masks, in pixels; photos are smaller.

    leg: which of the shares in SETS and of the LEGS it is part of.
    """

    begins: int
    short_side: int
    crop: int
    pictures: int
    photos: int
    leg: int = 0


# Small pictures teach names soon, larger ones where borders and thin things are, at the same cost a step.
STAGES = (Stage(0, 320, 256, 16, 4), Stage(2_000, 448, 384, 8, 2), Stage(3_000, 448, 448, 6, 2, leg=1))
LEGS = ((3_000, 1.0), (1_200, 0.5))  # steps, and the share of LEARNING_RATE that falls to nothing over them
# How strongly a ground-truth bias turns [SLS] tokens away from the rest of the picture: drawn between these.
HARDNESS = (3.0, 12.0)
SHAKEN = 0.3  # length of the noise that a label's unit embedding gets, in half of the steps
# Of the guesses in what is written, in training it is 1. Names of the training lists come out alike either
# way; those that no training saw, only the classifier may know.
GAIN = 1.25
LEARNING_RATE, WARM_UP = 8e-4, 100
AVERAGE = 0.995  # how much of the average of weights a step keeps


class Learner(nn.Module):
    """The SAN, with a throw-away head on the patches where its side adapter last reads."""

    def __init__(self, san: SAN) -> None:
        super().__init__()
        self.san = san
        self.words = TextEncoder(san.clip.text.eval())
        self.early = nn.Linear(SAN_MINI.clip.vision.width, SAN_MINI.clip.embed)
        tower = san.clip.visual
        nn.init.ones_(tower.guess.gain)
        self.requires_grad_(True)
        for frozen in (tower.stem.first, tower.stem.stages, tower.guess, self.san.clip.text):
            frozen.requires_grad_(False)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        return {name: one for name, one in self.named_parameters() if one.requires_grad}

    def losses(
        self, batch: Batch, photos: Batch, named: Tensor, rows: Sequence[Tensor], names: Tensor, step: int
    ) -> dict[str, Tensor]:
        """rows: (K, E) of each set. named: int64 (photos,), which of `names` (M, E) each is called."""
        san, side = self.san, SAN_MINI.side
        generator = torch.Generator().manual_seed(step)
        rows = [shaken(one, generator) for one in rows]
        targets = [
            Target.from_index_map(index_map, len(rows[source]))
            for index_map, source in zip(batch.index_maps, batch.sources, strict=True)
        ]
        regions, labels = region_masks(targets, side.mask_stride)
        hardness = torch.empty(*regions.shape[:2], 1, 1).uniform_(*HARDNESS, generator=generator)
        pictures = len(batch.images)
        with autocast():
            wanted = {block for block, _ in side.fusion}
            both = torch.cat([batch.images, photos.images])
            shallow = san.clip.visual.shallow(both, SAN_MINI.split, wanted)
            early = self.early(shallow.tokens[:pictures, 1:])
            whole = of_whole(san, shallow, pictures)
            shallow = first(shallow, pictures)
            ((masks, biases),) = san.side_adapter(batch.images, shallow, auxiliary=False)
            inside = F.adaptive_max_pool2d(regions, shallow.grid)
            biases = torch.cat(
                [biases, ((inside - 1) * hardness)[:, None].expand(-1, biases.shape[1], -1, -1, -1)], 2
            )
            certain = (regions - 0.5) * 20  # a ground-truth mask as logits
            embedded, _ = san.recognise(shallow, torch.cat([masks, certain.to(masks.dtype)], 1), biases)
        proposed, asked = embedded.float().split([side.queries, regions.shape[1]], dim=1)
        classifiers = [Classifier.build(one, san.nothing, san.clip.logit_scale) for one in rows]
        logits = [classifiers[s].logits(one) for s, one in zip(batch.sources, proposed, strict=True)]
        draws = Draws.make(targets, side.queries, LOSS, generator)
        draws = replace(
            draws, answer=even_draws(targets, [len(rows[s]) for s in batch.sources], draws.answer)
        )
        counted = Normalisers.count(targets, [len(rows[s]) for s in batch.sources], side.queries, LOSS)
        own = reading_losses(logits, masks, targets, draws, LOSS, counted)
        scale = san.clip.logit_scale.exp().clamp(max=50)
        region, shown = [], []
        wanted_BL = patch_labels(batch.index_maps, generator)
        for number, source in enumerate(batch.sources):
            count = len(labels[number])
            if count:
                guessed = scale * asked[number, :count] @ rows[source].T
                region.append(F.cross_entropy(guessed, labels[number], reduction="none"))
            known = wanted_BL[number] < len(rows[source])
            tokens = F.normalize(early[number][known].float(), dim=-1)
            shown.append(
                F.cross_entropy(scale * tokens @ rows[source].T, wanted_BL[number][known], reduction="none")
            )
        return {
            "classification": LOSS.class_weight * own.classification,
            "mask": LOSS.mask_weight * own.mask,
            "dice": LOSS.dice_weight * own.dice,
            "answer": LOSS.answer_weight * own.answer,
            "region": OTHERS["region"] * torch.cat(region).mean(),
            "early": OTHERS["early"] * torch.cat(shown).mean(),
            "photo": OTHERS["photo"] * F.cross_entropy(scale * whole.float() @ names.T, named),
        }


def taken_words(model: Path) -> tuple[TextTower, Tensor]:
    """As `new_words`, of a finished model."""
    clip = load_san(model).clip
    return clip.text, clip.visual.guess.names


def new_words(text: Path, classes: Sequence[str]) -> tuple[TextTower, Tensor]:
    """Step 1's text tower, and what it makes of the classes that the stem's classifier tells apart."""
    tower = TextTower(SAN_MINI.clip).eval()
    tower.load_state_dict(torch.load(text, weights_only=True)["tower"])
    return tower, TextEncoder(tower)(classes, SAN_MINI.templates)


def fresh(lite2: Path, words: TextTower, classes: Tensor) -> SAN:
    """A SAN before its first step. classes: (1000, E), embeddings of what the stem's classifier tells apart."""
    san, vision = SAN(SAN_MINI), SAN_MINI.clip.vision
    san.clip.text.load_state_dict(words.state_dict())
    tower = san.clip.visual
    tower.stem = load_stem(lite2, vision.stem, vision.width)
    load_guess(lite2, tower.guess)
    nn.init.normal_(tower.class_token, std=0.02)
    with torch.no_grad():
        tower.guess.names.copy_(classes)
        san.clip.logit_scale.fill_(np.log(15.0))
        san.side_adapter.query.mul_(0.1)
        san.side_adapter.query_position.mul_(0.1)
    return san


def of_whole(san: SAN, shallow: Shallow, start: int) -> Tensor:
    """The plain CLIP's embeddings (B, E) of the pictures from number `start` on."""
    visual, tokens = san.clip.visual, shallow.tokens[start:]
    for block in visual.blocks[shallow.passed :]:
        tokens = block(tokens)
    guess = shallow.guess[start:]
    seen = visual.guess.seen(guess, torch.ones_like(guess[:, :1]))
    return visual.guess.join(visual.embed(tokens[:, :1]), seen)[:, 0]


def first(shallow: Shallow, count: int) -> Shallow:
    """Of the first so many pictures."""
    return replace(
        shallow,
        features={passed: feature[:count] for passed, feature in shallow.features.items()},
        tokens=shallow.tokens[:count],
        fine=shallow.fine[:count],
        guess=shallow.guess[:count],
    )


def shaken(rows_KE: Tensor, generator: torch.Generator) -> Tensor:
    if torch.rand((), generator=generator) < 0.5:
        return rows_KE
    noise = F.normalize(torch.randn(rows_KE.shape, generator=generator), dim=-1)
    return F.normalize(rows_KE + SHAKEN * noise, dim=-1)


def region_masks(targets: Sequence[Target], stride: int) -> tuple[Tensor, list[Tensor]]:
    """Ground-truth masks (B, T, h, w) on the mask grid, padded to the most masks of a picture; and their labels."""
    pooled = [F.avg_pool2d(one.masks.float()[:, None], stride)[:, 0] for one in targets]
    most = max(1, *(len(one) for one in pooled))
    padded = torch.stack([F.pad(one, (0, 0, 0, 0, 0, most - len(one))) for one in pooled])
    return padded, [one.labels for one in targets]


def patch_labels(index_maps: Tensor, generator: torch.Generator) -> Tensor:
    """The label of one random pixel of every 16 x 16: (B, h w)."""
    B, H, W = index_maps.shape
    cells = index_maps.view(B, H // 16, 16, W // 16, 16).transpose(2, 3).reshape(B, -1, 256)
    return cells.gather(2, torch.randint(256, (*cells.shape[:2], 1), generator=generator))[..., 0]


def even_draws(targets: Sequence[Target], counts: Sequence[int], draws_BA: Tensor) -> Tensor:
    """The draws of the answer loss, so that the second half of them falls evenly on the labels of each picture.

    A draw says which of the picture's known pixels is meant: see `losses.answer_loss`.
    """
    even = draws_BA.clone()
    half = draws_BA.shape[1] // 2
    for number, (target, labels) in enumerate(zip(targets, counts, strict=True)):
        ids = target.index_map[~target.unknown(labels)]
        if len(ids) == 0:
            continue
        order = ids.argsort(stable=True)
        _, sizes = ids[order].unique_consecutive(return_counts=True)
        chosen = torch.arange(draws_BA.shape[1] - half) % len(sizes)
        starts = sizes.cumsum(0) - sizes
        place = order[starts[chosen] + (draws_BA[number, half:] * sizes[chosen]).long()]
        even[number, half:] = (place + 0.5) / len(ids)
    return even


def stage_at(step: float) -> Stage:
    return next(one for one in reversed(STAGES) if one.begins <= step)


def batches(
    sets: Sequence[SegmentationSet],
    photos: Sequence[Photo],
    names: Sequence[str],
    step: int,
    share: float = 1.0,
) -> Iterator[tuple[Batch, Batch, Tensor]]:
    """Step after step, one step ahead in a thread. share: of STAGES' steps that are made."""
    pictures = [Pictures(sets, [shares[leg] for shares in SETS.values()]) for leg in range(len(LEGS))]
    named = Photos(photos, names)

    def load(number: int) -> tuple[Batch, Batch, Tensor]:
        stage = stage_at(number / share)
        masked = Augmentation(short_side=stage.short_side, scale=(0.6, 1.3), crop=stage.crop)
        plain = Augmentation(short_side=round(0.9 * stage.short_side), scale=(0.9, 1.2), crop=stage.crop)
        some = [named.draw(number * stage.photos + i, plain) for i in range(stage.photos)]
        return (
            Batch.of(
                [pictures[stage.leg].draw(number * stage.pictures + i, masked) for i in range(stage.pictures)]
            ),
            Batch.of(some),
            torch.tensor([one.source for one in some]),
        )

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(load, step)
        while True:
            step += 1
            now, ahead = ahead, pool.submit(load, step)
            yield now.result()


def optimizer_of(learner: Learner) -> torch.optim.AdamW:
    trained = learner.trained.values()
    return torch.optim.AdamW(
        [
            {"params": [one for one in trained if one.ndim > 1], "weight_decay": 0.05},
            {"params": [one for one in trained if one.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )


def rate(step: int, begun: int = 0, share: float = 1.0) -> float:
    """Of LEARNING_RATE: a warm-up from step `begun` on, and polynomial decay over each leg.

    share: of the LEGS' steps that are made; the warm-up is as long as ever.
    """
    warm, left = (step - begun + 1) / WARM_UP, step / share
    for steps, highest in LEGS:
        if left < steps:
            return min(warm, highest * (1 - left / steps) ** 0.9)
        left -= steps
    return 0.0


def write(path: Path, config: SANConfig, weights: dict[str, Tensor], labels: tuple[str, ...]) -> None:
    """The SAN of a Learner's weights. labels: what the masks are called."""
    san = SAN(config, labels)
    san.load_state_dict(
        {name.removeprefix("san."): one for name, one in weights.items() if name.startswith("san.")}
    )
    torch.nn.init.constant_(san.clip.visual.guess.gain, GAIN)
    save_san(path, san, kind="san", dtype=torch.float16)


class Log:
    """A line for every so many steps, with the mean of each loss."""

    STEPS = 25

    def __init__(self, path: Path) -> None:
        self.file, self.started = path.open("a"), time.time()
        self.sums: dict[str, float] = {}

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss.item()
        if step % self.STEPS == 0:
            means = {name: round(value / self.STEPS, 4) for name, value in self.sums.items()}
            line = json.dumps({"step": step, **means, "seconds": round(time.time() - self.started)})
            print(line, file=self.file, flush=True)
            print(line, flush=True)
            self.sums = {}


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--data", "--run"):
        parser.add_argument(name, type=Path, required=True)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument(
        "--lite2", type=Path, help="the stem's weights: from the first step on, with step 1's words"
    )
    start.add_argument(
        "--begin", type=Path, help="a SAN after its first leg: the second one only, with its words"
    )
    parser.add_argument(
        "--words", type=Path, help="with --lite2: a SAN whose words are taken; steps 1 and 3 are not needed"
    )
    parser.add_argument("--withheld", action="store_true", help="train without the names of withheld.py")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the steps of each stage and leg, for a shorter training"
    )
    parser.add_argument("--steps", type=int, help="stop after so many, by default after all")
    options = parser.parse_args()
    if options.begin and options.words:
        parser.error("--begin keeps the words of its model: give --words with --lite2")
    return options


def main() -> None:
    options = read_options()
    name = "withheld" if options.withheld else "mini"
    torch.manual_seed(0)
    sets = [SegmentationSet.open(options.data / one) for one in SETS]
    photos = read_photos(options.data / "photos")
    classes = [one.name for one in photos if one.source == IMAGENET_SAMPLE]
    photos = [one for one in photos if one not in set(held_out(photos))]
    if options.withheld:
        sets, photos = [without(one) for one in sets], [one for one in photos if photo_kept(one.name)]
    called = list(dict.fromkeys(one.name for one in photos))
    labels = tuple(dict.fromkeys(name for one in sets for names in one.vocabulary.names for name in names))
    if options.begin:
        learner, begun = Learner(load_san(options.begin)), round(options.share * LEGS[0][0])
    else:
        text = options.run / "text.pt"
        words = taken_words(options.words) if options.words else new_words(text, classes)
        learner, begun = Learner(fresh(options.lite2, *words)), 0
    with torch.no_grad():
        classifiers = [learner.words.rows(one.vocabulary.names, SAN_MINI.templates) for one in sets]
        names = learner.words(called, SAN_MINI.templates)
    optimizer = optimizer_of(learner)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: rate(begun + done, begun, options.share)
    )
    average = {key: value.detach().clone() for key, value in learner.state_dict().items()}
    step, checkpoint = begun, options.run / f"{name}.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for key, part in (("learner", learner), ("optimizer", optimizer), ("schedule", schedule)):
            part.load_state_dict(state[key])
        step, average = state["step"], state["average"]
    options.run.mkdir(parents=True, exist_ok=True)
    log = Log(options.run / f"{name}.jsonl")
    last = options.steps or round(options.share * sum(steps for steps, _ in LEGS))
    for batch, some_photos, which in batches(sets, photos, called, step, options.share):
        if step >= last:
            break
        parts = learner.losses(batch, some_photos, which, classifiers, names, step)
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(learner.trained.values(), 1.0)
        if not norm.isfinite():
            raise FloatingPointError(f"step {step}: the gradient is not finite, on {', '.join(batch.names)}")
        optimizer.step()
        schedule.step()
        step += 1
        kept = min(AVERAGE, step / (step + 10))  # early on, what was first is soon forgotten
        with torch.no_grad():
            for key, one in learner.trained.items():
                average[key].lerp_(one, 1 - kept)
        log.add(step, parts)
        if step % 100 == 0 or step == last:
            state = {"learner": learner.state_dict(), "average": average, "step": step}
            state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            torch.save(state, f"{checkpoint}.part")
            Path(f"{checkpoint}.part").replace(checkpoint)
            write(options.run / f"{name}.safetensors", learner.san.config, average, labels)


if __name__ == "__main__":
    main()
