"""The folder of a training run: states to go on from, the log, and the wish to stop."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from sanseg.model.checkpoint import replacing

MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW remembers of each parameter
STATES = "checkpoints"


@dataclass(frozen=True)
class Training:
    """What a run changes: the parameters by name, the optimizer's moments, and the scaler of float16 losses."""

    parameters: dict[str, nn.Parameter]
    optimizer: AdamW
    scaler: torch.amp.GradScaler


def save_state(folder: Path, training: Training, run: dict[str, Any], done: int, keep: int) -> None:
    """Everything a run needs to go on after `done` iterations, beside the last states; `keep` of all stay.

    Random numbers and the order of pictures follow from the seed and the iteration: they have no state.
    A failure leaves the older states as they were. Raises OSError where the file cannot be written.
    """
    tensors = {}
    for name, parameter in training.parameters.items():
        tensors[f"parameter/{name}"] = parameter.detach().contiguous()
        for moment, value in training.optimizer.state[parameter].items():
            assert moment in MOMENTS
            tensors[f"{moment}/{name}"] = value
    metadata = {
        "run": json.dumps(run),
        "done": str(done),
        "scaler": json.dumps(training.scaler.state_dict()),
    }
    path = folder / STATES / f"{done:07d}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written ({error}): the states before it are whole") from error
    for old in _states(folder)[keep:]:
        old.unlink(missing_ok=True)


def load_state(folder: Path, training: Training, run: dict[str, Any]) -> tuple[int, str]:
    """Puts the newest whole state into model and optimizer.

    Returns how many iterations were done, 0 where there is no state, and a notice, empty unless a newer state was
    passed over because it is damaged.
    Raises ValueError for a state of another run, naming what differs, and where every state is damaged.
    """
    notices = []
    for path in _states(folder):
        try:
            tensors, metadata = _read(path)
            was, done = json.loads(metadata["run"]), int(metadata["done"])
            scaler = json.loads(metadata["scaler"])
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            notices.append(f"{path} is damaged ({error})")
            continue
        _check_same(path, was, run, tensors, training.parameters)
        _restore(training, tensors, scaler)
        return done, "; ".join(notices) and "; ".join(notices) + f": going on from {path.name} instead"
    if notices:
        raise ValueError(f"no state of this run is whole; {'; '.join(notices)}: start in another folder")
    return 0, ""


def _states(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted((folder / STATES).glob("[0-9]*.safetensors"), reverse=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _check_same(
    path: Path,
    was: dict[str, Any],
    run: dict[str, Any],
    tensors: dict[str, Tensor],
    parameters: dict[str, nn.Parameter],
) -> None:
    shapes = {
        name.removeprefix("parameter/"): tensor.shape
        for name, tensor in tensors.items()
        if name.startswith("parameter/")
    }
    differing = [
        f"{key} {was.get(key)}, now {run.get(key)}"
        for key in sorted({*was, *run})
        if was.get(key) != run.get(key)
    ]
    if shapes != {name: parameter.shape for name, parameter in parameters.items()}:
        differing.append("the trained parameters")
    if differing:
        raise ValueError(
            f"{path} is of another run ({'; '.join(differing)}): use that run's settings, or another folder"
        )


def _restore(training: Training, tensors: dict[str, Tensor], scaler: dict[str, Any]) -> None:
    with torch.no_grad():
        for name, parameter in training.parameters.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            held = {moment: tensors.get(f"{moment}/{name}") for moment in MOMENTS}
            if held["step"] is not None:
                device = parameter.device
                moved = {moment: value.to(device) for moment, value in held.items() if value is not None}
                training.optimizer.state[parameter] = {**moved, "step": held["step"].cpu()}
    if scaler:
        training.scaler.load_state_dict(scaler)


def open_log(path: Path, done: int) -> IO[str]:
    """The log, open for writing, without the lines of iterations that will be done again."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    with replacing(path) as temporary:
        temporary.write_text("".join(lines[:done]), encoding="utf-8")
    return path.open("a", encoding="utf-8", buffering=1)


class Wish:
    """Whether somebody has asked the run to stop."""

    asked = False


@contextmanager
def stopping() -> Iterator[Wish]:
    """Turns the first SIGINT or SIGTERM into a wish, which the run heeds after its step; a second one stops at once.

    Signals reach the main thread only: in another thread there is never a wish.
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if wish.asked:
            raise KeyboardInterrupt
        wish.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
