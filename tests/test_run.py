"""The folder of a run: states that are damaged, foreign or cannot be written, and the wish to stop."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sanseg.data.datasets import SegmentationSet
from sanseg.model.san import SAN
from sanseg.run import save_state, stopping
from sanseg.train import begin_training, train
from tests.test_train import FAST, lines, states


def test_the_state_of_another_run_is_refused(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    train(tiny_san, sets, replace(FAST, iterations=3), tmp_path, quiet=True)
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=r"another run \(iterations 3, now 6; lr 0.001, now 0.5\)"):
        train(tiny_san, sets, replace(FAST, lr=0.5), tmp_path, quiet=True)
    with pytest.raises(ValueError, match=r"another run \(sets"):
        train(tiny_san, sets[:1], replace(FAST, iterations=3), tmp_path, quiet=True)
    with torch.no_grad():
        tiny_san.clip.text.position += 1
    with pytest.raises(ValueError, match=r"another run \(frozen weights"):
        train(tiny_san, sets, replace(FAST, iterations=3), tmp_path, quiet=True)
    with torch.no_grad():
        tiny_san.clip.text.position -= 1
    with pytest.raises(ValueError, match=r"part all, now masks; the trained parameters"):
        train(tiny_san, sets, replace(FAST, iterations=3, part="masks"), tmp_path, quiet=True)
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("damage", ["empty", "cut"])
def test_a_damaged_state_is_passed_over(
    damage: str,
    tiny_san: SAN,
    sets: list[SegmentationSet],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(tiny_san, sets, FAST, tmp_path, quiet=True)
    whole, (old, new) = lines(tmp_path), states(tmp_path)
    if damage == "empty":
        save_file({}, new)
    else:
        new.write_bytes(new.read_bytes()[:-5])
    saved: list[int] = []
    train(tiny_san, sets, FAST, tmp_path, saved=saved.append)
    assert saved == [6]
    assert lines(tmp_path) == whole
    told = "".join(capsys.readouterr().err.split())
    assert "0000006.safetensorsisdamaged" in told
    assert "goingonfrom0000003.safetensors" in told
    for state in (old, new):
        state.write_bytes(b"")
    with pytest.raises(ValueError, match="no state of this run is whole"):
        train(tiny_san, sets, FAST, tmp_path, quiet=True)


def test_the_last_states_are_kept(tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path) -> None:
    train(tiny_san, sets, replace(FAST, save_every=1, keep=2), tmp_path, quiet=True)
    assert [path.stem for path in states(tmp_path)] == ["0000005", "0000006"]


def test_a_second_signal_stops_at_once() -> None:
    with stopping() as wish:
        os.kill(os.getpid(), signal.SIGINT)
        assert wish.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_folder_that_cannot_be_written_is_refused_first(
    tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"taken cannot hold a run .*: choose another folder"):
        train(tiny_san, sets, FAST, tmp_path / "taken", quiet=True)

    def read_only(path: Path, data: bytes) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(OSError, match="Read-only file system"):
        train(tiny_san, sets, FAST, tmp_path / "run", quiet=True)
    assert not [*(tmp_path / "run" / "checkpoints").iterdir()]


def test_a_failed_save_keeps_the_old_state(
    tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = begin_training(tiny_san, FAST)
    save_state(tmp_path, training, {}, 1, keep=1)
    (path,) = states(tmp_path)
    before = path.read_bytes()

    def full(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sanseg.run.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(tmp_path, training, {}, 2, keep=1)
    assert path.read_bytes() == before
    assert states(tmp_path) == [path]
