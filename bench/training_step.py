"""Seconds and memory of one step of training, by model, pictures at once, precision and activation checkpointing.

    python bench/training_step.py                                     # ViT-B/16, 2 pictures of 640 x 640, float32
    python bench/training_step.py --dtype bfloat16 --pictures 1 2 4 --checkpointing both
    python bench/training_step.py --model san-vit-l-14

Random weights, pictures and masks, the released recipe (`TrainConfig()`), 171 labels. Each row is a process of its
own. "tensors" is the largest sum of all tensors alive during a step, weights and the optimizer's moments
included, which is the same on every machine that takes the same kernels; "process" is the largest resident size
that the system saw, libraries included. Threads are torch's default; set OMP_NUM_THREADS
to change them. Unix only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from sanseg.data.stream import Batch
from sanseg.devices import DTYPES
from sanseg.division import count, make_part
from sanseg.model.config import SAN_VIT_B16, SAN_VIT_L14
from sanseg.model.san import SAN
from sanseg.run import Training
from sanseg.schedule import TrainConfig
from sanseg.train import make_optimizer, step, trainable

MODELS = {config.name: config for config in (SAN_VIT_B16, SAN_VIT_L14)}
SIDE, LABELS = 640, 171
MASKS = 8  # labels in a crop: what crops of COCO-Stuff hold
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere


@dataclass(frozen=True)
class Case:
    model: str
    pictures: int
    dtype: str
    checkpointing: bool
    steps: int


@dataclass(frozen=True)
class Measured:
    """seconds: of a step, the median. tensors, process: gigabytes (1e9 bytes), see the module."""

    seconds: float
    tensors: float
    process: float


def random_batch(pictures: int) -> Batch:
    """Pictures of noise, whose masks are MASKS bands of labels."""
    labels = torch.stack([torch.randperm(LABELS)[:MASKS] for _ in range(pictures)])
    bands = labels.repeat_interleave(SIDE // MASKS, dim=1)
    return Batch(
        names=tuple(map(str, range(pictures))),
        images=torch.randn(pictures, 3, SIDE, SIDE),
        index_maps=bands[:, :, None].expand(-1, -1, SIDE).contiguous(),
        sources=(0,) * pictures,
    )


def measure(case: Case) -> Measured:
    torch.manual_seed(0)
    san = SAN(MODELS[case.model]).eval()
    san.checkpointing = case.checkpointing
    config = replace(TrainConfig(), batch=case.pictures, dtype=case.dtype)
    training = Training(trainable(san), make_optimizer(san, config), torch.amp.GradScaler(enabled=False))
    rows = (torch.nn.functional.normalize(torch.randn(LABELS, san.config.clip.embed), dim=-1),)
    batch = random_batch(case.pictures)

    def one_step(iteration: int) -> None:
        part = make_part(batch, san, rows, config, iteration, 0)
        step(san, training, [part], rows, count([part], san, rows, config), config, iteration)

    one_step(0)  # the optimizer makes its moments
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        one_step(1)
    at_rest = [*san.parameters(), *rows, batch.images, batch.index_maps]
    moments = [moment for state in training.optimizer.state.values() for moment in state.values()]
    tensors = sum(one.nbytes for one in (*at_rest, *moments)) + allocation_peak(profiler)
    seconds = []
    for iteration in range(2, 2 + case.steps):
        start = time.perf_counter()
        one_step(iteration)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    return Measured(statistics.median(seconds), tensors / 1e9, peak / 1e9)


def allocation_peak(profiler: profile) -> int:
    """Bytes: the most that was allocated at any moment beyond what was there when the profile began."""
    recorded = profiler.profiler
    assert recorded is not None
    assert recorded.kineto_results is not None
    changes = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["san-vit-b-16"])
    parser.add_argument("--pictures", nargs="+", type=int, default=[2], help="in one pass")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--checkpointing", choices=["no", "yes", "both"], default="no")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON for each row, in place of the table"
    )
    options = parser.parse_args()
    table = Table("model", "pictures", "dtype", "checkpointing", "s/step", "tensors GB", "process GB")
    for model in options.model:
        for dtype in options.dtype:
            for pictures in options.pictures:
                for checkpointing in {"no": [False], "yes": [True], "both": [False, True]}[
                    options.checkpointing
                ]:
                    case = Case(model, pictures, dtype, checkpointing, options.steps)
                    with multiprocessing.get_context("spawn").Pool(1) as alone:
                        found = alone.apply(measure, (case,))
                    if options.json:
                        print(json.dumps(vars(case) | vars(found)), flush=True)
                    numbers = (f"{found.seconds:.2f}", f"{found.tensors:.2f}", f"{found.process:.2f}")
                    table.add_row(model, str(pictures), dtype, "yes" if checkpointing else "no", *numbers)
    if not options.json:
        Console().print(table, f"{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
