"""Lanes: threads that each take one picture after another the whole way, and what they compute with."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")

LANES = 8  # at most: each holds a picture in memory, and on a CPU what the network makes of it


@dataclass(frozen=True)
class Lanes:
    """number: how many threads `pool` has. turn: what a lane holds while it computes."""

    number: int
    pool: ThreadPoolExecutor
    turn: AbstractContextManager[object]

    def map(self, work: Callable[[S], T], items: Iterable[S]) -> Generator[T, None, None]:
        """What `work` makes of each item, in order. As many as there are lanes may be begun beyond those at work."""
        left = iter(items)
        begun: deque[Future[T]] = deque()
        while True:
            begun.extend(self.pool.submit(work, item) for item in islice(left, 2 * self.number - len(begun)))
            if not begun:
                return
            yield begun.popleft().result()

    def close(self) -> None:
        """Finishes what is begun, and begins nothing more."""
        self.pool.shutdown(cancel_futures=True)


def open_lanes(device: torch.device, pictures: int = LANES) -> Lanes:
    """For pictures of which there are so many, if they are few.

    On a CPU they are computed side by side, each with its share of torch's threads: all threads on one picture wait
    for each other. The share of each is one while torch has no more than LANES. Another device computes one picture
    at a time, and meanwhile others are read and written.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu":
        number = max(1, min(LANES, threads, pictures))
        return Lanes(number, _sharing(number, threads // number), nullcontext())
    number = min(LANES, 1 + threads)
    return Lanes(number, ThreadPoolExecutor(number, thread_name_prefix="sanseg-lane"), threading.Lock())


def _sharing(lanes: int, threads: int) -> ThreadPoolExecutor:
    """Lanes in each of which torch computes with so many threads, whatever others have."""
    pool, begun = ThreadPoolExecutor(lanes, thread_name_prefix="sanseg-lane"), threading.Barrier(lanes)

    def begin() -> None:
        torch.get_num_threads()  # else what is set now is forgotten at the first thing that is computed
        torch.set_num_threads(threads)
        begun.wait()

    usual = torch.get_num_threads()
    wait([pool.submit(begin) for _ in range(lanes)])
    # Each thread has its own number, but those that begin later take the last one.
    torch.set_num_threads(usual)
    return pool
