"""A step shared out, and the processes that load its pictures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sanseg import train as train_module
from sanseg.data.datasets import SegmentationSet
from sanseg.model.san import SAN
from sanseg.train import (
    Part,
    train,
)
from tests.test_train import FAST


def test_a_batch_that_cannot_be_divided_is_refused(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match="batch of 3 cannot be divided among 1 processes with accumulation 2"
    ):
        train(tiny_san, sets, replace(FAST, batch=3, accumulation=2), tmp_path, quiet=True)


def test_a_worker_that_dies_is_told(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: SegmentationSet, index: int) -> None:
        os._exit(1)

    monkeypatch.setattr(SegmentationSet, "__getitem__", die)
    with pytest.raises(OSError, match=r"a process that loads pictures died .*: use fewer workers"):
        train(tiny_san, sets, replace(FAST, workers=1), tmp_path, quiet=True)


def test_a_worker_that_is_killed_while_the_network_computes_is_told(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a system short of memory does it."""
    made = train_module.make_part

    def killing(*arguments: Any) -> Part:
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        time.sleep(0.2)
        return made(*arguments)

    monkeypatch.setattr(train_module, "make_part", killing)
    with pytest.raises(OSError, match=r"a process that loads pictures died .*: use fewer workers"):
        train(tiny_san, sets, replace(FAST, iterations=50, workers=1), tmp_path, quiet=True)


def test_workers_leave_ctrl_c_to_the_one_that_trains(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = train_module.make_part

    def interrupted(*arguments: Any) -> Part:
        workers = [worker for worker in multiprocessing.active_children() if worker.is_alive()]
        assert workers
        for process in (*workers, multiprocessing.current_process()):
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)
        time.sleep(0.2)
        return made(*arguments)

    monkeypatch.setattr(train_module, "make_part", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped after 1 iterations, which are saved"):
        train(tiny_san, sets, replace(FAST, iterations=50, workers=2), tmp_path, quiet=True)
    monkeypatch.setattr(train_module, "make_part", made)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_told_in_one_line(
    workers: int, tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    broken = tmp_path / "pets" / "masks" / "p0.png"
    broken.write_bytes(b"no mask")
    with pytest.raises(ValueError, match=r"p0\.png") as raised:
        train(tiny_san, sets, replace(FAST, workers=workers), tmp_path / "run", quiet=True)
    assert "\n" not in str(raised.value)
