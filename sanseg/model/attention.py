"""Attention, by the kernel that is fast on the device at hand.

B batch, N heads, L queries, S keys, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES = 1 << 20  # at once, where attention is computed by blocks: 2 MB, which stay in a processor's caches
FEW = 128  # tokens: so few are attended to as fast by torch's kernel


def attention(q_BNLd: Tensor, k_BNSd: Tensor, v_BNSd: Tensor, *, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: (B, N, L, d), as `F.scaled_dot_product_attention` gives it, but for rounding.

    causal: each token sees itself and those before it.
    """
    if not causal and _by_blocks_is_faster(q_BNLd):
        return _by_blocks(q_BNLd, k_BNSd, v_BNSd)
    return F.scaled_dot_product_attention(q_BNLd, k_BNSd, v_BNSd, is_causal=causal)


def _by_blocks_is_faster(q_BNLd: Tensor) -> bool:
    """Whether torch's fused kernel would be slow, and nothing needs it: gradients, an exported graph, `sdpa_kernel`."""
    return (
        q_BNLd.is_cpu
        and q_BNLd.dtype is torch.bfloat16
        and q_BNLd.shape[2] > FEW
        and not q_BNLd.requires_grad
        and not torch.is_autocast_enabled("cpu")  # it would take softmax to float32
        and not torch.compiler.is_compiling()
        and torch.backends.cuda.flash_sdp_enabled()  # of all devices, whatever its name: see `sdpa_kernel`
        and _fused_is_slow()
    )


@cache
def _fused_is_slow() -> bool:
    """Whether this processor multiplies bfloat16 by vectors, but has no AMX.

    There torch's fused kernel is as slow in bfloat16 as in float32, and matrix products are twice as fast.
    """
    capabilities: Callable[[], Mapping[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    has = capabilities()
    return bool(has.get("avx512_bf16")) and not has.get("amx_bf16")


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


def _blocks(length: int, at_most: int) -> list[slice]:
    """As few blocks as may be, of about the same size."""
    step = -(-length // -(-length // max(at_most, 1)))
    return [slice(start, start + step) for start in range(0, length, step)]
