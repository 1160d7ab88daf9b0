"""What is seen of a run while it goes on: evaluations, pictures, the best weights, trackers."""

from __future__ import annotations

import json
import os
import signal
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from sanseg import validation
from sanseg.data.datasets import SegmentationSet
from sanseg.evaluate import Evaluation, evaluate, without_rivals
from sanseg.model.san import SAN
from sanseg.model.weights import load_san, save_san
from sanseg.run import check_trackers, lines_of, plain
from sanseg.segmenter import Segmenter
from sanseg.train import train
from sanseg.validation import name_apart
from tests.data.test_datasets import stripes, write_set
from tests.test_train import FAST, lines

LOOKING = replace(FAST, iterations=5, save_every=5, evaluate_every=2, pictures=2)


@pytest.fixture
def sets(tmp_path: Path) -> list[SegmentationSet]:
    large = stripes().repeat(6, 0).repeat(6, 1)
    pets = {"p0": large, "p1": large.T.copy(), "p2": np.roll(large, 7, 0)}
    plants = {f"q{number}": np.roll(large, 13 * number, 0) for number in range(2)}
    pets_folder = write_set(tmp_path / "pets", pets, ["cat | kitten", "dog", "horse"], other=254)
    plants_folder = write_set(tmp_path / "plants", plants, ["fern", "oak"], other=254)
    return [SegmentationSet.open(pets_folder), SegmentationSet.open(plants_folder)]


def evaluations(run: Path) -> list[dict[str, Any]]:
    return lines_of(run / "evaluations.jsonl")


def test_a_run_is_evaluated_now_and_then_and_at_the_end(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(tiny_san, sets, LOOKING, run, val=sets, quiet=True)
    found = evaluations(run)
    assert [line["iteration"] for line in found] == [2, 4, 5]
    segmenter = Segmenter(tiny_san)
    for one in sets:
        segmenter.classifier(one.vocabulary)
        seen = ["cat", "dog", "horse", "fern", "oak"]
        wanted = evaluate(without_rivals(segmenter), one, device=segmenter.device, seen=seen)
        told = found[-1]["sets"][one.name]
        assert told == {
            **json.loads(json.dumps(wanted.metrics.to_dict())),
            "pictures": len(one),
            "failures": [],
        }
        assert told["miou_seen"] == told["miou_present"]
    for line in found:
        mious = [line["sets"][one.name]["miou_present"] for one in sets]
        assert line["miou_present"] == pytest.approx(np.mean(mious))
    shown = {str(path.relative_to(run / "pictures")) for path in (run / "pictures").rglob("*.png")}
    names = ("pets-p0", "pets-p2", "plants-q0", "plants-q1")
    assert shown == {f"{done:07d}/{name}.png" for done in (2, 4, 5) for name in names}


def test_evaluating_changes_no_loss(tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path) -> None:
    other_san = deepcopy(tiny_san)
    train(tiny_san, sets, LOOKING, tmp_path / "seen", val=sets, quiet=True)
    train(other_san, sets, LOOKING, tmp_path / "unseen", quiet=True)
    assert lines(tmp_path / "seen") == lines(tmp_path / "unseen")
    assert not (tmp_path / "unseen" / "evaluations.jsonl").exists()
    assert not (tmp_path / "unseen" / "best.safetensors").exists()


def test_fewer_pictures_are_evaluated_when_asked(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    config = replace(LOOKING, evaluate_every=0, evaluate_pictures=1, pictures=0)
    train(tiny_san, sets, config, tmp_path, val=sets, quiet=True)
    (line,) = evaluations(tmp_path)
    assert [line["sets"][one.name]["pictures"] for one in sets] == [1, 1]
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("trains", ["position", "visual"])
def test_the_best_is_kept_and_is_the_model_at_the_end(
    trains: str,
    tiny_san: SAN,
    sets: list[SegmentationSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second of three evaluations is made the best."""
    figures, states = iter((10.0, 30.0, 20.0)), []

    def staged(*arguments: Any, **options: Any) -> Evaluation:
        found = evaluate(*arguments, **options)
        states.append(deepcopy(tiny_san.state_dict()))
        return replace(found, metrics=replace(found.metrics, miou_present=next(figures)))

    monkeypatch.setattr(validation, "evaluate", staged)
    save_san(tmp_path / "base.safetensors", tiny_san)
    config = replace(LOOKING, trains=trains)
    train(tiny_san, sets, config, tmp_path / "run", val=sets[:1], quiet=True)
    for name, tensor in load_file(tmp_path / "run" / "model.safetensors").items():
        assert tensor.equal(states[1][name]), name
    for name, tensor in load_file(tmp_path / "run" / "best.safetensors").items():
        assert tensor.equal(states[1][name]), name
    assert not states[1]["nothing"].equal(states[2]["nothing"])
    for name, tensor in tiny_san.state_dict().items():
        assert tensor.equal(states[2][name]), "the network itself is the last one"
    if trains == "position":
        whole = load_san(tmp_path / "run" / "best.safetensors", clip=tmp_path / "base.safetensors")
        assert whole.nothing.equal(states[1]["nothing"])


def test_a_run_that_dies_evaluating_evaluates_again(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_san = deepcopy(tiny_san)
    train(tiny_san, sets, LOOKING, tmp_path / "whole", val=sets, quiet=True)
    times = iter(range(100))

    def dying(*arguments: Any, **options: Any) -> Evaluation:
        if next(times) == 3:  # the second set, after 4 iterations
            raise OSError(28, "No space left on device")
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "evaluate", dying)
        with pytest.raises(OSError, match="No space left"):
            train(other_san, sets, LOOKING, tmp_path / "cut", val=sets, quiet=True)
    assert [line["iteration"] for line in evaluations(tmp_path / "cut")] == [2]
    assert max((tmp_path / "cut" / "checkpoints").iterdir()).stem == "0000004"
    train(other_san, sets, LOOKING, tmp_path / "cut", val=sets, quiet=True)
    assert evaluations(tmp_path / "cut") == evaluations(tmp_path / "whole")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_what_came_after_the_last_state_is_evaluated_again(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    other_san = deepcopy(tiny_san)
    train(tiny_san, sets, LOOKING, tmp_path, val=sets, quiet=True)
    before = evaluations(tmp_path)
    stale = [{**line, "miou_present": 99.0} if line["iteration"] > 2 else line for line in before]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in stale))
    for state in sorted((tmp_path / "checkpoints").iterdir())[1:]:
        state.unlink()
    train(other_san, sets, LOOKING, tmp_path, val=sets, quiet=True)
    assert evaluations(tmp_path) == before


def test_a_wish_to_stop_is_heard_while_evaluating(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def interrupted(*arguments: Any, **options: Any) -> Evaluation:
        asked.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt, match="all iterations are saved"):
            train(tiny_san, sets, LOOKING, tmp_path, val=sets, quiet=True)
    assert len(asked) == 1
    assert [path.stem for path in (tmp_path / "checkpoints").iterdir()] == ["0000002"]
    assert len(lines(tmp_path)) == 2


def test_sets_of_one_name_are_told_apart(sets: list[SegmentationSet]) -> None:
    named = name_apart([sets[0], sets[1], sets[0]])
    assert [*named] == ["pets", "plants", "pets-2"]


def test_what_is_being_run_is_told(tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path) -> None:
    config = replace(FAST, iterations=1)
    train(tiny_san, sets, config, tmp_path, val=sets[:1], command=["sanseg", "train"], quiet=True)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["command"] == ["sanseg", "train"]
    assert told["sets"][0] == {
        "name": "pets",
        "form": "folder",
        "pictures": 3,
        "labels": ["cat | kitten", "dog", "horse"],
    }
    assert [one["name"] for one in told["val"]] == ["pets"]
    assert told["config"]["loss"]["points"] == 64
    assert told["model"]["name"] == "tiny"
    assert (told["device"], told["processes"]) == ("cpu", 1)
    (tmp_path / "run.json").write_text(json.dumps({**told, "started": "before"}))
    train(tiny_san, sets, config, tmp_path, quiet=True)
    assert json.loads((tmp_path / "run.json").read_text())["started"] == "before"


def test_tensorboard_is_told(tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_san, sets, replace(LOOKING, trackers=("tensorboard",)), tmp_path, val=sets, quiet=True)
    for state in sorted((tmp_path / "checkpoints").iterdir())[1:]:
        state.unlink()
    config = replace(LOOKING, trackers=("tensorboard",))
    train(tiny_san, sets, config, tmp_path, val=sets, quiet=True)  # what is done again is told once
    events = EventAccumulator(str(tmp_path / "trackers" / "sanseg"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(line["iteration"], pytest.approx(line["loss"])) for line in lines(tmp_path)]
    assert events.Scalars("mask/1")
    means = [(event.step, event.value) for event in events.Scalars("miou_present/mean")]
    assert means == [
        (line["iteration"] - 1, pytest.approx(line["miou_present"])) for line in evaluations(tmp_path)
    ]


def test_trackers_that_cannot_be_used_are_refused(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match="tracker 'clearml' is unknown: choose from tensorboard, trackio, wandb"
    ):
        check_trackers(["clearml"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match="tracker 'wandb' needs a package that is missing: pip install wandb"
    ):
        train(tiny_san, sets, replace(FAST, trackers=("wandb",)), tmp_path, quiet=True)


def test_nested_values_become_plain() -> None:
    nested = {"a": 1, "b": [0.5, 2.0], "c": {"d": "x", "e": {"f": True}}, "g": None}
    assert plain(nested) == {"a": 1, "b/0": 0.5, "b/1": 2.0, "c/d": "x", "c/e/f": True}


def test_a_log_that_was_cut_short_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"iteration": 0, "loss": 1}\n[1]\n{"loss": 2}\n\n{"iteration": 1, "lo')
    assert lines_of(log) == [{"iteration": 0, "loss": 1}]
    assert lines_of(tmp_path / "none.jsonl") == []
