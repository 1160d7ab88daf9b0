"""Weights between two models."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch


@pytest.mark.parametrize(("share", "wanted"), [(0.0, [2.0, 4.0]), (0.25, [3.0, 3.0]), (1.0, [6.0, 0.0])])
def test_a_share_of_the_later_weights(mini: ModuleType, share: float, wanted: list[float]) -> None:
    before, after = {"weight": torch.tensor([2.0, 4.0])}, {"weight": torch.tensor([6.0, 0.0])}
    assert mini.average.between(before, after, share)["weight"].tolist() == wanted
