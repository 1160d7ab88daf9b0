"""Attention by blocks, and its way back by heads, are attention's, and only where torch's kernel is slow."""

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


def exact(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    wide = None if mask is None else mask.double()
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), wide)


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


INSTRUCTIONS = {"none": (), "vectors": ("avx512_bf16",), "tiles": ("avx512_bf16", "amx_bf16")}


@pytest.fixture(params=["vectors"])
def processor(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever this one is, taken for one that has these instructions for bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_has", lambda name: name in INSTRUCTIONS[request.param])
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


@pytest.mark.usefixtures("processor")
@torch.inference_mode()
def test_only_inference_in_bfloat16_goes_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = by_blocks(monkeypatch)
    q, k, v = heads(1, 2, 200, 32)
    attention(q, k, v)
    assert len(seen) == 1
    attention(q.float(), k.float(), v.float())
    attention(q, k, v, causal=True)
    attention(q[:, :, :100], k, v)
    with sdpa_kernel(SDPBackend.MATH):  # whoever asks for a kernel of torch's gets it
        attention(q, k, v)
    assert len(seen) == 1
    with torch.autocast("cpu", torch.bfloat16):
        attention(q, k, v)
    assert len(seen) == 2


@pytest.mark.parametrize("processor", ["none", "tiles"], indirect=True)
@pytest.mark.usefixtures("processor")
@torch.inference_mode()
def test_where_torchs_kernel_is_as_fast_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = by_blocks(monkeypatch)
    attention(*heads(1, 2, 200, 32))
    assert not seen


def apart(N: int, L: int, S: int) -> Tensor:
    """A mask as recognition has it: random, and of the first L keys each query sees one only."""
    mask = torch.randn(1, N, L, S, generator=torch.Generator().manual_seed(1))
    mask[..., :L] = float("-inf")
    mask.diagonal(dim1=2, dim2=3)[:] = 0
    return mask.bfloat16()


def asking(*tensors: Tensor) -> list[Tensor]:
    return [one.detach().clone().requires_grad_() for one in tensors]


def gradients(attended: Tensor, of: list[Tensor]) -> tuple[Tensor, ...]:
    towards = torch.randn(attended.shape, generator=torch.Generator().manual_seed(2)) + 0.5
    return torch.autograd.grad(attended, of, towards.to(attended.dtype))


@pytest.mark.parametrize("processor", ["vectors", "tiles"], indirect=True)
@pytest.mark.parametrize("at_once", [1, 70_000, 1 << 30])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.usefixtures("processor")
def test_gradients_by_heads_are_those_of_attention(
    masked: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRADIENTS", at_once)
    q, k, v = heads(2, 3, 150, 24)
    given = asking(q[:, :, :60], k, v) if masked else asking(q, k, v)
    if masked:
        given += asking(apart(3, 60, 150).repeat(2, 1, 1, 1))
    attended = attention(*given)
    assert type(attended.grad_fn).__name__ == "_ByHeadsBackward"
    wanted = exact(*given)
    assert error(attended.detach(), wanted.detach()) < 0.01
    for got, right in zip(gradients(attended, given), gradients(wanted, given), strict=True):
        assert got.dtype is torch.bfloat16
        assert error(got, right) < 0.02


@pytest.mark.parametrize("processor", ["tiles"], indirect=True)
@pytest.mark.usefixtures("processor")
def test_what_is_common_to_all_values_is_taken_off_exactly() -> None:
    """Gradients of queries and keys are what values differ by, however large what they have in common."""
    q, k, v = heads(1, 2, 300, 24)
    given = asking(q, k, v + 8)
    wanted = gradients(exact(*given), given)
    for got, right in zip(gradients(attention(*given), given), wanted, strict=True):
        assert error(got, right) < 0.05  # torch's kernel is as far away, and without the second column 0.08


@pytest.mark.parametrize("asked", range(4))
@pytest.mark.parametrize("processor", ["tiles"], indirect=True)
@pytest.mark.usefixtures("processor")
def test_any_of_the_four_may_be_what_learns(asked: int) -> None:
    q, k, v = heads(1, 2, 50, 16)
    given = [q, k, v, torch.zeros(1, 2, 50, 50).bfloat16()]
    given[asked] = asking(given[asked])[0]
    attended = attention(*given)
    assert type(attended.grad_fn).__name__ == "_ByHeadsBackward"
    (got,), (right,) = gradients(attended, [given[asked]]), gradients(exact(*given), [given[asked]])
    assert error(got, right) < 0.02


@pytest.mark.parametrize("processor", ["vectors", "tiles"], indirect=True)
@pytest.mark.usefixtures("processor")
def test_autocast_changes_nothing() -> None:
    given = asking(*heads(1, 2, 160, 16))
    alone = gradients(attention(*given), given)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gradients(attention(*given), given)
    for one, other in zip(alone, inside, strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("processor", ["none", "tiles"], indirect=True)
@pytest.mark.usefixtures("processor")
def test_a_mask_may_be_in_float32() -> None:
    """As biases are that were put beside some which no network made."""
    q, k, v = heads(1, 2, 50, 16)
    given = asking(q, k, v, torch.randn(1, 2, 50, 50))
    got, right = gradients(attention(*given), given), gradients(exact(*given), given)
    assert got[3].dtype is torch.float32
    assert all(error(*one) < 0.02 for one in zip(got, right, strict=True))


def goes_by_heads(q: Tensor, k: Tensor, v: Tensor, **options: bool) -> bool:
    return type(attention(q, k, v, **options).grad_fn).__name__ == "_ByHeadsBackward"


@pytest.mark.parametrize("processor", ["tiles"], indirect=True)
@pytest.mark.usefixtures("processor")
def test_only_training_in_bfloat16_goes_by_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    given = asking(*heads(1, 2, 200, 32))
    assert goes_by_heads(*given)
    assert not goes_by_heads(*(one.float() for one in given))
    assert not goes_by_heads(*given, causal=True)
    with torch.no_grad():
        assert attention(*given).grad_fn is None
    with sdpa_kernel(SDPBackend.MATH):  # whoever asks for a kernel of torch's gets it
        assert not goes_by_heads(*given)
    monkeypatch.setattr(module, "MOST", 200 * 200 - 1)  # its weights would take too much memory
    assert not goes_by_heads(*given)


@pytest.mark.parametrize("processor", ["none"], indirect=True)
@pytest.mark.usefixtures("processor")
def test_without_instructions_for_bfloat16_torchs_kernel_goes_back() -> None:
    assert not goes_by_heads(*asking(*heads(1, 2, 200, 32)))


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
