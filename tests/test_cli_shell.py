"""What all commands share."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sanseg.cli import shell


def test_the_commit_is_that_of_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And not that of whatever repository an environment lies in."""
    head = shell.commit()
    assert head is None or len(head.removesuffix("-dirty")) == 40
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    (tmp_path / "own.txt").write_text("a")
    (tmp_path / "lib" / "cli").mkdir(parents=True)
    (tmp_path / "lib" / "version.py").write_text("")
    for command in (["init", "-q"], ["add", "own.txt"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(shell, "__file__", str(tmp_path / "lib" / "cli" / "here.py"))
    assert shell.commit() is None
    for command in (["add", "lib"], ["commit", "-qm", "b"]):
        subprocess.run([*git, *command], check=True)
    sha = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert shell.commit() == sha
    (tmp_path / "own.txt").write_text("b")
    assert shell.commit() == f"{sha}-dirty"
    monkeypatch.setenv("PATH", "")
    assert shell.commit() is None
