"""The folder of a training run: states to go on from, the log, trackers, and the wish to stop."""

from __future__ import annotations

import importlib.util
import json
import math
import secrets
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from sanseg.data.datasets import SegmentationSet
from sanseg.images import write_json
from sanseg.model.checkpoint import replacing
from sanseg.precision import Precision
from sanseg.version import VERSION

MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW remembers of each parameter
STATES = "checkpoints"
TELL_EVERY = 30.0  # seconds, where no terminal shows a bar
TRACKERS = {  # that Accelerate can write to: the package that each needs
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}


@dataclass(frozen=True)
class Training:
    """What a run changes: the parameters by name, the optimizer's moments, and the scaler of float16 losses. And the
    precision that it computes in."""

    parameters: dict[str, nn.Parameter]
    optimizer: AdamW
    scaler: torch.amp.GradScaler
    precision: Precision


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


def begin(folder: Path) -> None:
    """Makes the folder. Raises OSError, before anything is computed, where it cannot be written to."""
    probe = folder / STATES / f".{secrets.token_hex(4)}.tmp"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(f"{folder} cannot hold a run ({error}): choose another folder, or free it") from error


def describe_run(folder: Path, described: dict[str, Any]) -> None:
    """Writes run.json: what is being run, since when. A run that goes on keeps the time it began at."""
    path = folder / "run.json"
    try:
        started = json.loads(path.read_text(encoding="utf-8"))["started"]
    except (OSError, ValueError, KeyError, TypeError):
        started = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, {"sanseg": VERSION, "started": started, **described})


def describe_set(one: SegmentationSet) -> dict[str, Any]:
    """What run.json says of a set."""
    return {
        "name": one.name,
        "form": one.form,
        "pictures": len(one),
        "labels": [" | ".join(names) for names in one.vocabulary.names],
    }


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a death cut short is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("iteration"), int):
            found.append(value)
    return found


def open_log(path: Path, done: int) -> IO[str]:
    """The log, open for writing, without the lines of iterations that will be done again."""
    kept = [line for line in lines_of(path) if line["iteration"] < done]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    return path.open("a", encoding="utf-8", buffering=1)


def check_trackers(names: Iterable[str]) -> None:
    """Raises ValueError for a tracker that is unknown, or whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"tracker {name!r} is unknown: choose from {', '.join(TRACKERS)}")
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise ValueError(
                f"tracker {name!r} needs a package that is missing: pip install {TRACKERS[name]}"
            )


def plain(values: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested values as trackers take them: one level, names joined by "/", lists numbered."""
    found: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, list | tuple):
            value = {str(number): one for number, one in enumerate(value)}
        if isinstance(value, dict):
            found |= plain(value, f"{prefix}{name}/")
        elif isinstance(value, bool | int | float | str):
            found[f"{prefix}{name}"] = value
    return found


class Screen:
    """What a person sees of a run, on stderr: bars in a terminal; elsewhere a line now and then."""

    def __init__(self, iterations: int, done: int, *, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
        )
        self.progress = Progress(
            *columns, console=self.console, disable=quiet or not self.console.is_terminal
        )
        self._task = self.progress.add_task("training", total=iterations, completed=done, told="")
        self._iterations, self._first, self._began = iterations, done, time.monotonic()
        self._last = -math.inf

    def __enter__(self) -> Screen:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, markup=False, highlight=False)

    def step(self, done: int, told: str) -> None:
        """After each iteration. told: its figures."""
        self.progress.update(self._task, completed=done, told=told)
        now = time.monotonic()
        if self.progress.disable and (now - self._last >= TELL_EVERY or done == self._iterations):
            left = (now - self._began) / (done - self._first) * (self._iterations - done)
            self.say(f"training: {done} of {self._iterations}, {told}, {timedelta(seconds=round(left))} left")
            self._last = now


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
