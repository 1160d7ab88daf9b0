"""`sanseg bench --claims`: each method does all its own work, and what is told of it follows."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from sanseg.baselines import METHODS
from sanseg.benchmark import Case, Times
from sanseg.benchmark.claims import Claim, Claims, measure_claims, trained
from sanseg.benchmark.figures import Growth, claims_figure, growth_figure
from sanseg.cli import app, shell
from sanseg.data.datasets import SegmentationSet
from sanseg.evaluate import evaluate, without_rivals
from sanseg.images import prepare
from sanseg.model import config, weights
from sanseg.model.san import SAN
from sanseg.segmenter import Segmenter
from tests.conftest import TINY
from tests.data.test_datasets import stripes, write_set
from tests.test_cli_bench import Bench, invoker, written

CASE = Case(TINY, (48, 80), 9, "cpu")


@pytest.fixture
def run(tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """`sanseg bench --claims` of tiny.safetensors, beside a set "pets" of three val pictures, into out.json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    weights.save_san("tiny.safetensors", tiny_san)
    write_set(
        Path("pets"),
        {"a": np.zeros_like(stripes()), "b": stripes(), "c": np.ones_like(stripes())},
        ["cat", "dog"],
        splits={"val": ["a", "b", "c"]},
        other=254,
    )

    return invoker("--claims")


def test_operations_are_those_of_each_method() -> None:
    """As torch's own counter finds them."""
    found = measure_claims(CASE, "float32", 1)
    san = CASE.network(torch.float32)
    image = prepare(CASE.photo(), san.config)[0][None]
    assert list(found.methods) == list(METHODS)
    for name, one in found.methods.items():
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            METHODS[name](san).propose(image)
        assert one.gflop == counter.get_total_flops() / 1e9
    gflop = [one.gflop for one in found.methods.values()]
    assert len(set(gflop)) == 3
    assert found.seen == (64, 128)


def test_methods_are_timed_in_turn_and_do_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name, make in list(METHODS.items()):

        def made(san: SAN, name: str = name, make: Callable[[SAN], Any] = make) -> Any:
            method = make(san)
            propose = method.propose

            def noted(image: Tensor) -> Any:
                order.append(name)
                return propose(image)

            return type("Noted", (), {"propose": staticmethod(noted)})()

        monkeypatch.setitem(METHODS, name, made)
    told: list[tuple[int, int]] = []
    found = measure_claims(CASE, "float32", 3, progress=lambda _, done, total: told.append((done, total)))
    assert order == 4 * ["san", "simseg", "maskclip"]
    assert [len(one.time.ms) for one in found.methods.values()] == [3, 3, 3]
    assert told == [(done, 12) for done in range(12)]


def test_trained_is_what_a_method_uses_of_what_was_trained(tiny_san: SAN) -> None:
    assert trained(tiny_san, "san") == sum(one.numel() for one in tiny_san.trained().values())
    bias_head = sum(one.numel() for one in tiny_san.side_adapter.decoder.bias.parameters())
    scales = 2  # of the bias, and its offset
    for method in ("simseg", "maskclip"):
        left = trained(tiny_san, "san") - trained(tiny_san, method)
        assert left == bias_head + scales + tiny_san.nothing.numel()


def test_figures_follow_from_the_rounds() -> None:
    claims = made_claims(miou=None)
    assert [claims.ratio(name) for name in METHODS] == [1, 20, 3]
    methods = claims.to_dict()["methods"]
    assert methods["simseg"] == {
        "ms": {"median": 2000, "p10": 2000, "p90": 2000, "rounds": [2000]},
        "to_san": 20,
        "gflop": 3.5,
        "trained_parameters": 10,
        "miou_present": None,
    }


def made_claims(miou: float | None) -> Claims:
    seconds = {"san": 0.1, "simseg": 2.0, "maskclip": 0.3}
    methods = {name: Claim(Times((1000 * one,)), 3.5, 10, miou) for name, one in seconds.items()}
    name = None if miou is None else "pets"
    return Claims(CASE, "tiny", (64, 128), "float32", methods, name, 3, {"threads": 1})


def test_accuracy_is_that_of_an_evaluation(run: Bench, tiny_san: SAN) -> None:
    shown = run("--data", "pets").stdout
    assert "mIoU on 3 of pets" in shown
    found = written()
    assert (found["dataset"], found["pictures"]) == ("pets", 3)
    pets = SegmentationSet.open("pets", "val")
    for name, one in found["methods"].items():
        answers = Segmenter(tiny_san, proposer=METHODS[name](tiny_san))
        assert one["miou_present"] == evaluate(without_rivals(answers), pets).miou_present
    run("--data", "pets", "--limit", "1")
    limited = written()
    assert limited["pictures"] == 1
    assert limited["methods"]["san"]["miou_present"] != found["methods"]["san"]["miou_present"]


def test_the_table_and_the_file_have_each_method(run: Bench, tiny_san: SAN) -> None:
    shown = run().stdout
    for told in ("tiny, its own weights", "seen as 64 x 128, 9 labels", "float32", *METHODS):
        assert told in shown
    assert f"{trained(tiny_san, 'san'):,}" in shown
    assert "mIoU" not in shown
    found = written()
    assert {"command", "commit", "machine", "methods", "dtype"} < set(found)
    assert [len(one["ms"]["rounds"]) for one in found["methods"].values()] == [2, 2, 2]
    assert found["dataset"] is None
    run("--dtype", "bfloat16", "--quiet")
    assert written()["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--dtype", "float32", "--dtype", "bfloat16"], "--claims measures one dtype"),
        (["--limit", "3"], "--limit is for pictures: name their folder with --data"),
        (["--model", "tiny", "--random", "--data", "pets"], "random weights have no mIoU"),
        (["--data", "absent"], "absent"),
        (["--figure", "out.svg"], "let it end in .png"),
    ],
)
def test_a_mistake_is_one_line(
    run: Bench, arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "SAN_VIT_B16", TINY)
    result = run(*arguments, code=shell.BAD_USE)
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("out.json").exists()


@pytest.mark.parametrize("flag", [["--data", "pets"], ["--limit", "3"], ["--figure", "out.png"]])
def test_what_is_for_claims_alone_says_so(run: Bench, flag: list[str]) -> None:
    result = CliRunner().invoke(app, ["bench", "--model", "tiny.safetensors", *flag])
    assert result.exit_code == shell.BAD_USE
    assert "--data, --limit and --figure are for --claims" in result.stderr


def ink(picture: bytes) -> tuple[tuple[int, int], Counter[tuple[int, ...]]]:
    """The size of a PNG, and how often it has each colour."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    return image.size, Counter(map(tuple, np.asarray(image).reshape(-1, 3).tolist()))


def test_the_figure_is_drawn_to_scale(run: Bench) -> None:
    run("--figure", "out.png")
    size, _ = ink(Path("out.png").read_bytes())
    assert size == (1200, 285)
    _, colours = ink(claims_figure(made_claims(None)))
    blue, orange, green = (0, 114, 178), (213, 94, 0), (28, 138, 107)  # SERIES, in the order of METHODS
    # All bars are equally high. Beside seconds stand operations, here the same for all: a whole bar each.
    whole = colours[orange] / 2
    assert colours[blue] / whole == pytest.approx(1 + 1 / 20, abs=0.02)
    assert colours[green] / whole == pytest.approx(1 + 3 / 20, abs=0.02)
    (wide, _), _ = ink(claims_figure(made_claims(40.0)))
    assert wide == 1800, "a panel more"


def test_stages_are_stacked_to_scale() -> None:
    panel = Growth("labels", ("1", "2", "3"), (1, 2, 3), {"network": (10, 10, 10), "label map": (10, 20, 30)})
    _, colours = ink(growth_figure([panel], "tiny"))
    (lower, _), (upper, _) = [one for one in colours.most_common(9) if max(one[0]) - min(one[0]) > 60][:2]
    assert upper != lower
    filled = sorted(count for colour, count in colours.items() if colour in (upper, lower))
    assert filled[1] / filled[0] == pytest.approx(2, abs=0.1)  # a rectangle of 10, and from 10 to 30 above it


def test_more_rounds_are_more_times() -> None:
    found = measure_claims(replace(CASE, labels=3), "bfloat16", 2)
    assert found.dtype == "bfloat16"
    assert all(len(one.time.ms) == 2 and min(one.time.ms) > 0 for one in found.methods.values())
