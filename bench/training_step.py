"""One step of training: seconds beside those of its matrix products, and memory beside the plain way's.

    python bench/training_step.py                                     # ViT-B/16, 2 pictures of 640 x 640, float32
    python bench/training_step.py --dtype bfloat16 --pictures 1 2 4 --checkpointing both
    python bench/training_step.py --model san-vit-l-14
    python bench/training_step.py --dtype float32 bfloat16 --plain    # beside attention as it is written

Random weights, pictures and masks, the released recipe (`TrainConfig()`), 171 labels. Each row is a process of its
own. A step computes its pictures side by side, each with its share of torch's threads, as training does on a CPU.
"tensors" is the largest sum of all tensors alive during a step of all pictures in one pass, weights and the optimizer's
moments included, which is the same on every machine that takes the same kernels; "process" is the largest resident size
that the system saw in two steps, libraries included. "bound" is the time of every matrix product that torch is asked
for in a step of one pass, forward, backward and losses, by itself with all threads, in turn with the steps
(sanseg/benchmark/products.py says how); with checkpointing, what is computed twice is twice in it. "plain" computes
attention by matrices that exist, torch's own "math" in place of its fused kernels, and all pictures in one pass.
Threads are torch's default; set OMP_NUM_THREADS to change them. Unix only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from sanseg.benchmark.products import Bound, Recorder, flop
from sanseg.data.stream import Batch
from sanseg.devices import DTYPES
from sanseg.division import Division, count, make_part
from sanseg.lanes import open_lanes
from sanseg.model.config import SAN_VIT_B16, SAN_VIT_L14
from sanseg.model.san import SAN
from sanseg.schedule import TrainConfig
from sanseg.train import begin_training, step

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
    plain: bool
    steps: int


@dataclass(frozen=True)
class Measured:
    """seconds, bound: of a step, medians. ratio: of the two. gflop: 1e9 operations of the products in the bound.

    tensors, process: gigabytes (1e9 bytes), see the module.
    """

    seconds: float
    bound: float
    ratio: float
    gflop: float
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


def some_of(batch: Batch, first: int, number: int) -> Batch:
    these = slice(first, first + number)
    return Batch(batch.names[these], batch.images[these], batch.index_maps[these], batch.sources[these])


def measure(case: Case) -> Measured:
    with sdpa_kernel(SDPBackend.MATH) if case.plain else nullcontext():
        return measure_here(case)


def measure_here(case: Case) -> Measured:
    torch.manual_seed(0)
    san = SAN(MODELS[case.model]).eval()
    san.checkpointing = case.checkpointing
    config = replace(TrainConfig(), batch=case.pictures, dtype=case.dtype)
    training = begin_training(san, config)
    rows = (torch.nn.functional.normalize(torch.randn(LABELS, san.config.clip.embed), dim=-1),)
    batch = random_batch(case.pictures)
    whole = Division(case.pictures, (0,), 1)
    divided = whole if case.plain else Division.of(config, 0, 1, torch.get_num_threads())
    lanes = open_lanes(san.nothing.device, divided.lanes)

    def one_step(iteration: int, division: Division) -> None:
        parts = [
            make_part(some_of(batch, place, division.size), san, rows, config, iteration, place)
            for place in division.places
        ]
        normalisers = count(parts, san, rows, config)
        side_by_side = lanes if division.lanes > 1 else None
        step(san, training, parts, rows, normalisers, config, iteration, lanes=side_by_side)

    for iteration in range(2):  # in the first one the optimizer makes its moments
        one_step(iteration, divided)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        one_step(2, whole)
    rounded = [weight for _, weight in training.precision.frozen]
    at_rest = [*san.parameters(), *rounded, *rows, batch.images, batch.index_maps]
    moments = [moment for state in training.optimizer.state.values() for moment in state.values()]
    tensors = sum(one.nbytes for one in (*at_rest, *moments)) + allocation_peak(profiler)
    with Recorder() as recorder:
        one_step(3, whole)
    bound = Bound({"step": recorder.products}, torch.device("cpu"))
    bound.time()
    seconds, bounds = [], []
    for iteration in range(4, 4 + case.steps):
        start = time.perf_counter()
        one_step(iteration, divided)
        seconds.append(time.perf_counter() - start)
        bounds.append(bound.time()["step"] / 1000)
    step_seconds, bound_seconds = statistics.median(seconds), statistics.median(bounds)
    gflop = flop(recorder.products) / 1e9
    return Measured(
        step_seconds, bound_seconds, step_seconds / bound_seconds, gflop, tensors / 1e9, peak / 1e9
    )


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
    parser.add_argument("--plain", action="store_true", help="also the plain way, a row of its own")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON for each row, in place of the table"
    )
    options = parser.parse_args()
    chosen = {"no": [False], "yes": [True], "both": [False, True]}[options.checkpointing]
    ways = [False, True] if options.plain else [False]
    table = Table("model", "pictures", "dtype", "checkpointing", "attention")
    for heading in ("s/step", "bound s", "ratio", "GFLOP", "tensors GB", "process GB"):
        table.add_column(heading, justify="right")
    for model, dtype, pictures, checkpointing, plain in product(
        options.model, options.dtype, options.pictures, chosen, ways
    ):
        case = Case(model, pictures, dtype, checkpointing, plain, options.steps)
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            found = alone.apply(measure, (case,))
        if options.json:
            print(json.dumps(asdict(case) | asdict(found)), flush=True)
        ways_told = ("yes" if checkpointing else "no", "plain" if plain else "fused")
        numbers = (f"{number:,.2f}" for number in asdict(found).values())
        table.add_row(model, str(pictures), dtype, *ways_told, *numbers)
    if not options.json:
        Console(width=max(Console().width, 120)).print(
            table, f"{torch.get_num_threads()} threads, torch {torch.__version__}"
        )


if __name__ == "__main__":
    main()
