"""What the tests of checkpoints share: reading, rewriting and comparing them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sanseg.model.san import SAN


def assert_same(san: SAN, other: SAN) -> None:
    theirs = other.state_dict()
    assert san.state_dict().keys() == theirs.keys()
    for name, tensor in san.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def rewrite(path: Path, tensors: dict[str, Tensor] | None = None, **metadata: str) -> None:
    """The same file with other tensors, or with other metadata."""
    old, known = read_file(path)
    save_file({name: tensor.clone() for name, tensor in (tensors or old).items()}, path, known | metadata)


def refusal(act: Callable[[], object]) -> str:
    """The one line of the ValueError that is raised."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the callers look at the message
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)
