"""How the pictures of a step are shared out: over processes, over passes one after the other, and over lanes.

B batch, K labels of one set. What a step computes must not depend on the division: see `losses.Normalisers`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sanseg.data.stream import Batch, Example, Stream
from sanseg.lanes import LANES
from sanseg.losses import Draws, Normalisers, Target
from sanseg.model.san import SAN
from sanseg.schedule import TrainConfig


@dataclass(frozen=True)
class Division:
    """How many pictures a part has, the places in the step at which this process's parts begin, and how many lanes
    compute parts side by side: the parts of one pass."""

    size: int
    places: tuple[int, ...]
    lanes: int

    @classmethod
    def of(cls, config: TrainConfig, process: int, processes: int, threads: int) -> Division:
        """threads: those of a CPU that lanes may share; 1 elsewhere. Raises ValueError for a batch that cannot be
        divided.
        """
        passes = processes * config.accumulation
        if config.batch % passes:
            raise ValueError(
                f"a batch of {config.batch} cannot be divided among {processes} processes with accumulation"
                f" {config.accumulation}: choose a batch that is a multiple of {passes}"
            )
        of_a_pass = config.batch // passes
        lanes = max(one for one in range(1, min(LANES, threads) + 1) if of_a_pass % one == 0)
        first, size = process * of_a_pass * config.accumulation, of_a_pass // lanes
        return cls(size, tuple(range(first, first + of_a_pass * config.accumulation, size)), lanes)


@dataclass(frozen=True)
class Part:
    """What goes through the network at once: some pictures of a step. draws: for each reading."""

    batch: Batch
    targets: tuple[Target, ...]
    draws: tuple[Draws, ...]


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


class _Told(Dataset["Example | OSError | ValueError"]):
    """The stream; what cannot be read is given as its error.

    An error raised in a process that loads pictures would come out of it with a traceback for a message.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __getitem__(self, number: int) -> Example | OSError | ValueError:
        try:
            return self.stream[number]
        except (OSError, ValueError) as error:
            return error


def _collate(examples: Sequence[Example | OSError | ValueError]) -> Batch | OSError | ValueError:
    fine = []
    for one in examples:
        if not isinstance(one, Example):
            return one
        fine.append(one)
    return Batch.of(fine)


def _unmoved(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal: those that load pictures leave it to the one that trains, and end
    when that one tells them to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def batches(stream: Stream, config: TrainConfig, division: Division, done: int) -> Iterator[Batch]:
    """This process's parts of the iterations that are left.

    Raises ValueError and OSError for a picture that cannot be read.
    """
    numbers = (
        step * config.batch + place + number
        for step in range(done, config.iterations)
        for place in division.places
        for number in range(division.size)
    )
    loader: DataLoader[Any] = DataLoader(
        _Told(stream),
        division.size,
        sampler=numbers,
        num_workers=config.workers,
        collate_fn=_collate,
        worker_init_fn=_unmoved,
        generator=torch.Generator(),  # workers' seeds, which nobody reads: not from the global state
    )
    for batch in loader:
        if isinstance(batch, OSError | ValueError):
            raise batch
        yield batch


@contextmanager
def deaths_told() -> Iterator[None]:
    """Raises OSError where a process that loads pictures dies; torch tells that at any moment of the step."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"a process that loads pictures died ({str(error).splitlines()[0]}): use fewer workers, or more"
            " memory; the run goes on from its last state"
        ) from error
