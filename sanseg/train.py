"""Training: the released recipe's optimizer and schedule, the step on the page, and runs that resume exactly.

B batch, Q queries, K labels of one set, E shared embedding, H W pixels of the padded pictures.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader

from sanseg.data.datasets import SegmentationSet
from sanseg.data.stream import Batch, Stream
from sanseg.data.transforms import Augmentation
from sanseg.losses import Draws, LossConfig, Losses, Target, count_masks, reading_losses
from sanseg.model.checkpoint import checksum, frozen_clip, replacing
from sanseg.model.san import SAN
from sanseg.model.text import Classifier, TextEncoder
from sanseg.model.weights import save_san

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW remembers of each parameter

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
    `dtype`: a key of DTYPES, what the network computes in; weights and losses are float32.
    `workers`: processes that load pictures, 0 for none. `save_every`: iterations.
    `repeats`: how often an epoch shows each set (`data.stream.Stream`); empty is once each.
    """

    iterations: int = 60_000
    batch: int = 32
    lr: float = 1e-4
    weight_decay: float = 1e-4
    clip: float = 0.01
    power: float = 0.9
    warmup: int = 0
    clip_lr: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    workers: int = 0
    save_every: int = 1_000
    repeats: tuple[float, ...] = ()
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is unknown: use one of {', '.join(DTYPES)}")
        for name in ("iterations", "batch", "save_every"):
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
class Report:
    """What a step did: each reading's losses (the answer's last), their weighted sum, the gradient's norm."""

    losses: tuple[Losses, ...]
    total: float
    norm: float


def step(
    san: SAN,
    optimizer: AdamW,
    batch: Batch,
    targets: Sequence[Target],
    rows: Sequence[Tensor],
    draws: Sequence[Draws],
    config: TrainConfig,
    iteration: int,
) -> Report:
    """One step of training: forward, loss, backward, clip, step.

    rows: for each set (K, E), its labels; `batch.sources` says which set a picture is of.
    draws: for each reading.
    Raises FloatingPointError, before anything is changed, for a loss or a gradient that is not finite.
    """
    device, dtype = batch.images.device.type, DTYPES[config.dtype]
    with torch.autocast(device, dtype) if dtype is not torch.float32 else nullcontext():
        readings = san.readings(batch.images)
    classifiers = [Classifier.build(one, san.nothing, san.clip.logit_scale) for one in rows]
    normaliser = count_masks(targets)
    losses = []
    for reading, draw in zip(readings, draws, strict=True):
        pairs = zip(batch.sources, reading.embeddings.float(), strict=True)
        class_logits = [classifiers[source].logits(embeddings) for source, embeddings in pairs]
        losses.append(
            reading_losses(class_logits, reading.mask_logits, targets, draw, config.loss, normaliser)
        )
    total = torch.stack([one.weighted(config.loss) for one in losses]).sum()

    optimizer.zero_grad()
    torch.autograd.backward(total)
    norm = nn.utils.clip_grad_norm_(list(trainable(san).values()), config.clip)
    report = Report(tuple(losses), total.item(), norm.item())
    if not math.isfinite(report.total + report.norm):
        raise FloatingPointError(
            f"iteration {iteration}: the loss is {report.total}, its gradient's norm {report.norm}, on"
            f" {', '.join(batch.names)}: look at these pictures, lower lr, or use dtype float32"
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(iteration, config) * group["factor"]
    optimizer.step()
    return report


def train(
    san: SAN,
    sets: Sequence[SegmentationSet],
    config: TrainConfig,
    folder: str | PathLike[str],
    *,
    quiet: bool = False,
    saved: Callable[[int], None] | None = None,
) -> None:
    """Trains `san` in place, on its device, on one or several sets with vocabularies of their own.

    Writes into `folder`: metrics.jsonl, a line for each iteration; every `save_every` iterations and at the
    end state.safetensors, to resume from, and adapter.safetensors, to use. A run with the same folder goes on
    from its last state as if it had never stopped. saved: called after each save with the iterations done.

    Raises ValueError where the folder holds another run's state, FloatingPointError as `step`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device = san.nothing.device
    optimizer = make_optimizer(san, config)
    run = describe(config, sets, san)
    done = load_state(folder / "state.safetensors", san, optimizer, run)
    stream = Stream(sets, config.augmentation, san.config.mean, san.config.std, config.seed, config.repeats)
    encoder = TextEncoder(san.clip.text)
    rows = [encoder.rows(one.vocabulary.names, san.config.templates) for one in sets]
    san.eval()  # a SAN has no dropout, and what is frozen in it keeps its statistics

    with _log(folder / "metrics.jsonl", done) as log, _progress(quiet) as progress:
        task = progress.add_task("training", total=config.iterations, completed=done, loss=math.nan)
        for iteration, batch in enumerate(_batches(stream, config, done), done):
            started = time.perf_counter()
            batch = batch.to(device)
            targets = [
                Target.from_index_map(index_map, len(rows[source]))
                for index_map, source in zip(batch.index_maps, batch.sources, strict=True)
            ]
            generator = torch.Generator().manual_seed(_step_seed(config.seed, iteration))
            draws = [
                Draws.make(targets, san.config.side.queries, config.loss, generator)
                for _ in san.config.side.readings
            ]
            report = step(san, optimizer, batch, targets, rows, draws, config, iteration)
            seconds = time.perf_counter() - started
            log.write(json.dumps(_line(iteration, report, learning_rate(iteration, config), seconds)) + "\n")
            progress.update(task, advance=1, loss=report.total)
            done = iteration + 1
            if done % config.save_every == 0 or done == config.iterations:
                log.flush()
                save_state(folder / "state.safetensors", san, optimizer, run, done)
                save_san(folder / "adapter.safetensors", san, kind="adapter")
                if saved:
                    saved(done)


def describe(config: TrainConfig, sets: Iterable[SegmentationSet], san: SAN) -> dict[str, Any]:
    """What must be the same for a run to go on: plain values, as JSON gives them back."""
    values = asdict(config)
    for name in ("workers", "save_every"):  # these change nothing that is computed
        del values[name]
    values["model"] = san.config.to_dict()
    values["clip"] = checksum(frozen_clip(san.state_dict()))
    values["sets"] = [[one.name, len(one)] for one in sets]
    described: dict[str, Any] = json.loads(json.dumps(values))
    return described


def save_state(path: Path, san: SAN, optimizer: AdamW, run: dict[str, Any], done: int) -> None:
    """Everything a run needs to go on after `done` iterations; a failure leaves the old file as it was.

    Random numbers and the order of pictures follow from the seed and the iteration: they have no state.
    """
    tensors = {}
    for name, parameter in trainable(san).items():
        tensors[f"parameter/{name}"] = parameter.detach().contiguous()
        for moment, value in optimizer.state[parameter].items():
            assert moment in MOMENTS
            tensors[f"{moment}/{name}"] = value
    metadata = {"run": json.dumps(run), "done": str(done)}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def load_state(path: Path, san: SAN, optimizer: AdamW, run: dict[str, Any]) -> int:
    """Puts a saved state into model and optimizer: how many iterations were done; 0 where there is no file.

    Raises ValueError for a state of another run, naming what differs, and for a damaged file.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt", device=str(san.nothing.device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
        was, done = json.loads(metadata["run"]), int(metadata["done"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not the state of a run ({error}): start in another folder") from error
    parameters = trainable(san)
    names = {name.removeprefix("parameter/") for name in tensors if name.startswith("parameter/")}
    differing = [key for key in sorted({*was, *run}) if was.get(key) != run.get(key)]
    if names != set(parameters):
        differing.append("the trained parameters")
    if differing:
        told = "; ".join(f"{key} {was.get(key)}, now {run.get(key)}" for key in differing)
        raise ValueError(f"{path} is of another run ({told}): use that run's settings, or another folder")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            held = {moment: tensors.get(f"{moment}/{name}") for moment in MOMENTS}
            if held["step"] is not None:
                optimizer.state[parameter] = {**held, "step": held["step"].cpu()}
    return done


def _batches(stream: Stream, config: TrainConfig, done: int) -> DataLoader[Any]:
    """The batches of the iterations that are left."""
    return DataLoader(
        stream,
        config.batch,
        sampler=range(done * config.batch, config.iterations * config.batch),
        num_workers=config.workers,
        collate_fn=Batch.of,
        persistent_workers=config.workers > 0,
        generator=torch.Generator(),  # the loader draws a seed, which nobody reads: not from the global state
    )


def _step_seed(seed: int, iteration: int) -> int:
    return int(np.random.SeedSequence((seed, iteration)).generate_state(1, np.uint64)[0] >> 1)


def _line(iteration: int, report: Report, lr: float, seconds: float) -> dict[str, Any]:
    """A line of metrics.jsonl: losses not weighted, of each reading, the answer's last."""
    names = ("classification", "mask", "dice", "answer")
    by_reading = {name: [getattr(losses, name).item() for losses in report.losses] for name in names}
    line = {"iteration": iteration, "loss": report.total, **by_reading}
    return {**line, "norm": report.norm, "lr": lr, "seconds": round(seconds, 4)}


def _log(path: Path, done: int) -> IO[str]:
    """The log, open for writing, without the lines of iterations that will be done again."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    log = path.open("w", encoding="utf-8", buffering=1)
    log.writelines(lines[:done])
    return log


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
