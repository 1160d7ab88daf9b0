"""The folder of a training run that never took place, in the form that `sanseg.train.train` writes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sanseg.draw import triptych
from sanseg.metrics import Metrics, Tally
from sanseg.train import TrainConfig
from tests.conftest import TINY

HOSTILE = (
    "<script>alert('label')</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "</style><b>bold",
    "$\\frac{a}$",
    "猫 | кошка",
)
LABELS = (
    "sky",
    "tree | woods",
    "road",
    "a name as long as some of the benchmarks have them, with, commas",
    *HOSTILE,
)


def metrics_after(share: float, labels: tuple[str, ...], seed: int = 0) -> Metrics:
    """Of predictions of which about so many are right; the last label never occurs."""
    rng = np.random.default_rng(seed)
    tally = Tally.empty(len(labels), edges=False)
    truth = np.minimum(rng.exponential(len(labels) / 4, (200, 300)), len(labels) - 2).astype(np.uint8)
    guesses = rng.integers(0, len(labels), truth.shape)
    certainty = rng.random(truth.shape)
    prediction = np.where(certainty < share - 0.03 * truth, truth, guesses).astype(np.uint8)
    tally.add(prediction, truth, (1 - certainty).astype(np.float32))
    return Metrics.of(tally, labels, seen=[index % 3 > 0 for index in range(len(labels))])


def write_run(
    folder: Path,
    *,
    done: int = 400,
    planned: int = 400,
    evaluate_every: int = 100,
    labels: tuple[str, ...] = LABELS,
    sets: tuple[str, ...] = ("voc", "camvid"),
) -> Path:
    """A run of so many iterations, evaluated every so often (0 is never) on so many sets."""
    folder.mkdir(parents=True)
    described = {
        "sanseg": "0.1.0",
        "started": "2026-03-04T05:06:07+00:00",
        "command": ["sanseg", "train", "--data", "my pictures/<b>", "--run", "runs/first"],
        "config": asdict(TrainConfig(iterations=planned, evaluate_every=evaluate_every)),
        "sets": [{"name": name, "form": "folder", "pictures": 1_234, "labels": labels} for name in sets],
        "val": [{"name": name, "form": "folder", "pictures": 56, "labels": labels} for name in sets],
        "model": TINY.to_dict(),
        "device": "cpu",
        "processes": 1,
    }
    (folder / "run.json").write_text(json.dumps(described))
    write_lines(folder / "metrics.jsonl", [iteration_line(number, planned) for number in range(done)])
    evaluations = range(evaluate_every, done + 1, evaluate_every) if evaluate_every else ()
    lines = []
    for iteration in evaluations:
        found = {
            name: metrics_after(0.9 * (1 - math.exp(-iteration / planned * 3)), labels, seed)
            for seed, name in enumerate(sets)
        }
        told = {name: {**one.to_dict(), "pictures": 56, "failures": []} for name, one in found.items()}
        mean = sum(one.miou_present for one in found.values()) / len(sets)
        lines.append({"iteration": iteration, "sets": told, "miou_present": mean})
        for name in sets:
            write_picture(folder / "pictures" / f"{iteration:07d}" / f"{name}-beach & <sea>.png", labels)
    if lines:
        write_lines(folder / "evaluations.jsonl", lines)
    return folder


def iteration_line(iteration: int, planned: int) -> dict[str, Any]:
    rng = np.random.default_rng(iteration)
    part = 3 * math.exp(-6 * iteration / planned) + 0.4 + 0.15 * float(rng.standard_normal())
    return {
        "iteration": iteration,
        "loss": 20 * part,
        "classification": [1.2 * part, part],
        "mask": [0.6 * part, 0.5 * part],
        "dice": [1.1 * part, 0.9 * part],
        "answer": [0.0, 0.0],
        "norm": None if iteration == 3 else 2.5,
        "lr": 1e-4 * (1 - iteration / planned) ** 0.9,
        "seconds": 0.8,
        "images_per_second": 40 + float(rng.standard_normal()),
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_picture(path: Path, labels: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns, rows = np.meshgrid(np.arange(320), np.arange(240))
    image = np.stack([columns * 255 // 320, rows, 255 - rows], axis=-1).astype(np.uint8)
    truth = ((columns // 80 + rows // 80) % len(labels)).astype(np.uint8)
    prediction = (((columns + 9) // 80 + rows // 75) % len(labels)).astype(np.uint8)
    picture: Image.Image = triptych(image, truth, prediction, labels)
    picture.save(path)
