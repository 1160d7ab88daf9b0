"""`sanseg train` trains what it is told to, goes on where it stopped, and tells mistakes in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from sanseg.cli import app, shell
from sanseg.cli.train import DIVERGED
from sanseg.data.datasets import SegmentationSet
from sanseg.model.checkpoint import read_head
from sanseg.model.san import SAN
from sanseg.model.weights import load_san, save_san
from tests.data.test_datasets import stripes, write_set

Train = Callable[..., Result]
QUICK = ("--iterations", "4", "--batch", "2", "--points", "32", "--crop", "64", "--short-side", "64")


@pytest.fixture
def train(tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """`sanseg train` in a folder with tiny.safetensors and the sets pets and plants."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    save_san("tiny.safetensors", tiny_san)
    large = stripes().repeat(6, 0).repeat(6, 1)
    write_set(
        tmp_path / "pets", {"p0": large, "p1": large.T.copy()}, ["cat | kitten", "dog", "horse"], other=254
    )
    write_set(tmp_path / "plants", {"q0": np.roll(large, 13, 0)}, ["fern", "oak"], other=254)

    def invoke(*arguments: str, code: int = 0) -> Result:
        given = ("--data", "pets") if "--data" not in arguments else ()
        start = ("--model", "tiny.safetensors") if "--model" not in arguments else ()
        settings = ("train", "--run", "run", "--device", "cpu", *QUICK, *given, *start, *arguments)
        result = CliRunner().invoke(app, settings)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        return result

    return invoke


def lines(run: str = "run") -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def test_an_adapter_is_trained_and_used(train: Train, tiny_san: SAN) -> None:
    told = train("--data", "pets", "--data", "plants").stdout
    assert "pets train: folder, 2 pictures, 3 labels; 1 labels never used" in told
    assert "plants train: folder, 1 pictures, 2 labels; all files are good" in told
    assert "evaluated on nothing" in told
    assert "--model run/adapter.safetensors --clip tiny.safetensors" in told
    assert len(lines()) == 4
    trained = load_san("run/adapter.safetensors", clip="tiny.safetensors")
    assert not trained.nothing.equal(tiny_san.nothing)
    assert read_head(Path("run/adapter.safetensors")).labels == (
        "cat",
        "kitten",
        "dog",
        "horse",
        "fern",
        "oak",
    )


def test_the_same_command_goes_on(train: Train) -> None:
    train()
    before = Path("run/metrics.jsonl").read_bytes()
    train()
    assert Path("run/metrics.jsonl").read_bytes() == before
    message = train("--seed", "1", code=shell.BAD_USE).stderr
    assert "is of another run (seed 0, now 1)" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ("--iterations", "3"),
        ("--batch", "4"),
        ("--lr", "0.01"),
        ("--seed", "5"),
        ("--dtype", "bfloat16"),
        ("--dtype", "float16"),
        ("--crop", "32"),
        ("--short-side", "80"),
        ("--points", "64"),
        ("--train-clip", "none"),
        ("--train-clip", "visual"),
        ("--part", "masks"),
        ("--recipe", "released"),
        ("--fresh",),
        ("--fresh", "--bias", "mask"),
        ("--fresh", "--fusion", "none"),
        ("--data", "plants"),
    ],
    ids=" ".join,
)
def test_each_option_changes_the_run(train: Train, arguments: tuple[str, ...]) -> None:
    train("--run", "plain", "--quiet")
    result = train("--run", "changed", "--quiet", *arguments)
    assert result.stdout == ""
    keys = ("loss", "classification", "mask", "norm")
    assert [[line[key] for key in keys] for line in lines("plain")] != [
        [line[key] for key in keys] for line in lines("changed")
    ]


def test_options_that_change_no_number(train: Train) -> None:
    train("--run", "plain")
    train("--run", "other", "--save-every", "1", "--keep", "2", "--workers", "1")
    assert [line["loss"] for line in lines("plain")] == [line["loss"] for line in lines("other")]
    assert len([*Path("other/checkpoints").iterdir()]) == 2
    assert len([*Path("plain/checkpoints").iterdir()]) == 1
    for one in (("--accumulation", "2"), ("--checkpointing",)):
        train("--run", one[0], *one)
        assert [line["loss"] for line in lines(one[0])] == pytest.approx(
            [line["loss"] for line in lines("plain")], rel=1e-3
        )


def test_the_rate_of_clip(train: Train) -> None:
    train("--run", "one", "--train-clip", "visual")
    train("--run", "slow", "--train-clip", "visual", "--clip-lr", "0.01")
    one, slow = (load_san(f"{run}/model.safetensors") for run in ("one", "slow"))
    assert not one.clip.visual.projection.equal(slow.clip.visual.projection)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nowhere"), "nowhere is not a folder"),
        (("--model", "large"), "'large' is neither the name of a model"),
        (("--recipe", "fast"), "recipe 'fast' is unknown: choose from own_data, released"),
        (("--bias", "mask"), "add --fresh"),
        (("--fresh", "--bias", "both"), "bias 'both' one of head, mask"),
        (("--fresh", "--fusion", "0-0"), "write pairs as in '0:0 3:1', or none"),
        (("--fresh", "--fusion", "9:0"), "fusion"),
        (("--part", "some"), "'some' cannot be trained: choose from all, masks, recognition"),
        (("--train-clip", "text"), "'text' cannot be trained: choose from"),
        (("--batch", "3", "--accumulation", "2"), "a batch of 3 cannot be divided"),
        (("--crop", "0"), "crop is 0 pixels"),
        (("--points", "0"), "points are 0"),
        (("--lr", "-1"), "lr is -1.0"),
        (("--dtype", "int8"), "dtype 'int8' is unknown"),
        (("--device", "gpu"), "device called 'gpu'"),
        (("--split", "test"), "no split 'test'"),
        (("--form", "voc"), "JPEGImages"),
        (("--form", "png"), "form 'png' is unknown"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line(train: Train, arguments: tuple[str, ...], message: str) -> None:
    result = train(*arguments, code=shell.BAD_USE)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_bad_pictures_stop_the_run_unless_they_may_be_skipped(train: Train) -> None:
    Path("pets/images/p1.png").write_bytes(b"no picture")
    message = train(code=shell.BAD_USE).stderr
    assert "1 of 2 pictures cannot be used" in message
    assert "pets/p1" in message
    assert not Path("run").exists()
    assert "skipped pets/p1" in train("--skip-bad").stdout
    assert len(lines()) == 4
    assert "p1.png" in train("--run", "late", "--no-check", code=shell.BAD_USE).stderr


def with_val(name: str = "pets") -> None:
    """Gives a set a split "val", of its first picture."""
    path = Path(name, "dataset.json")
    described = json.loads(path.read_text())
    described["splits"]["val"] = described["splits"]["train"][:1]
    path.write_text(json.dumps(described))


def evaluations(run: str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "evaluations.jsonl").read_text().splitlines()]


def test_the_val_splits_are_evaluated(train: Train) -> None:
    with_val()
    told = train("--data", "pets", "--data", "plants", "--evaluate-every", "3", "--pictures", "1").stdout
    assert "evaluated every 3 iterations and at the end, on pets" in told
    assert [(line["iteration"], [*line["sets"]]) for line in evaluations()] == [(3, ["pets"]), (4, ["pets"])]
    assert len([*Path("run/pictures").rglob("*.png")]) == 2
    assert Path("run/best.safetensors").exists()
    train("--run", "none", "--no-val", "--pictures", "0")
    assert not Path("none/evaluations.jsonl").exists()
    with_val("plants")
    train("--run", "other", "--val", "plants", "--pictures", "0")
    assert [[*line["sets"]] for line in evaluations("other")] == [["plants"]]
    assert not Path("other/pictures").exists()


def test_the_end_has_a_report(train: Train) -> None:
    with_val()
    assert "run/report.html written" in train().stdout
    page = Path("run/report.html").read_text()
    assert "horse" in page
    assert f"{evaluations()[-1]['miou_present']:.1f}" in page


def test_fewer_pictures_are_evaluated_when_asked(train: Train) -> None:
    described = json.loads(Path("pets/dataset.json").read_text())
    described["splits"]["val"] = described["splits"]["train"]
    Path("pets/dataset.json").write_text(json.dumps(described))
    for count, option in ((2, "0"), (1, "1")):
        train("--run", option, "--evaluate-pictures", option)
        assert [line["sets"]["pets"]["pictures"] for line in evaluations(option)] == [count]


def test_a_set_without_val_cannot_be_evaluated(train: Train) -> None:
    assert "plants has no pictures in 'val'" in train("--val", "plants", code=shell.BAD_USE).stderr


def test_sets_are_shown_as_often_as_said(train: Train) -> None:
    sets = ("--data", "pets", "--data", "plants")
    train("--run", "even", *sets)
    train("--run", "uneven", *sets, "--repeat", "0", "--repeat", "1")
    assert lines("even")[0]["loss"] != lines("uneven")[0]["loss"]
    assert "1 repeats for 2 sets" in train("--run", "bad", *sets, "--repeat", "2", code=shell.BAD_USE).stderr


def test_trackers_are_told(train: Train) -> None:
    train("--tracker", "tensorboard")
    assert [*Path("run/trackers").rglob("events*")]
    assert "choose from tensorboard" in train("--tracker", "paper", code=shell.BAD_USE).stderr


def test_the_command_is_remembered(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/sanseg", "train", "--run", "run"])
    train()
    assert json.loads(Path("run/run.json").read_text())["command"] == ["sanseg", "train", "--run", "run"]


def test_files_are_read_once_unless_they_change(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    from sanseg.data import check as checking

    read: list[str] = []
    check = checking.check

    def counted(*sets: SegmentationSet, **options: Any) -> checking.Findings:
        read.extend(one.name for one in sets)
        return check(*sets, **options)

    monkeypatch.setattr(checking, "check", counted)
    train("--iterations", "1")
    assert read == ["pets"]
    assert "as checked before" in train("--iterations", "1").stdout
    assert read == ["pets"]
    train("--iterations", "1", "--no-check")
    Path("run/checked.json").write_text('{"pets": 3}')
    train("--iterations", "1")
    assert read == ["pets"] * 2
    image = Path("pets/images/p1.png")
    image.write_bytes(image.read_bytes())
    train("--iterations", "1")
    assert read == ["pets"] * 3
    image.write_bytes(b"no picture")
    assert "1 of 2 pictures cannot be used" in train(code=shell.BAD_USE).stderr
    assert "skipped pets/p1" in train("--run", "skipping", "--skip-bad").stdout
    assert "skipped pets/p1" in train("--run", "skipping", "--skip-bad").stdout
    assert read == ["pets"] * 5
    assert "cannot be used" in train("--run", "skipping", code=shell.BAD_USE).stderr


def test_an_adapter_of_another_clip_is_refused(train: Train, tiny_san: SAN) -> None:
    save_san("adapter.safetensors", tiny_san, kind="adapter")
    tiny_san.clip.text.position.data += 1
    save_san("other.safetensors", tiny_san)
    message = train(
        "--model", "adapter.safetensors", "--clip", "other.safetensors", code=shell.BAD_USE
    ).stderr
    assert "adapter for the tiny-clip with checksum" in message
    Path("hostile.safetensors").write_bytes(b"\x80\x04cos\nsystem\n")
    assert "hostile.safetensors" in train("--model", "hostile.safetensors", code=shell.BAD_USE).stderr


def test_a_diverging_run_says_so(train: Train, tiny_san: SAN) -> None:
    message = train("--lr", "1e30", "--iterations", "8", code=DIVERGED).stderr
    assert "the loss is" in message
    assert "lower lr" in message


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_saves_and_says_how_to_go_on(train: Train, tmp_path: Path) -> None:
    arguments = ["--data", "pets", "--run", "cut", "--model", "tiny.safetensors", "--device", "cpu", *QUICK]
    process = subprocess.Popen(
        [sys.executable, "-m", "sanseg", "train", *arguments, "--iterations", "100000", "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    log = Path("cut/metrics.jsonl")
    while not log.exists() or not log.read_text():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == shell.INTERRUPTED
    assert "which are saved; the same command goes on from the last state" in error
    (state,) = Path("cut/checkpoints").iterdir()
    assert int(state.stem) == len(lines("cut"))


def test_a_second_ctrl_c_says_how_to_go_on_as_well(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sanseg.train.train", interrupted)
    told = train(code=shell.INTERRUPTED).stderr
    assert "sanseg: interrupted; the same command goes on from the last state" in told
