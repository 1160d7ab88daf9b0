"""Training: the released recipe's optimizer and schedule, the step on the page, and runs that resume exactly.

B batch, Q queries, K labels of one set, E shared embedding, H W pixels of the padded pictures.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader

from sanseg.data.datasets import SegmentationSet
from sanseg.data.stream import Batch, Stream
from sanseg.data.transforms import Augmentation
from sanseg.losses import Draws, LossConfig, Losses, Normalisers, Target, reading_losses
from sanseg.model.checkpoint import checksum, frozen_clip
from sanseg.model.san import CLIP_TRAINS, SAN, Proposals
from sanseg.model.text import Classifier, TextEncoder
from sanseg.model.weights import save_san
from sanseg.run import STATES, Training, load_state, open_log, save_state, stopping

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PART_LOSSES: dict[str, dict[str, Any]] = {  # two stages: first where things are, then what they are
    "all": {},
    "masks": {"class_weight": 0.0, "answer_weight": 0.0},
    "recognition": {"mask_weight": 0.0, "dice_weight": 0.0},
}
NOT_COMPUTED = ("workers", "save_every", "keep", "accumulation", "checkpointing")  # these change no number

# Position and query embeddings do not decay, nor do the norms of ViT blocks. All else does: "nothing",
# biases, and the norms of the fusion, which the released recipe does not recognise as norms.
EMBEDDINGS = (
    "side_adapter.query",
    "side_adapter.query_position",
    "side_adapter.position",
    "clip.visual.position",
)


@dataclass(frozen=True)
class TrainConfig:
    """A run; by default the released recipe's (which has the same numbers for both models).

    `clip`: the gradient's largest total norm. `power`: of the polynomial decay to zero.
    `warmup`: iterations over which the learning rate rises linearly first.
    `clip_lr`: a factor on the learning rate of CLIP's own weights, where they train.
    `batch`: pictures of a step, over all processes. `accumulation`: into how many passes each process divides
    its share, one after the other: less memory, the same losses.
    `dtype`: a key of DTYPES, what the network computes in; weights and losses are float32.
    `trains`: what of CLIP trains, a key of `model.san.CLIP_TRAINS`. `part`: what of the side adapter, of PARTS.
    `checkpointing`: activation checkpointing, less memory for a third more time.
    `workers`: processes that load pictures, 0 for none. `save_every`: iterations. `keep`: states that stay.
    `repeats`: how often an epoch shows each set (`data.stream.Stream`); empty is once each.
    """

    iterations: int = 60_000
    batch: int = 32
    accumulation: int = 1
    lr: float = 1e-4
    weight_decay: float = 1e-4
    clip: float = 0.01
    power: float = 0.9
    warmup: int = 0
    clip_lr: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    trains: str = "position"
    part: str = "all"
    checkpointing: bool = False
    workers: int = 0
    save_every: int = 1_000
    keep: int = 3
    repeats: tuple[float, ...] = ()
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is unknown: use one of {', '.join(DTYPES)}")
        if self.lr < 0:
            raise ValueError(f"lr is {self.lr}: give at least 0")
        for given, known in ((self.trains, CLIP_TRAINS), (self.part, PART_LOSSES)):
            if given not in known:
                raise ValueError(f"{given!r} cannot be trained: choose from {', '.join(known)}")
        for name in ("iterations", "batch", "accumulation", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")


def learning_rate(iteration: int, config: TrainConfig) -> float:
    """Of the optimizer's step number `iteration`, counted from 0."""
    warm = min(1.0, (iteration + 1) / config.warmup) if config.warmup else 1.0
    return float(config.lr * warm * (1 - iteration / config.iterations) ** config.power)


def trainable(san: SAN) -> dict[str, nn.Parameter]:
    """What a run trains, by name: the parameters that require a gradient (`SAN.freeze` sets which)."""
    found = {name: parameter for name, parameter in san.named_parameters() if parameter.requires_grad}
    if not found:
        raise ValueError(
            "no parameter requires a gradient: call san.freeze() to train what the release trains"
        )
    return found


def make_optimizer(san: SAN, config: TrainConfig) -> AdamW:
    """AdamW, with weight decay for all but the embeddings and the blocks' norms.

    A group's `factor` multiplies the learning rate: `clip_lr` for what CLIP brought along, but for its
    positional embedding, which the released recipe trains like the side adapter.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable(san).items():
        spared = name in EMBEDDINGS or (".blocks." in name and ".norm_" in name)
        brought = name.startswith("clip.") and name != "clip.visual.position"
        key = (0.0 if spared else config.weight_decay, config.clip_lr if brought else 1.0)
        groups.setdefault(key, []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (decay, factor), parameters in groups.items()
        ],
        lr=config.lr,
    )


@dataclass(frozen=True)
class Part:
    """What one pass sees of a step: some of its pictures. draws: for each reading."""

    batch: Batch
    targets: tuple[Target, ...]
    draws: tuple[Draws, ...]


@dataclass(frozen=True)
class Report:
    """What a step did: each reading's losses (the answer's last), their weighted sum, the gradient's norm."""

    losses: tuple[Losses, ...]
    total: float
    norm: float


def step(
    san: SAN,
    training: Training,
    parts: Sequence[Part],
    rows: Sequence[Tensor],
    normalisers: Normalisers,
    config: TrainConfig,
    iteration: int,
    add_up: Callable[[Tensor], Tensor] = lambda values: values,
) -> Report:
    """One step of training: forward and backward of each part, then clip, then step.

    rows: for each set (K, E), its labels; `batch.sources` says which set a picture is of.
    normalisers: of all parts, those of other processes included. add_up: sums a tensor over all processes.
    Raises FloatingPointError, before anything is changed, for a loss or a gradient that is not finite; in
    float16 only for a loss, for there the scaler finds its scale by gradients that overflow.
    """
    device, dtype = san.nothing.device.type, DTYPES[config.dtype]
    parameters, optimizer, scaler = list(training.parameters.values()), training.optimizer, training.scaler
    optimizer.zero_grad()
    sums = torch.zeros(len(san.config.side.readings), 4, device=san.nothing.device)
    for part in parts:
        with torch.autocast(device, dtype) if dtype is not torch.float32 else nullcontext():
            readings = san.readings(part.batch.images)
        losses = part_losses(san, part, readings, rows, normalisers, config.loss)
        total = torch.stack([one.weighted(config.loss) for one in losses]).sum()
        torch.autograd.backward(scaler.scale(total))
        sums += torch.stack([one.stacked().detach() for one in losses])

    summed = add_up(sums)
    # 8 M gradients are added up at once: a SAN has no single forward for DistributedDataParallel to watch.
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    flat = add_up(torch.cat([gradient.flatten() for gradient in gradients]))
    for parameter, gradient in zip(parameters, flat.split([one.numel() for one in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, config.clip).item()
    found = tuple(Losses(*row) for row in summed)
    report = Report(found, sum(one.weighted(config.loss).item() for one in found), norm)
    if not math.isfinite(report.total) or not (scaler.is_enabled() or math.isfinite(norm)):
        names = [name for part in parts for name in part.batch.names]
        raise FloatingPointError(
            f"iteration {iteration}: the loss is {report.total}, its gradient's norm {norm}, on"
            f" {', '.join(names)}: look at these pictures, lower lr, or use dtype float32"
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(iteration, config) * group["factor"]
    scaler.step(optimizer)
    scaler.update()
    return report


def part_losses(
    san: SAN,
    part: Part,
    readings: Sequence[Proposals],
    rows: Sequence[Tensor],
    normalisers: Normalisers,
    config: LossConfig,
) -> list[Losses]:
    """The losses of each reading: every picture against its own set's labels."""
    classifiers = [Classifier.build(one, san.nothing, san.clip.logit_scale) for one in rows]
    losses = []
    for reading, draw in zip(readings, part.draws, strict=True):
        pairs = zip(part.batch.sources, reading.embeddings.float(), strict=True)
        class_logits = [classifiers[source].logits(embeddings) for source, embeddings in pairs]
        losses.append(
            reading_losses(class_logits, reading.mask_logits, part.targets, draw, config, normalisers)
        )
    return losses


def train(
    san: SAN,
    sets: Sequence[SegmentationSet],
    config: TrainConfig,
    folder: str | PathLike[str],
    *,
    quiet: bool = False,
    saved: Callable[[int], None] | None = None,
) -> None:
    """Trains `san` in place on one or several sets with vocabularies of their own.

    On its device; where several processes were launched (`accelerate launch`, `torchrun`), on each one's own.
    Writes into `folder`: metrics.jsonl, a line for each iteration; every `save_every` iterations and at the
    end a state to resume from in checkpoints/, and adapter.safetensors (model.safetensors where CLIP's own
    weights train), to use. A run with the same folder goes on from its last state as if it had never stopped.
    saved: called, in the main process, after each save with the iterations done.

    The first SIGINT or SIGTERM ends the run after its step, with a state saved: raises KeyboardInterrupt. A second
    one does so at once. Raises ValueError where the folder holds another run's states, or the batch cannot
    be divided; OSError where it cannot be written; FloatingPointError as `step`.
    """
    folder = Path(folder)
    (folder / STATES).mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=san.nothing.device.type == "cpu")
    if accelerator.num_processes > 1:
        san.to(accelerator.device)
    config = replace(config, loss=replace(config.loss, **PART_LOSSES[config.part]))
    san.freeze(config.trains, config.part)
    san.eval()  # a SAN has no dropout, and what is frozen in it keeps its statistics
    san.checkpointing = config.checkpointing
    optimizer = make_optimizer(san, config)
    scaler = torch.amp.GradScaler(san.nothing.device.type, enabled=config.dtype == "float16")
    training = Training(trainable(san), optimizer, scaler)
    run = describe(config, sets, san)
    done, notice = load_state(folder, training, run)
    stream = Stream(sets, config.augmentation, san.config.mean, san.config.std, config.seed, config.repeats)
    encoder = TextEncoder(san.clip.text)
    rows = [encoder.rows(one.vocabulary.names, san.config.templates) for one in sets]
    division = Division.of(config, accelerator.process_index, accelerator.num_processes)
    main = accelerator.is_main_process

    def add_up(values: Tensor) -> Tensor:
        summed: Tensor = accelerator.reduce(values, "sum")
        return summed

    with stopping() as wish, _log(folder, done, main) as log, _progress(quiet or not main) as progress:
        if notice:
            progress.console.print(notice)
        task = progress.add_task("training", total=config.iterations, completed=done, loss=math.nan)
        batches = _batches(stream, config, division, done)
        for iteration in range(done, config.iterations):
            started = time.perf_counter()
            parts = [
                make_part(next(batches), san, rows, config, iteration, place) for place in division.places
            ]
            counted = torch.tensor([*astuple(count(parts, san, rows, config)), float(wish.asked)])
            *normalisers, asked = add_up(counted.to(san.nothing.device)).tolist()
            report = step(san, training, parts, rows, Normalisers(*normalisers), config, iteration, add_up)
            done = iteration + 1
            line = _line(iteration, report, learning_rate(iteration, config))
            seconds = time.perf_counter() - started
            clock = {"seconds": round(seconds, 4), "images_per_second": round(config.batch / seconds, 3)}
            log.write(json.dumps({**line, **clock}) + "\n")
            progress.update(task, advance=1, loss=report.total)
            if asked or done % config.save_every == 0 or done == config.iterations:
                if main:
                    save_state(folder, training, run, done, config.keep)
                    save_weights(folder, san, sets, config)
                accelerator.wait_for_everyone()
                if saved and main:
                    saved(done)
            if asked and done < config.iterations:
                raise KeyboardInterrupt(f"stopped after {done} iterations, which are saved")


def save_weights(folder: Path, san: SAN, sets: Sequence[SegmentationSet], config: TrainConfig) -> None:
    """The weights to use: an adapter, or the whole network where CLIP's own weights train."""
    labels = dict.fromkeys(name for one in sets for names in one.vocabulary.names for name in names)
    if CLIP_TRAINS[config.trains] == CLIP_TRAINS["visual"]:
        save_san(folder / "model.safetensors", san, labels=labels)
    else:
        save_san(folder / "adapter.safetensors", san, kind="adapter", labels=labels)


@dataclass(frozen=True)
class Division:
    """How a step's pictures are shared out: the places in the step at which this process's parts begin."""

    size: int
    places: tuple[int, ...]

    @classmethod
    def of(cls, config: TrainConfig, process: int, processes: int) -> Division:
        parts = processes * config.accumulation
        if config.batch % parts:
            raise ValueError(
                f"a batch of {config.batch} cannot be divided among {processes} processes with accumulation"
                f" {config.accumulation}: choose a batch that is a multiple of {parts}"
            )
        size = config.batch // parts
        first = process * config.accumulation
        return cls(size, tuple(size * number for number in range(first, first + config.accumulation)))


def make_part(
    batch: Batch, san: SAN, rows: Sequence[Tensor], config: TrainConfig, iteration: int, place: int
) -> Part:
    """A part on the network's device. Each picture's draws follow from the seed, the iteration, and its place in
    the step, not from how the step is divided.
    """
    batch = batch.to(san.nothing.device)
    targets = tuple(
        Target.from_index_map(index_map, len(rows[source]))
        for index_map, source in zip(batch.index_maps, batch.sources, strict=True)
    )
    queries, readings = san.config.side.queries, range(len(san.config.side.readings))
    drawn = []
    for number, target in enumerate(targets, place):
        seed = np.random.SeedSequence((config.seed, iteration, number)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed >> 1))
        drawn.append([Draws.make([target], queries, config.loss, generator) for _ in readings])
    return Part(batch, targets, tuple(Draws.join(of_reading) for of_reading in zip(*drawn, strict=True)))


def count(parts: Sequence[Part], san: SAN, rows: Sequence[Tensor], config: TrainConfig) -> Normalisers:
    """The normalisers of these parts alone."""
    targets = [target for part in parts for target in part.targets]
    labels = [len(rows[source]) for part in parts for source in part.batch.sources]
    return Normalisers.count(targets, labels, san.config.side.queries, config.loss)


def describe(config: TrainConfig, sets: Iterable[SegmentationSet], san: SAN) -> dict[str, Any]:
    """What must be the same for a run to go on: plain values, as JSON gives them back."""
    values = {name: value for name, value in asdict(config).items() if name not in NOT_COMPUTED}
    values["model"] = san.config.to_dict()
    values["clip"] = checksum(frozen_clip(san.state_dict()))
    values["sets"] = [[one.name, len(one)] for one in sets]
    described: dict[str, Any] = json.loads(json.dumps(values))
    return described


def _batches(stream: Stream, config: TrainConfig, division: Division, done: int) -> Iterator[Batch]:
    """This process's parts of the iterations that are left.

    Raises OSError where a process that loads pictures dies, ValueError for a picture that cannot be read.
    """
    numbers = [
        step * config.batch + place + number
        for step in range(done, config.iterations)
        for place in division.places
        for number in range(division.size)
    ]
    loader: DataLoader[Any] = DataLoader(
        stream,
        division.size,
        sampler=numbers,
        num_workers=config.workers,
        collate_fn=Batch.of,
        generator=torch.Generator(),  # workers' seeds, which nobody reads: not from the global state
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"a process that loads pictures died ({str(error).splitlines()[0]}): use fewer workers, or more"
            " memory; the run goes on from its last state"
        ) from error


def _line(iteration: int, report: Report, lr: float) -> dict[str, Any]:
    """A line of metrics.jsonl: losses not weighted, of each reading, the answer's last."""
    names = ("classification", "mask", "dice", "answer")
    by_reading = {name: [getattr(losses, name).item() for losses in report.losses] for name in names}
    return {"iteration": iteration, "loss": report.total, **by_reading, "norm": report.norm, "lr": lr}


def _log(folder: Path, done: int, main: bool) -> IO[str]:
    return open_log(folder / "metrics.jsonl", done) if main else io.StringIO()


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        console=Console(stderr=True),
        disable=quiet,
    )
