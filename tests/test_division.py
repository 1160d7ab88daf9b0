"""A step shared out, and the processes that load its pictures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sanseg import train as train_module
from sanseg.data.datasets import SegmentationSet
from sanseg.division import Division, Part
from sanseg.model.san import SAN, Proposals
from sanseg.model.text_cache import TextCache
from sanseg.train import train
from tests.test_segment_each import lanes as running
from tests.test_train import FAST, lines


def test_a_batch_that_cannot_be_divided_is_refused(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match="batch of 3 cannot be divided among 1 processes with accumulation 2"
    ):
        train(tiny_san, sets, replace(FAST, batch=3, accumulation=2), tmp_path, quiet=True)


@pytest.mark.parametrize(
    ("batch", "accumulation", "threads", "lanes", "size"),
    [(8, 1, 4, 4, 2), (6, 1, 4, 3, 2), (7, 1, 4, 1, 7), (8, 4, 2, 2, 1), (2, 2, 4, 1, 1), (64, 1, 99, 8, 8)],
)
def test_a_pass_is_shared_among_lanes(
    batch: int, accumulation: int, threads: int, lanes: int, size: int
) -> None:
    config = replace(FAST, batch=batch, accumulation=accumulation)
    division = Division.of(config, 0, 1, threads)
    assert (division.lanes, division.size) == (lanes, size)
    assert division.places == tuple(range(0, batch, size))


def test_the_parts_of_all_processes_are_the_whole_step() -> None:
    divisions = [Division.of(replace(FAST, batch=24, accumulation=2), process, 3, 2) for process in range(3)]
    assert {(one.lanes, one.size) for one in divisions} == {(2, 2)}
    assert [place for one in divisions for place in one.places] == [*range(0, 24, 2)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts_side_by_side_give_what_they_give_one_after_the_other(
    dtype: str, tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path, three_threads: None
) -> None:
    other_san, threads = deepcopy(tiny_san), set[int]()
    made = tiny_san.readings

    def readings(image_B3HW: Tensor) -> list[Proposals]:
        threads.add(torch.get_num_threads())
        return made(image_B3HW)

    config, cache = replace(FAST, batch=6, iterations=3, dtype=dtype), TextCache(None)
    tiny_san.readings = readings  # type: ignore[method-assign]
    train(tiny_san, sets, config, tmp_path / "lanes", quiet=True, text_cache=cache)
    assert threads == {1}
    torch.set_num_threads(1)
    train(other_san, sets, replace(config, accumulation=3), tmp_path / "passes", quiet=True, text_cache=cache)
    assert lines(tmp_path / "lanes") == lines(tmp_path / "passes")
    assert all(one.equal(other_san.state_dict()[name]) for name, one in tiny_san.state_dict().items())


def test_a_part_that_fails_ends_the_run_and_its_lanes(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path, three_threads: None
) -> None:
    def fail(image_B3HW: Tensor) -> list[Proposals]:
        raise RuntimeError("no memory")

    tiny_san.readings = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no memory"):
        train(tiny_san, sets, replace(FAST, batch=6), tmp_path, quiet=True)
    assert not running()


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
        place = arguments[-1]
        for process in (*workers, multiprocessing.current_process()) if place == 0 else ():
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
