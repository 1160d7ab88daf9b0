"""Attention, by the kernel that is fast on the device at hand.

B batch, N heads, L queries, S keys, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES = 1 << 20  # at once, where attention is computed by blocks: 2 MB, which stay in a processor's caches
FEW = 128  # tokens: so few are attended to as fast by torch's kernel
# Scores at once on the way back, all of one head's at least; and the most that a head may have there: 64 MB.
GRADIENTS, MOST = 1 << 21, 1 << 25


def attention(
    q_BNLd: Tensor, k_BNSd: Tensor, v_BNSd: Tensor, mask_BNLS: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v: (B, N, L, d), as `F.scaled_dot_product_attention` gives it, but for rounding.

    causal: each token sees itself and those before it; without a mask.
    """
    if mask_BNLS is not None:
        mask_BNLS = mask_BNLS.to(q_BNLd.dtype)  # with pictures in bfloat16, biases may come in float32
    given = q_BNLd, k_BNSd, v_BNSd, mask_BNLS
    if not causal and _goes_back_by_heads(*given):
        attended: Tensor = _ByHeads.apply(*given)
        return attended
    if not causal and mask_BNLS is None and _by_blocks_is_faster(q_BNLd):
        return _by_blocks(q_BNLd, k_BNSd, v_BNSd)
    return F.scaled_dot_product_attention(*given, is_causal=causal)


def _by_blocks_is_faster(q_BNLd: Tensor) -> bool:
    """Whether no gradients are asked for, and torch's fused kernel would be slow.

    Without AMX it takes as long in bfloat16 as in float32, and matrix products half as long.
    """
    return (
        _is_ours(q_BNLd)
        and q_BNLd.shape[2] > FEW
        and not q_BNLd.requires_grad
        and _has("avx512_bf16")
        and not _has("amx_bf16")
    )


def _goes_back_by_heads(q_BNLd: Tensor, k_BNSd: Tensor, v_BNSd: Tensor, mask_BNLS: Tensor | None) -> bool:
    """Whether gradients are asked for on a processor that multiplies bfloat16 faster than torch's kernel goes back."""
    return (
        _is_ours(q_BNLd)
        and torch.is_grad_enabled()
        and any(one is not None and one.requires_grad for one in (q_BNLd, k_BNSd, v_BNSd, mask_BNLS))
        and q_BNLd.shape[2] * k_BNSd.shape[2] <= MOST
        and _has("avx512_bf16")  # as every processor with AMX has
    )


def _is_ours(q_BNLd: Tensor) -> bool:
    """Whether it is bfloat16 on a CPU, and nothing needs torch's kernel: an exported graph, or `sdpa_kernel`."""
    return (
        q_BNLd.is_cpu
        and q_BNLd.dtype is torch.bfloat16
        and not torch.compiler.is_compiling()
        and torch.backends.cuda.flash_sdp_enabled()  # of all devices, whatever its name: see `sdpa_kernel`
    )


@cache
def _has(instructions: str) -> bool:
    """Whether this processor has them, by torch's name for them."""
    capabilities: Callable[[], Mapping[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(capabilities().get(instructions))


def _by_blocks(q_BNLd: Tensor, k_BNSd: Tensor, v_BNSd: Tensor) -> Tensor:
    """Whole heads, as many as SCORES allow, else so many queries of one. Scores are rounded to bfloat16."""
    q_HLd = (q_BNLd * q_BNLd.shape[-1] ** -0.5).flatten(0, 1)
    k_HdS, v_HSd = k_BNSd.flatten(0, 1).contiguous().mT, v_BNSd.flatten(0, 1).contiguous()
    (H, L, _), S = q_HLd.shape, v_HSd.shape[1]
    out_HLd = torch.empty_like(q_HLd, memory_format=torch.contiguous_format)
    for heads in _blocks(H, SCORES // (L * S)):
        for rows in _blocks(L, SCORES // S):
            weights = (q_HLd[heads, rows] @ k_HdS[heads]).softmax(-1)
            out_HLd[heads, rows] = weights @ v_HSd[heads]
    return out_HLd.view(q_BNLd.shape)


class _ByHeads(torch.autograd.Function):
    """Attention whose way back computes the weights of whole heads again, in matrix products.

    torch's kernel goes back at float32's speed where products have become several times as fast; and with a mask
    that has gradients it leaves attention to its "math", in float32 both ways.
    """

    @staticmethod
    def forward(ctx: Any, q_BNLd: Tensor, k_BNSd: Tensor, v_BNSd: Tensor, mask_BNLS: Tensor | None) -> Tensor:
        mask = None if mask_BNLS is None else mask_BNLS.detach()
        out_BNLd = attention(q_BNLd.detach(), k_BNSd.detach(), v_BNSd.detach(), mask)
        ctx.save_for_backward(q_BNLd, k_BNSd, v_BNSd, mask_BNLS, out_BNLd)
        return out_BNLd

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BNLd: Tensor) -> tuple[Tensor | None, ...]:
        q_BNLd, k_BNSd, v_BNSd, mask_BNLS, out_BNLd = ctx.saved_tensors
        return _way_back(q_BNLd, k_BNSd, v_BNSd, mask_BNLS, out_BNLd, grad_BNLd)


def _way_back(
    q_BNLd: Tensor,
    k_BNSd: Tensor,
    v_BNSd: Tensor,
    mask_BNLS: Tensor | None,
    out_BNLd: Tensor,
    grad_BNLd: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v and mask. Scores s, weights w, and what they are a gradient of, are rounded to bfloat16.

    With D the sum of grad out over d, ds = w (grad v^T - D). D is taken off in the product, as what one more column
    of grad meets in a column of ones, and another for what rounding D has lost.
    """
    scale, (H, S) = q_BNLd.shape[-1] ** -0.5, (q_BNLd.shape[0] * q_BNLd.shape[1], k_BNSd.shape[2])
    q_HLd, k_HSd, v_HSd, grad_HLd = (
        one.flatten(0, 1).contiguous() for one in (q_BNLd * scale, k_BNSd, v_BNSd, grad_BNLd)
    )
    mask_HLS = None if mask_BNLS is None else mask_BNLS.flatten(0, 1)
    less_HL1 = -(grad_BNLd.float() * out_BNLd.float()).sum(-1, keepdim=True).flatten(0, 1)
    rounded_HL1 = less_HL1.to(q_HLd.dtype)
    grad_less_HLe = torch.cat([grad_HLd, rounded_HL1, (less_HL1 - rounded_HL1).to(q_HLd.dtype)], 2)
    v_one_HSe = torch.cat([v_HSd, v_HSd.new_ones(H, S, 2)], 2)
    # A large matrix is never transposed: a product would copy it first.
    k_HdS, v_one_HeS, q_HdL, grad_HdL = (one.mT.contiguous() for one in (k_HSd, v_one_HSe, q_HLd, grad_HLd))
    to_q_HLd, to_k_HdS, to_v_HdS = (torch.empty_like(one) for one in (q_HLd, k_HdS, k_HdS))
    to_mask_HLS = None if mask_HLS is None else torch.empty_like(mask_HLS)
    for heads in _blocks(H, GRADIENTS // (q_HLd.shape[1] * S)):
        if mask_HLS is None:
            scores = torch.bmm(q_HLd[heads], k_HdS[heads])
        else:
            scores = torch.baddbmm(mask_HLS[heads], q_HLd[heads], k_HdS[heads])
        weights = scores.softmax(-1)
        to_scores = torch.bmm(grad_less_HLe[heads], v_one_HeS[heads]).mul_(weights)
        to_v_HdS[heads] = torch.bmm(grad_HdL[heads], weights)
        to_q_HLd[heads] = torch.bmm(to_scores, k_HSd[heads])
        to_k_HdS[heads] = torch.bmm(q_HdL[heads], to_scores)
        if to_mask_HLS is not None:
            to_mask_HLS[heads] = to_scores
    return (
        to_q_HLd.mul_(scale).view(q_BNLd.shape),
        to_k_HdS.mT.view(k_BNSd.shape),
        to_v_HdS.mT.view(v_BNSd.shape),
        None if mask_BNLS is None or to_mask_HLS is None else to_mask_HLS.view(mask_BNLS.shape),
    )


def _blocks(length: int, at_most: int) -> list[slice]:
    """As few blocks as may be, of about the same size."""
    step = -(-length // -(-length // max(at_most, 1)))
    return [slice(start, start + step) for start in range(0, length, step)]
