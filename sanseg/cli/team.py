"""Several processes that work on one command: those that torchrun or accelerate launch started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sanseg.metrics import Reduce

PATIENCE_HOURS = 6  # that a process which has done its share waits for the others


@dataclass(frozen=True)
class Team:
    """The processes that share the pictures out: this one's place, its device, and what they do together.

    first: within it, the first process of a machine goes ahead of the others.
    """

    rank: int
    count: int
    device: str
    reduce: Reduce | None = None
    first: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def leads(self) -> bool:
        return self.rank == 0


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """The team that torchrun or accelerate launch started; of one where neither did."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Team(0, 1, device)
        return
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(
            f"device {device!r} for several processes: give auto, cuda or cpu, each takes its own"
        )
    from datetime import timedelta

    import numpy as np
    import torch
    from accelerate import PartialState
    from numpy.typing import NDArray

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=timedelta(hours=PATIENCE_HOURS))

    def reduce(array: NDArray[Any]) -> NDArray[Any]:
        tensor = torch.from_numpy(np.array(array)).to(state.device)
        torch.distributed.all_reduce(tensor)
        summed: NDArray[Any] = tensor.cpu().numpy()
        return summed

    yield Team(
        state.process_index, state.num_processes, str(state.device), reduce, state.local_main_process_first
    )
    state.destroy_process_group()
