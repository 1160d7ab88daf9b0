"""Training: frozen weights, steps divided, and runs that go on as if never stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from sanseg import train as train_module
from sanseg.data.datasets import SegmentationSet
from sanseg.data.stream import Batch
from sanseg.data.transforms import Augmentation
from sanseg.losses import LossConfig
from sanseg.model.checkpoint import read_head
from sanseg.model.san import CLIP_TRAINS, PARTS, SAN
from sanseg.model.text import TextEncoder
from sanseg.run import lines_of
from sanseg.train import (
    Part,
    TrainConfig,
    learning_rate,
    make_optimizer,
    train,
    trainable,
)
from tests.data.test_datasets import stripes, write_set

CLOCK = ("seconds", "images_per_second")
FAST = TrainConfig(
    iterations=6,
    batch=2,
    lr=1e-3,
    save_every=3,
    loss=LossConfig(points=64, answer_weight=1.0, answer_points=64),
    augmentation=Augmentation(short_side=64, crop=64),
)


def test_warm_up_rises_to_the_schedule() -> None:
    config = TrainConfig(iterations=100, lr=1.0, warmup=10)
    cold = replace(config, warmup=0)
    rates = [learning_rate(iteration, config) for iteration in range(20)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:] == [learning_rate(iteration, cold) for iteration in range(10, 20)]


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in told]


def states(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").iterdir())


@pytest.mark.parametrize("kind", ["tiny_san", "tiny_stem_san"])
def test_frozen_is_frozen_and_the_rest_trains(
    kind: str, request: pytest.FixtureRequest, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    san: SAN = request.getfixturevalue(kind)
    before = deepcopy(san.state_dict())
    train(san, sets, replace(FAST, iterations=2), tmp_path / "run", quiet=True)
    after = san.state_dict()
    changed = {name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()}
    assert changed == set(san.trained())
    assert "clip.visual.position" in changed
    assert not any(name.startswith("clip.") and name != "clip.visual.position" for name in changed)


def test_recognition_teaches_the_bias_through_frozen_blocks(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    """With the class loss alone only recognition has a say: its gradient passes CLIP's deep blocks."""
    alone = LossConfig(points=64, mask_weight=0, dice_weight=0)
    train(tiny_san, sets, replace(FAST, iterations=1, loss=alone), tmp_path / "run", quiet=True)
    for parameter in (*tiny_san.side_adapter.decoder.bias.parameters(), tiny_san.nothing):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    deep = dict(tiny_san.named_parameters())["clip.visual.blocks.3.qkv.weight"]
    assert deep.grad is None


def test_a_run_that_stopped_goes_on_as_if_it_had_not(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    """It dies after iteration 5, having saved after 3; the second start repeats 3 and 4, and finishes."""
    other_san = deepcopy(tiny_san)
    train(tiny_san, sets, FAST, tmp_path / "whole", quiet=True)

    def die(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(other_san, sets, FAST, tmp_path / "cut", quiet=True, saved=die)
    assert len(lines(tmp_path / "cut")) == 3
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as log:
        log.write('{"iteration": 3}\n{"itera')
    with torch.no_grad():  # nothing but the saved state may count
        for parameter in other_san.trained().values():
            parameter.zero_()
    torch.manual_seed(99)
    saved: list[int] = []
    train(other_san, sets, FAST, tmp_path / "cut", quiet=True, saved=saved.append)
    assert saved == [6]
    assert read_head(tmp_path / "cut" / "adapter.safetensors").kind == "adapter"
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    for name, tensor in tiny_san.state_dict().items():
        assert tensor.equal(other_san.state_dict()[name]), name


def test_workers_change_nothing(tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path) -> None:
    other_san = deepcopy(tiny_san)
    train(tiny_san, sets, replace(FAST, iterations=3), tmp_path / "none", quiet=True)
    train(other_san, sets, replace(FAST, iterations=3, workers=2), tmp_path / "two", quiet=True)
    assert lines(tmp_path / "none") == lines(tmp_path / "two")


def test_seeds_differ(tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path) -> None:
    other_san = deepcopy(tiny_san)
    train(tiny_san, sets, replace(FAST, iterations=1), tmp_path / "0", quiet=True)
    train(other_san, sets, replace(FAST, iterations=1, seed=1), tmp_path / "1", quiet=True)
    assert lines(tmp_path / "0")[0]["loss"] != lines(tmp_path / "1")[0]["loss"]


@pytest.mark.parametrize("accumulation", [2, 4])
def test_losses_do_not_depend_on_how_a_step_is_divided(
    accumulation: int, tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    other_san = deepcopy(tiny_san)
    config = replace(FAST, batch=4, iterations=3)
    train(tiny_san, sets, config, tmp_path / "whole", quiet=True)
    train(other_san, sets, replace(config, accumulation=accumulation), tmp_path / "parts", quiet=True)
    assert_alike(lines(tmp_path / "parts"), lines(tmp_path / "whole"))


def assert_alike(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Equal to rounding: each line's losses of each reading, and the gradient's norm."""
    assert len(found) == len(wanted) > 0
    for line, other in zip(found, wanted, strict=True):
        assert line.keys() == other.keys()
        for name in line:
            assert line[name] == pytest.approx(other[name], rel=2e-4), name


PROGRAM = """
import sys
from pathlib import Path
from dataclasses import replace
from sanseg.data.datasets import SegmentationSet
from tests.conftest import TINY, make_san
from tests.test_train import FAST
from sanseg.train import train
folder, run = Path(sys.argv[1]), sys.argv[2]
iterations, batch, accumulation, save_every = map(int, sys.argv[3:])
sets = [SegmentationSet.open(folder / name) for name in ("pets", "plants")]
config = replace(FAST, iterations=iterations, batch=batch, accumulation=accumulation, save_every=save_every)
train(make_san(TINY), sets, config, folder / run, val=sets, quiet=True)
"""


def start(folder: Path, run: str, *settings: int, **environment: str) -> subprocess.Popen[str]:
    """PROGRAM in a process of its own; settings: iterations, batch, accumulation, save_every."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), run, *map(str, settings)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        text=True,
    )


def free_address() -> dict[str, str]:
    """Where processes may meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error


def test_two_processes_are_one_with_twice_the_accumulation(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    config = replace(FAST, iterations=3, batch=4, accumulation=2)
    train(tiny_san, sets, config, tmp_path / "one", val=sets, quiet=True)
    address = {**free_address(), "WORLD_SIZE": "2"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **address} for rank in range(2)]
    finish(*(start(tmp_path, "two", 3, 4, 1, 3, **rank) for rank in ranks))
    assert_alike(lines(tmp_path / "two"), lines(tmp_path / "one"))
    trained = load_file(tmp_path / "two" / "adapter.safetensors")
    for name, tensor in tiny_san.trained().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-3, atol=1e-5)
    evaluated = [lines_of(tmp_path / run / "evaluations.jsonl") for run in ("one", "two")]
    assert [[line["iteration"] for line in found] for found in evaluated] == [[3], [3]]
    for one in sets:
        single, shared = (found[0]["sets"][one.name] for found in evaluated)
        for name in ("pictures", "pixels", "failures"):
            assert single[name] == shared[name]
        assert single["miou_present"] == pytest.approx(shared["miou_present"], abs=1)  # a near tie may flip
    shown = [
        {str(path.relative_to(tmp_path / run)) for path in (tmp_path / run / "pictures").rglob("*.png")}
        for run in ("one", "two")
    ]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 5


def test_a_killed_run_goes_on_bit_for_bit(sets: list[SegmentationSet], tmp_path: Path) -> None:
    """SIGKILL, wherever it falls; the runs of other tests cannot show what a process takes with it."""
    undisturbed = start(tmp_path, "whole", 30, 2, 1, 4)
    process = start(tmp_path, "killed", 30, 2, 1, 4)
    log = tmp_path / "killed" / "metrics.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 10:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert 10 <= len(log.read_text().splitlines()) < 30, "killed midway"
    finish(start(tmp_path, "killed", 30, 2, 1, 4), undisturbed)
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    trained = [load_file(tmp_path / run / "adapter.safetensors") for run in ("killed", "whole")]
    assert all(tensor.equal(trained[1][name]) for name, tensor in trained[0].items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_then_stops(
    number: signal.Signals, tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    config = replace(FAST, iterations=6, save_every=6)
    whole_san = deepcopy(tiny_san)
    train(whole_san, sets, config, tmp_path / "whole", quiet=True)
    made = train_module.make_part

    def interrupted(batch: Batch, san: SAN, rows: Any, told: TrainConfig, iteration: int, place: int) -> Part:
        if iteration == 2 and place == 0:
            os.kill(os.getpid(), number)
        return made(batch, san, rows, told, iteration, place)

    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "make_part", interrupted)
        with pytest.raises(KeyboardInterrupt, match="stopped after 3 iterations, which are saved"):
            train(tiny_san, sets, config, tmp_path / "cut", quiet=True)
    assert signal.getsignal(number) is before
    assert [path.stem for path in states(tmp_path / "cut")] == ["0000003"]
    train(tiny_san, sets, config, tmp_path / "cut", quiet=True)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_float16_finds_its_scale_and_goes_on(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    """A step whose gradients overflow is skipped, and the scale is part of the state."""
    config = replace(FAST, iterations=4, save_every=2, dtype="float16")
    other_san = deepcopy(tiny_san)
    train(tiny_san, sets, config, tmp_path / "whole", quiet=True)

    def die(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(other_san, sets, config, tmp_path / "cut", quiet=True, saved=die)
    train(other_san, sets, config, tmp_path / "cut", quiet=True)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    scales = []
    for run in ("whole", "cut"):
        with safe_open(states(tmp_path / run)[-1], framework="pt") as file:
            scales.append(json.loads(file.metadata()["scaler"]))
    assert scales[0] == scales[1], "the scale and how long it has held go on"
    for name, tensor in tiny_san.state_dict().items():
        assert tensor.equal(other_san.state_dict()[name]), name
        assert tensor.isfinite().all()


@pytest.mark.parametrize("trains", CLIP_TRAINS)
@pytest.mark.parametrize("part", PARTS)
def test_what_is_named_trains_and_nothing_else(
    trains: str, part: str, tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    before = deepcopy(tiny_san.state_dict())
    config = replace(FAST, iterations=2, trains=trains, part=part, clip_lr=0.5)
    train(tiny_san, sets, config, tmp_path, quiet=True)
    after = tiny_san.state_dict()
    changed = {name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()}
    tiny_san.freeze(trains, part)
    assert changed == set(trainable(tiny_san))
    whole = trains == "visual" and part != "masks"
    assert (tmp_path / "adapter.safetensors").exists() != whole
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert tensor.equal(after[name]), name


def test_a_factor_slows_clip_alone(tiny_san: SAN) -> None:
    tiny_san.freeze("visual")
    names = {id(parameter): name for name, parameter in trainable(tiny_san).items()}
    for group in make_optimizer(tiny_san, replace(FAST, clip_lr=0.1)).param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            own = name.startswith("clip.") and name != "clip.visual.position"
            assert group["factor"] == (0.1 if own else 1.0), name


def test_checkpointing_changes_no_loss(tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path) -> None:
    other_san = deepcopy(tiny_san)
    train(tiny_san, sets, replace(FAST, iterations=3), tmp_path / "plain", quiet=True)
    train(other_san, sets, replace(FAST, iterations=3, checkpointing=True), tmp_path / "again", quiet=True)
    assert other_san.checkpointing
    assert_alike(lines(tmp_path / "again"), lines(tmp_path / "plain"))


def test_training_hears_what_an_answer_hears(
    tiny_seeing_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    san = tiny_seeing_san
    words = TextEncoder(san.clip.text)
    rows = words.rows(sets[0].vocabulary.names, san.config.templates)
    san.clip.visual.guess.kinds.data[:] = torch.nn.functional.normalize(rows[0], dim=0)
    found = []
    for evidence in (0.0, 7.0):
        one = deepcopy(san)
        one.config = replace(san.config, evidence=evidence)
        train(one, sets, replace(FAST, iterations=1), tmp_path / f"{evidence}", quiet=True)
        found.append(lines(tmp_path / f"{evidence}")[0]["loss"])
    assert abs(found[0] - found[1]) > 0.1


def test_a_checkpoint_says_what_it_was_trained_on(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    train(tiny_san, sets, replace(FAST, iterations=1), tmp_path, quiet=True)
    labels = read_head(tmp_path / "adapter.safetensors").labels
    assert labels == ("cat", "kitten", "dog", "horse", "fern", "oak")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_pictures(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    with torch.no_grad():
        tiny_san.nothing.fill_(float("nan"))
    before = deepcopy(tiny_san.state_dict())
    with pytest.raises(FloatingPointError, match=r"iteration 0: the loss is nan.*(pets|plants)/..: look at"):
        train(tiny_san, sets, replace(FAST, batch=1), tmp_path, quiet=True)
    after = tiny_san.state_dict()
    assert all(before[name].equal(after[name]) for name in before if name != "nothing")
    assert states(tmp_path) == []


def test_bfloat16_trains_almost_alike(tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path) -> None:
    other_san = deepcopy(tiny_san)
    train(tiny_san, sets, replace(FAST, iterations=2), tmp_path / "full", quiet=True)
    train(other_san, sets, replace(FAST, iterations=2, dtype="bfloat16"), tmp_path / "half", quiet=True)
    full, half = ([line["loss"] for line in lines(tmp_path / name)] for name in ("full", "half"))
    assert half != full
    assert half == pytest.approx(full, rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in other_san.parameters())


def test_training_learns(tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path) -> None:
    """Two pictures, each split into a dark and a bright half, as they are."""
    halves = stripes(values=(0, 1)).repeat(6, 0).repeat(8, 1)
    folder = write_set(tmp_path / "halves", {"a": halves, "b": 1 - halves}, ["night", "day"])
    for stem, mask in (("a", halves), ("b", 1 - halves)):
        Image.fromarray(mask * 200).convert("RGB").save(folder / "images" / f"{stem}.png")
    as_they_are = Augmentation(short_side=64, crop=64, scale=(1, 1), flip=0, colour=0)
    config = replace(FAST, iterations=60, lr=1e-2, clip=1.0, augmentation=as_they_are, save_every=60)
    train(tiny_san, [SegmentationSet.open(folder)], config, tmp_path / "run", quiet=True)
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_what_is_logged(tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path) -> None:
    train(tiny_san, sets, replace(FAST, iterations=2), tmp_path, quiet=True)
    first, second = lines(tmp_path)
    assert [first["iteration"], second["iteration"]] == [0, 1]
    assert [first["lr"], second["lr"]] == [1e-3, learning_rate(1, replace(FAST, iterations=2))]
    config = FAST.loss
    weights = {
        "classification": config.class_weight,
        "mask": config.mask_weight,
        "dice": config.dice_weight,
        "answer": config.answer_weight,
    }
    assert all(len(first[name]) == 2 for name in weights), "two readings"
    total = sum(weight * sum(first[name]) for name, weight in weights.items())
    assert first["loss"] == pytest.approx(total, rel=1e-5)


def test_progress_goes_to_stderr_only_when_wanted(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = replace(FAST, iterations=1)
    train(tiny_san, sets, one, tmp_path / "quiet", quiet=True)
    assert capsys.readouterr() == ("", "")
    train(tiny_san, sets, one, tmp_path / "shown")
    out, err = capsys.readouterr()
    assert out == ""
    assert "training" in err


def test_impossible_settings_are_refused(tiny_san: SAN) -> None:
    with pytest.raises(ValueError, match="dtype 'float8' is unknown: use one of float32, bfloat16"):
        TrainConfig(dtype="float8")
    with pytest.raises(ValueError, match="batch is 0: give at least 1"):
        TrainConfig(batch=0)
    tiny_san.requires_grad_(False)
    with pytest.raises(ValueError, match=r"call san\.freeze"):
        make_optimizer(tiny_san, FAST)
