"""`sanseg bench` tells and writes what the library measures; each flag changes something."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from sanseg import benchmark
from sanseg.benchmark import rounds
from sanseg.benchmark.road import STAGES
from sanseg.cli import app, shell
from sanseg.model import config, weights
from sanseg.model.san import SAN
from sanseg.segmenter import Segmenter
from tests.conftest import TINY

Bench = Callable[..., Result]


@pytest.fixture
def memory() -> dict[str, int | None]:
    """What the process that measures memory says, which would take seconds to start."""
    return {"ours": 12_000_000, "plain": 34_000_000}


@pytest.fixture
def run(
    tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: dict[str, int | None]
) -> Bench:
    """`sanseg bench` of tiny.safetensors, 9 labels on a photo of 48 x 80, two rounds, into out.json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    weights.save_san("tiny.safetensors", tiny_san)
    monkeypatch.setattr(
        rounds, "photo_bytes", lambda *_, by_plain: memory["plain"] if by_plain else memory["ours"]
    )

    return invoker()


def invoker(*always: str) -> Bench:
    """`sanseg bench` with these arguments, and small ones where a call gives no others."""

    def invoke(*arguments: str, code: int = 0) -> Result:
        given = {
            "--model": ["tiny.safetensors"],
            "--size": ["48", "80"],
            "--labels": ["9"],
            "--rounds": ["2"],
            "--device": ["cpu"],
            "--json": ["out.json"],
        }
        rest = [word for flag, values in given.items() if flag not in arguments for word in (flag, *values)]
        result = CliRunner().invoke(app, ["bench", *always, *rest, *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        return result

    return invoke


def written() -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(Path("out.json").read_text())
    return figures


def test_what_is_written_has_what_was_promised(run: Bench, tiny_san: SAN) -> None:
    run()
    found = written()
    assert set(found) == {
        "command",
        "commit",
        "sanseg",
        "model",
        "network",
        "random_weights",
        "size",
        "seen_size",
        "labels",
        "parameters",
        "trained_parameters",
        "machine",
        "dtypes",
    }
    assert set(found["machine"]) == {
        "processor",
        "instructions",
        "threads",
        "device",
        "device_name",
        "torch",
        "system",
    }
    assert (found["model"], found["network"], found["random_weights"]) == ("tiny.safetensors", "tiny", False)
    assert (found["size"], found["seen_size"], found["labels"]) == ([48, 80], [64, 128], 9)
    assert found["parameters"] == sum(parameter.numel() for parameter in tiny_san.parameters())
    assert found["trained_parameters"] == sum(one.numel() for one in tiny_san.trained().values())
    assert list(found["dtypes"]) == ["float32"]
    figures = found["dtypes"]["float32"]
    assert set(figures) == {
        "gflop",
        "whole_ms",
        "bound_ms",
        "whole_to_bound",
        "plain_ms",
        "plain_to_whole",
        "plain_agreement",
        "vocabulary_ms",
        "vocabulary_to_whole",
        "text_first_ms",
        "text_cached_ms",
        "memory_bytes",
        "plain_memory_bytes",
        "stages",
        "times_as_fast_as_float32",
    }
    assert (figures["memory_bytes"], figures["plain_memory_bytes"]) == (12_000_000, 34_000_000)
    assert list(figures["stages"]) == list(STAGES)
    for stage in figures["stages"].values():
        assert set(stage) == {"ms", "share", "gflop", "products", "bound_ms", "ratio"}
        assert len(stage["ms"]["rounds"]) == len(stage["bound_ms"]["rounds"]) == 2
    for name in ("whole_ms", "bound_ms", "plain_ms", "vocabulary_ms"):
        assert set(figures[name]) == {"median", "p10", "p90", "rounds"}
        assert len(figures[name]["rounds"]) == 2
    assert sum(stage["gflop"] for stage in figures["stages"].values()) == pytest.approx(figures["gflop"])
    assert figures["plain_agreement"] > 0.99


def test_the_table_has_each_stage_and_what_else_was_measured(run: Bench) -> None:
    shown = run("--dtype", "float32", "--dtype", "bfloat16").stdout
    for told in (
        "tiny, its own weights",
        "a photo of 48 x 80, seen as 64 x 128, 9 labels",
        *STAGES,
        "whole",
        "a new vocabulary on the encoded picture",
        "its words for the first time",
        "by the plain formulas",
        "memory beside the model: 12 MB; by the plain formulas: 34 MB",
        "times as fast as float32",
        "184,027 parameters, 54,450 of them trained",
        f"cpu, {torch.get_num_threads()} threads of ",
        f"torch {torch.__version__}",
    ):
        assert told in shown
    assert list(written()["dtypes"]) == ["float32", "bfloat16"]


def test_auto_is_told_by_the_type_it_chose(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    run("--dtype", "auto")
    assert list(written()["dtypes"]) == ["bfloat16"]


def test_memory_that_is_not_told_is_said(run: Bench, memory: dict[str, int | None]) -> None:
    memory["ours"] = None
    assert "memory beside the model: not measured on this system" in run().stdout
    assert written()["dtypes"]["float32"]["memory_bytes"] is None


def test_random_weights_are_said(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SAN_VIT_B16", TINY)
    result = run("--model", "tiny", "--random")
    assert "tiny, random weights, their masks and classes replaced" in result.stdout
    assert written()["random_weights"] is True
    assert written()["model"] == "tiny"


def test_the_plain_formulas_can_be_left_out(run: Bench) -> None:
    assert "plain" not in run("--no-plain").stdout
    figures = written()["dtypes"]["float32"]
    assert figures["plain_ms"] is figures["plain_memory_bytes"] is None


def test_the_photo_is_chosen(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.full((10, 20, 3), 7, np.uint8)).save("grey.png")
    seen: list[np.ndarray] = []
    encode = Segmenter.encode
    monkeypatch.setattr(Segmenter, "encode", lambda self, image: seen.append(image) or encode(self, image))
    run("--photo", "grey.png")
    assert seen
    assert all(image.shape == (48, 80, 3) and (image == 7).all() for image in seen)
    assert "there is no file absent.png" in run("--photo", "absent.png", code=shell.BAD_USE).stderr


def test_size_labels_and_rounds_are_chosen(run: Bench) -> None:
    run("--size", "200", "64", "--labels", "180", "--rounds", "3")
    found = written()
    assert (found["size"], found["seen_size"], found["labels"]) == ([200, 64], [224, 64], 180)
    assert len(found["dtypes"]["float32"]["whole_ms"]["rounds"]) == 3
    assert found["dtypes"]["float32"]["stages"]["label map"]["gflop"] == 2 * 200 * 64 * 180 * 7 / 1e9


def test_an_adapter_takes_its_clip_from_another_checkpoint(run: Bench, tiny_san: SAN) -> None:
    weights.save_san("adapter.safetensors", tiny_san, kind="adapter")
    message = run("--model", "adapter.safetensors", code=shell.BAD_USE).stderr
    assert "holds only a side adapter" in message
    run("--model", "adapter.safetensors", "--clip", "tiny.safetensors")
    assert written()["model"] == "adapter.safetensors"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--random"], "--random is for the networks of mini, san-vit-b-16, san-vit-l-14"),
        (["--model", "mini", "--random", "--clip", "mini"], "needs no --clip"),
        (["--model", "large"], "'large' is neither the name of a model"),
        (["--dtype", "float8"], "dtype is 'float8': choose from auto, float32, bfloat16, float16"),
        (["--device", "gpu"], "no kind of device called 'gpu'"),
        (["--size", "0", "640"], "a photo of 0x640 pixels"),
        (["--json", "out.txt"], "let it end in .json"),
    ],
)
def test_a_mistake_is_one_line(run: Bench, arguments: list[str], reason: str) -> None:
    result = run(*arguments, code=shell.BAD_USE)
    assert result.stderr.startswith("sanseg: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("out.json").exists()


def test_ctrl_c_ends_cleanly_and_writes_nothing(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "measure", interrupted)
    assert run(code=shell.INTERRUPTED).stderr == "sanseg: interrupted\n"
    assert not Path("out.json").exists()


def test_progress_is_shown_on_a_terminal_only(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run().stderr == ""
    assert run("--quiet").output == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any output for a terminal
    assert "float32: memory" in run().stderr
    assert run("--quiet").output == ""
