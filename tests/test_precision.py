"""Frozen weights are rounded once for all steps of training, and nothing else is changed by it."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from sanseg.model.san import SAN
from sanseg.precision import Precision


def linear(san: SAN) -> list[nn.Linear]:
    return [layer for layer in san.clip.visual.blocks.modules() if isinstance(layer, nn.Linear)]


def gradients(san: SAN, precision: Precision) -> dict[str, torch.Tensor]:
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with precision.rounded():
        with precision.autocast():
            readings = san.readings(image)
        torch.stack(
            [one.embeddings.float().sum() + one.mask_logits.float().sum() for one in readings]
        ).sum().backward()
    return {name: one.grad for name, one in san.named_parameters() if one.grad is not None}


def test_the_same_to_the_bit_as_autocast_alone(tiny_san: SAN) -> None:
    plain_san, plain = deepcopy(tiny_san), Precision(tiny_san, torch.float32)
    plain.dtype = torch.bfloat16  # autocast, and nothing rounded
    got, wanted = gradients(tiny_san, Precision(tiny_san, torch.bfloat16)), gradients(plain_san, plain)
    assert got.keys() == wanted.keys() == tiny_san.trained().keys() - {"nothing"}
    for name, gradient in got.items():
        assert gradient.dtype is torch.float32
        assert gradient.equal(wanted[name]), name


def test_weights_are_rounded_meanwhile_and_whole_again_whatever_happens(tiny_san: SAN) -> None:
    before = deepcopy(tiny_san.state_dict())
    precision = Precision(tiny_san, torch.bfloat16)
    with precision.rounded():
        assert {layer.weight.dtype for layer in linear(tiny_san)} == {torch.bfloat16}
    with pytest.raises(KeyboardInterrupt), precision.rounded():
        raise KeyboardInterrupt
    assert all(one.equal(before[name]) for name, one in tiny_san.state_dict().items())


@pytest.mark.parametrize(
    ("dtype", "trains", "checkpointing"),
    [
        (torch.float32, "position", False),
        (torch.bfloat16, "visual", False),
        (torch.bfloat16, "position", True),  # memory counts for more
    ],
)
def test_what_trains_is_never_rounded_nor_anything_in_float32_or_with_checkpointing(
    tiny_san: SAN, dtype: torch.dtype, trains: str, checkpointing: bool
) -> None:
    tiny_san.freeze(trains)
    tiny_san.checkpointing = checkpointing
    with Precision(tiny_san, dtype).rounded():
        assert {one.dtype for one in tiny_san.parameters()} == {torch.float32}
