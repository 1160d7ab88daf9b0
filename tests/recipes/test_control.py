"""The control learns its head alone, goes on where it was stopped, and is counted as the box is."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from sanseg.data.datasets import SegmentationSet
from sanseg.model.stem import STEMS
from sanseg.model.text import TextEncoder
from sanseg.model.weights import load_san
from tests.recipes.conftest import write_set

Make = Callable[[], nn.Module]


@pytest.fixture
def control(mini: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Its script, with a stem that knows nothing."""

    def no_weights(_: Path, name: str, width: int) -> nn.Module:
        return STEMS[name](width, 16)

    monkeypatch.setattr(mini.control, "load_stem", no_weights)
    monkeypatch.setattr(mini.control, "SETS", {"meadow": 1.0})
    monkeypatch.setattr(mini.control, "VAL", ("hill",))
    return mini.control  # type: ignore[no-any-return]


@pytest.fixture
def make(control: ModuleType) -> Make:
    words = TextEncoder(load_san("mini").clip.text)

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        made: nn.Module = control.Control(Path("unread"), words)
        return made

    return fresh


def test_it_goes_on_as_if_nothing_had_happened_and_its_stem_stays(
    control: ModuleType, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meadow = SegmentationSet.open(write_set(tmp_path / "meadow", ("grass", "sky"), {"a": [0, 1]}, "train"))
    monkeypatch.setattr(control, "SAVE_EVERY", 1)
    whole, stopped, later = make(), make(), make()
    stem = {name: one.clone() for name, one in whole.stem.state_dict().items()}
    head = {name: one.clone() for name, one in whole.head.state_dict().items()}
    control.train(whole, [meadow], 2, 2, tmp_path / "whole.pt")
    with monkeypatch.context() as patch:
        patch.setattr(control, "track", lambda steps, _: islice(steps, 1))
        control.train(stopped, [meadow], 2, 2, tmp_path / "stopped.pt")
    begun: list[range] = []
    with monkeypatch.context() as patch:
        patch.setattr(control, "track", lambda steps, _: begun.append(steps) or steps)
        control.train(later, [meadow], 2, 2, tmp_path / "stopped.pt")
    assert begun == [range(1, 2)]
    for name, one in whole.head.state_dict().items():
        assert not one.equal(head[name])
        torch.testing.assert_close(later.head.state_dict()[name], one)
        assert not stopped.head.state_dict()[name].equal(one)
    assert all(one.equal(stem[name]) for name, one in whole.stem.state_dict().items())


def test_names_withheld_are_not_taught_but_asked(
    control: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "meadow", ("grass", "sheep"), {"a": [0, 0, 1], "b": [0]}, "train")
    write_set(tmp_path / "hill", ("grass", "sky"), {"c": [0, 1]})
    taught = []

    def train(_: nn.Module, sets: list[SegmentationSet], *rest: object) -> None:
        taught.append([(one.files.labels, len(one)) for one in sets])

    monkeypatch.setattr(control, "train", train)
    command = ["control.py", "--data", str(tmp_path), "--lite0", "unread", "--run", str(tmp_path / "run")]
    for name, more in (("control", []), ("control-withheld", ["--withheld"])):
        monkeypatch.setattr("sys.argv", [*command, *more])
        control.main()
        found = json.loads((tmp_path / "run" / f"{name}.json").read_text())
        assert found["mIoU"]["mean"] == found["mIoU"]["hill"]
        assert found["IoU"]["sheep"] is not None
        assert found["IoU"]["boat"] is None
    assert taught == [[(("grass", "sheep"), 2)], [(("grass",), 1)]]
