"""How many lanes there are, and what each computes with."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sanseg.lanes import LANES, open_lanes

GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("threads", "pictures", "lanes", "share"),
    [
        (3, LANES, 3, 1),
        (3, 2, 2, 1),
        (3, 1, 1, 3),
        (5, 2, 2, 2),
        (2 * LANES + 1, LANES, LANES, 2),
        (1, 0, 1, 1),
    ],
)
def test_lanes_of_a_cpu_share_torchs_threads_and_leave_the_others_theirs(
    threads: int, pictures: int, lanes: int, share: int
) -> None:
    program = f"""
import threading, torch
from sanseg.lanes import open_lanes
torch.set_num_threads({threads})
opened = open_lanes(torch.device("cpu"), {pictures})
barrier = threading.Barrier(opened.number)
def inside():
    barrier.wait()  # so that each lane is asked once
    with opened.turn:
        return torch.get_num_threads()
found = [asked.result() for asked in [opened.pool.submit(inside) for _ in range(opened.number)]]
later = []
thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
thread.start(), thread.join()
print((found, torch.get_num_threads(), later))
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == repr(([share] * lanes, threads, [threads]))


def test_lanes_of_another_device_take_turns(three_threads: None) -> None:
    opened = open_lanes(GPU, 1)
    assert opened.number == 4
    with opened.turn:
        assert not opened.pool.submit(opened.turn.acquire, blocking=False).result()  # type: ignore[attr-defined]
    assert opened.pool.submit(opened.turn.acquire, blocking=False).result()  # type: ignore[attr-defined]
    opened.pool.shutdown()
