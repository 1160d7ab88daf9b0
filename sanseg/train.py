"""Training: the step on the page, and runs that resume exactly.

B batch, Q queries, K labels of one set, E shared embedding, H W pixels of the padded pictures.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, astuple, dataclass, replace
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from numpy.typing import NDArray
from torch import Tensor, nn

from sanseg.data.datasets import SegmentationSet
from sanseg.data.stream import Stream
from sanseg.devices import DTYPES
from sanseg.division import Division, Part, batches, count, deaths_told, make_part
from sanseg.lanes import Lanes, open_lanes
from sanseg.losses import LossConfig, Losses, Normalisers, reading_losses
from sanseg.model.checkpoint import checksum, fingerprint
from sanseg.model.san import SAN, Proposals
from sanseg.model.text import Classifier, TextEncoder
from sanseg.model.text_cache import TextCache
from sanseg.model.weights import save_san
from sanseg.precision import Precision
from sanseg.run import (
    Screen,
    Training,
    Wish,
    begin,
    check_trackers,
    describe_run,
    describe_set,
    load_state,
    open_log,
    plain,
    save_state,
    stopping,
)
from sanseg.schedule import (
    NOT_COMPUTED,
    PART_LOSSES,
    TrainConfig,
    learning_rate,
    make_optimizer,
    trainable,
)
from sanseg.validation import Validation, name_apart

__all__ = [
    "Part",
    "Report",
    "TrainConfig",
    "begin_training",
    "describe",
    "learning_rate",
    "make_optimizer",
    "step",
    "train",
    "trainable",
]

PATIENCE = timedelta(hours=6)  # that processes wait for each other: one may read or evaluate much longer


@dataclass(frozen=True)
class Report:
    """What a step did: each reading's losses (the answer's last), their weighted sum, the gradient's norm."""

    losses: tuple[Losses, ...]
    total: float
    norm: float


def begin_training(san: SAN, config: TrainConfig) -> Training:
    """Of what is left to train now (`SAN.freeze`), from its beginning."""
    scaler = torch.amp.GradScaler(san.nothing.device.type, enabled=config.dtype == "float16")
    precision = Precision(san, DTYPES[config.dtype])
    return Training(trainable(san), make_optimizer(san, config), scaler, precision)


def step(
    san: SAN,
    training: Training,
    parts: Sequence[Part],
    rows: Sequence[Tensor],
    normalisers: Normalisers,
    config: TrainConfig,
    iteration: int,
    *,
    lanes: Lanes | None = None,
    add_up: Callable[[list[Tensor]], list[Tensor]] = lambda tensors: tensors,
) -> Report:
    """One step of training: forward and backward of each part, then clip, then step.

    rows: for each set (K, E), its labels; `batch.sources` says which set a picture is of.
    normalisers: of all parts, those of other processes included.
    lanes: compute parts side by side; None computes one after the other. add_up: sums each tensor over all processes.
    Raises FloatingPointError, before anything is changed, for a loss or a gradient that is not finite; in
    float16 only for a loss, for there the scaler finds its scale by gradients that overflow.
    """
    parameters, optimizer, scaler = list(training.parameters.values()), training.optimizer, training.scaler
    optimizer.zero_grad()
    scale = scaler.scale(torch.ones((), device=san.nothing.device))

    def work(part: Part) -> tuple[Tensor, list[Tensor]]:
        """The losses of each reading, and the gradients of their weighted sum, scaled."""
        with training.precision.autocast():
            readings = san.readings(part.batch.images)
        losses = part_losses(san, part, readings, rows, normalisers, config.loss)
        total = torch.stack([one.weighted(config.loss) for one in losses]).sum()
        gradients = torch.autograd.grad(total, parameters, scale, allow_unused=True, materialize_grads=True)
        own = [one.contiguous() for one in gradients]  # one that was expanded could not be added to
        return torch.stack([one.stacked().detach() for one in losses]), own

    compute = map if lanes is None else lanes.map
    with training.precision.rounded():
        computed = iter(compute(work, parts))
        sums, gradients = next(computed)
        for of_another in computed:
            for one, more in zip((sums, *gradients), (of_another[0], *of_another[1]), strict=True):
                one += more
    # A SAN has no single forward for DistributedDataParallel to watch.
    sums, *gradients = add_up([sums, *gradients])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, config.clip).item()
    found = tuple(Losses(*row) for row in sums)
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
    classifiers = [
        Classifier.build(one, san.nothing, san.clip.logit_scale, evidence=san.evidence(one)) for one in rows
    ]
    # Once, in place of twice for each reading.
    targets = [replace(one, masks=one.masks.float()) for one in part.targets]
    losses = []
    for reading, draw in zip(readings, part.draws, strict=True):
        regions = [reading.regions(picture) for picture in range(len(part.batch.sources))]
        class_logits = [
            classifiers[source].logits(embeddings.float(), seen)
            for source, (embeddings, seen) in zip(part.batch.sources, regions, strict=True)
        ]
        losses.append(reading_losses(class_logits, reading.mask_logits, targets, draw, config, normalisers))
    return losses


@dataclass(frozen=True)
class _Run:
    """What a run needs beside its pictures. config: with the losses of the part that trains."""

    san: SAN
    config: TrainConfig
    folder: Path
    accelerator: Accelerator
    training: Training
    rows: tuple[Tensor, ...]
    division: Division
    validation: Validation
    description: dict[str, Any]

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.accelerator.is_main_process)

    def start(
        self,
        done: int,
        command: Sequence[str],
        sets: Sequence[SegmentationSet],
        val: Sequence[SegmentationSet],
    ) -> None:
        """Begins what is written, or takes it up again after `done` iterations."""
        self.validation.forget_after(done)
        if self.config.trackers:
            written = self.folder / "trackers"
            written.mkdir(exist_ok=True)  # wandb would write elsewhere
            options = {"tensorboard": {"purge_step": done}, "wandb": {"dir": str(written)}}
            chosen = {name: options[name] for name in self.config.trackers if name in options}
            self.accelerator.init_trackers("sanseg", plain(asdict(self.config)), chosen)
        if self.leads:
            described = {
                "command": list(command),
                "config": asdict(self.config),
                "sets": [describe_set(one) for one in sets],
                "val": [describe_set(one) for one in val],
                "model": self.san.config.to_dict(),
                "device": str(self.san.nothing.device),
                "processes": self.accelerator.num_processes,
            }
            describe_run(self.folder, described)

    def add_up(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sum of each, all of one dtype, over all processes, which exchange them at once."""
        if self.accelerator.num_processes == 1:
            return tensors
        flat = self.accelerator.reduce(torch.cat([one.flatten() for one in tensors]), "sum")
        parts = flat.split([one.numel() for one in tensors])
        return [part.view_as(one) for part, one in zip(parts, tensors, strict=True)]

    def agree(self, parts: Sequence[Part], wish: Wish) -> tuple[Normalisers, bool]:
        """The normalisers of the whole step, and whether any process was asked to stop."""
        own = count(parts, self.san, self.rows, self.config)
        counted = torch.tensor([*astuple(own), float(wish.asked)]).to(self.san.nothing.device)
        *normalisers, asked = self.add_up([counted])[0].tolist()
        return Normalisers(*normalisers), asked > 0

    def saves(self, done: int) -> bool:
        """Whether this many iterations are saved: also before an evaluation, which may fail."""
        last = done == self.config.iterations
        return last or done % self.config.save_every == 0 or self.validation.due(done)

    def save(self, done: int) -> None:
        if self.leads:
            save_state(self.folder, self.training, self.description, done, self.config.keep)
            name = "adapter.safetensors" if self.kind == "adapter" else "model.safetensors"
            save_san(self.folder / name, self.san, kind=self.kind)
        self.accelerator.wait_for_everyone()

    @property
    def kind(self) -> str:
        """What a checkpoint has to hold: the whole network where CLIP's own weights train."""
        return "adapter" if self.training.parameters.keys() <= self.san.trained().keys() else "san"

    def evaluate(self, done: int, screen: Screen, wish: Wish) -> None:
        """If it is time to."""
        if not self.validation.due(done):
            return
        found = self.validation.look(
            self.san,
            done,
            screen.progress,
            save=lambda path: save_san(path, self.san, kind=self.kind),
            stop=lambda: wish.asked,
        )
        self.accelerator.wait_for_everyone()  # the others read what the main process has written
        told = {f"miou_present/{name}": value for name, value in found.items()}
        # Of the last iteration: from the next one on, a run that goes on takes back what it told.
        self.accelerator.log(told, step=done - 1)
        screen.say(
            f"after {done} iterations: mIoU "
            + ", ".join(f"{name} {value:.1f}" for name, value in found.items())
        )

    def finish(self) -> None:
        """Writes the whole network: the best, or the last where none was evaluated."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if self.leads:
            with self.validation.best_weights(self.san):
                save_san(self.folder / "model.safetensors", self.san)
        self.accelerator.wait_for_everyone()


def _set_up(
    san: SAN,
    sets: Sequence[SegmentationSet],
    val: Sequence[SegmentationSet],
    config: TrainConfig,
    folder: Path,
    text_cache: TextCache,
) -> _Run:
    begin(folder)
    check_trackers(config.trackers)
    config = replace(config, loss=replace(config.loss, **PART_LOSSES[config.part]))
    accelerator = Accelerator(
        cpu=san.nothing.device.type == "cpu",
        log_with=list(config.trackers) or None,
        project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / "trackers")),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    rank, processes = accelerator.process_index, accelerator.num_processes
    if processes > 1:
        san.to(accelerator.device)
    threads = torch.get_num_threads() if san.nothing.device.type == "cpu" else 1
    division = Division.of(config, rank, processes, threads)
    san.freeze(config.trains, config.part)
    san.eval()  # a SAN has no dropout, and what is frozen in it keeps its statistics
    san.checkpointing = config.checkpointing
    training = begin_training(san, config)
    encoder = TextEncoder(san.clip.text, fingerprint(san.clip.text), text_cache)
    labels = tuple(dict.fromkeys(name for one in sets for names in one.vocabulary.names for name in names))
    san.labels = tuple(dict.fromkeys((*san.labels, *labels)))

    def reduce(array: NDArray[Any]) -> NDArray[Any]:
        summed = accelerator.reduce(torch.from_numpy(np.array(array)).to(accelerator.device), "sum")
        result: NDArray[Any] = summed.cpu().numpy()
        return result

    return _Run(
        san=san,
        config=config,
        folder=folder,
        accelerator=accelerator,
        training=training,
        rows=tuple(encoder.rows(one.vocabulary.names, san.config.templates) for one in sets),
        division=division,
        validation=Validation(
            sets=name_apart(val),
            folder=folder,
            every=config.evaluate_every,
            iterations=config.iterations,
            limit=config.evaluate_pictures,
            shown=config.pictures,
            seen=labels,
            share=(rank, processes),
            reduce=reduce if processes > 1 else None,
            text_cache=text_cache,
        ),
        description=describe(config, sets, san),
    )


def train(
    san: SAN,
    sets: Sequence[SegmentationSet],
    config: TrainConfig,
    folder: str | PathLike[str],
    *,
    val: Sequence[SegmentationSet] = (),
    command: Sequence[str] = (),
    quiet: bool = False,
    saved: Callable[[int], None] | None = None,
    text_cache: TextCache | None = None,
) -> None:
    """Trains `san` in place on one or several sets with vocabularies of their own.

    On its device; where several processes were launched (`accelerate launch`, `torchrun`), on each one's own.
    A run with the same folder goes on from its last state as if it had never stopped. Written into `folder`:

    - run.json: what is being run; `command` is what started it, to be told there.
    - metrics.jsonl: a line for each iteration. What `config.trackers` write.
    - checkpoints/: every `save_every` iterations and at the end, a state to go on from.
    - adapter.safetensors: as often, the weights; model.safetensors, the whole network, where CLIP's own train.
    - evaluations.jsonl, pictures/, best.safetensors: every `evaluate_every` iterations and at the end, what the
      network is worth on the sets `val`, pictures of them, and the weights that were best.
    - model.safetensors: at the end, the whole network: the best one, the last where none was evaluated.

    saved: called, in the main process, after each save with the iterations done.
    text_cache: embeddings of words; None keeps them in memory.

    The first SIGINT or SIGTERM ends the run after its step, with a state saved: raises KeyboardInterrupt. A second
    one does so at once. Raises ValueError where the folder holds another run's states, or the batch cannot
    be divided; OSError where it cannot be written; FloatingPointError as `step`.
    """
    run = _set_up(san, sets, val, config, Path(folder), text_cache or TextCache(None))
    done, notice = load_state(run.folder, run.training, run.description)
    run.start(done, command, sets, val)
    lanes = open_lanes(san.nothing.device, run.division.lanes) if run.division.lanes > 1 else None
    with (
        closing(lanes) if lanes else nullcontext(),
        stopping() as wish,
        _log(run.folder, done, run.leads) as log,
        Screen(run.config.iterations, done, quiet=quiet or not run.leads) as screen,
        deaths_told(),
    ):
        if notice:
            screen.say(notice)
        run.evaluate(done, screen, wish)
        stream = Stream(
            sets, config.augmentation, san.config.mean, san.config.std, config.seed, config.repeats
        )
        parts_of_steps = batches(stream, run.config, run.division, done)
        for iteration in range(done, config.iterations):
            started = time.perf_counter()
            parts = [
                make_part(next(parts_of_steps), san, run.rows, run.config, iteration, place)
                for place in run.division.places
            ]
            normalisers, asked = run.agree(parts, wish)
            report = step(
                san,
                run.training,
                parts,
                run.rows,
                normalisers,
                run.config,
                iteration,
                lanes=lanes,
                add_up=run.add_up,
            )
            done = iteration + 1
            seconds = time.perf_counter() - started
            line = _line(iteration, report, learning_rate(iteration, config), seconds, config.batch)
            log.write(json.dumps(line) + "\n")
            run.accelerator.log(plain(line), step=iteration)
            screen.step(
                done, f"loss {report.total:.3f}, lr {line['lr']:.2g}, {line['images_per_second']:.3g} img/s"
            )
            if asked or run.saves(done):
                run.save(done)
                if saved and run.leads:
                    saved(done)
            if asked and done < config.iterations:
                raise KeyboardInterrupt(f"stopped after {done} iterations, which are saved")
            run.evaluate(done, screen, wish)
        run.finish()


def describe(config: TrainConfig, sets: Iterable[SegmentationSet], san: SAN) -> dict[str, Any]:
    """What must be the same for a run to go on: plain values, as JSON gives them back."""
    values = {name: value for name, value in asdict(config).items() if name not in NOT_COMPUTED}
    values["model"] = san.config.to_dict()
    values["frozen weights"] = checksum(
        {name: tensor for name, tensor in san.state_dict().items() if name not in trainable(san)}
    )[:16]
    values["sets"] = [[one.name, len(one)] for one in sets]
    described: dict[str, Any] = json.loads(json.dumps(values))
    return described


def _line(iteration: int, report: Report, lr: float, seconds: float, pictures: int) -> dict[str, Any]:
    """A line of metrics.jsonl: losses not weighted, of each reading, the answer's last."""
    names = ("classification", "mask", "dice", "answer")
    return {
        "iteration": iteration,
        "loss": report.total,
        **{name: [getattr(losses, name).item() for losses in report.losses] for name in names},
        # Of a step that float16's scaler skipped it is not finite, which JSON has no word for.
        "norm": report.norm if math.isfinite(report.norm) else None,
        "lr": lr,
        "seconds": round(seconds, 4),
        "images_per_second": round(pictures / seconds, 3),
    }


def _log(folder: Path, done: int, leads: bool) -> IO[str]:
    return open_log(folder / "metrics.jsonl", done) if leads else io.StringIO()
