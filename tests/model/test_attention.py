"""Attention by blocks is attention, in bounded memory, and only where torch's kernel is slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from sanseg.model import attention as module
from sanseg.model.attention import attention


def heads(B: int, N: int, L: int, d: int, seed: int = 0) -> tuple[Tensor, ...]:
    """q, k, v as a block makes them: views of one tensor. Scores with a deviation of 2, as a trained network has."""
    qkv = torch.randn(B, L, 3, N, d, generator=torch.Generator().manual_seed(seed))
    qkv[:, :, 0] *= 2
    return torch.unbind(qkv.bfloat16().permute(2, 0, 3, 1, 4))


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double())


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


@pytest.fixture
def slow() -> Iterator[None]:
    """A processor with whatever instructions, taken for one on which torch's kernel is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_fused_is_slow", lambda: True)
        yield


def by_blocks(patch: pytest.MonkeyPatch) -> list[Tensor]:
    """Notes the queries of attention that is computed by blocks."""
    seen: list[Tensor] = []
    blocks = module._by_blocks

    def noted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(q)
        return blocks(q, k, v)

    patch.setattr(module, "_by_blocks", noted)
    return seen


@pytest.mark.parametrize("shape", [(1, 6, 300, 40), (3, 4, 130, 64), (2, 3, 257, 48)])
@pytest.mark.parametrize("scores", [1, 1_000, 70_000, 200_000, 1 << 30])
@torch.inference_mode()
def test_blocks_of_any_size_give_attention(
    shape: tuple[int, ...], scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORES", scores)
    q, k, v = heads(*shape)
    if scores == 1:
        q, k, v = q[:, :, :5], k[:, :, :7], v[:, :, :7]
    got, wanted = module._by_blocks(q, k, v), exact(q, k, v)
    assert got.dtype is torch.bfloat16
    assert got.shape == wanted.shape
    assert error(got, wanted) < 0.01  # bfloat16 has 8 bits


class Largest(TorchDispatchMode):
    """The most numbers that any tensor has which is made inside."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        self.numbers = max(self.numbers, out.numel())
        return out


@pytest.mark.parametrize("shape", [(1, 2, 700, 8), (8, 8, 70, 8)])
@torch.no_grad()
def test_scores_stay_within_bounds(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORES", 50_000)
    q, k, v = heads(*shape)
    with Largest() as largest:
        module._by_blocks(q, k, v)
    assert largest.numbers <= 50_000


@pytest.mark.usefixtures("slow")
@torch.inference_mode()
def test_only_inference_in_bfloat16_goes_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = by_blocks(monkeypatch)
    q, k, v = heads(1, 2, 200, 32)
    attention(q, k, v)
    assert len(seen) == 1
    attention(q.float(), k.float(), v.float())
    attention(q, k, v, causal=True)
    attention(q[:, :, :100], k, v)
    with torch.autocast("cpu", torch.bfloat16):
        attention(q, k, v)
    with sdpa_kernel(SDPBackend.MATH):  # whoever asks for a kernel of torch's gets it
        attention(q, k, v)
    assert len(seen) == 1


@pytest.mark.usefixtures("slow")
def test_gradients_go_through_torchs_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = by_blocks(monkeypatch)
    q, k, v = (tensor.clone().requires_grad_() for tensor in heads(1, 2, 200, 32))
    attention(q, k, v).float().sum().backward()
    assert not seen
    assert q.grad is not None


@torch.inference_mode()
def test_causal_attention_sees_nothing_later() -> None:
    q, k, v = heads(1, 2, 20, 32)
    torch.testing.assert_close(
        attention(q, k, v, causal=True)[:, :, :9],
        attention(q[:, :, :9], k[:, :, :9], v[:, :, :9], causal=True),
    )


@pytest.mark.parametrize(("length", "at_most"), [(10, 3), (10, 0), (1, 5), (7, 7), (100, 99)])
def test_blocks_cover_everything_once_and_are_small(length: int, at_most: int) -> None:
    blocks = module._blocks(length, at_most)
    places = list(range(length))
    assert [place for block in blocks for place in places[block]] == places
    assert all(len(places[block]) <= max(at_most, 1) for block in blocks)
