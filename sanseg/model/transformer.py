"""The one transformer block: CLIP's two towers and the side adapter's ViT are made of it.

B batch, Q queries, N heads, L tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sanseg.model.attention import attention


def drawn(*shape: int, std: float) -> nn.Parameter:
    """A parameter of normal random values."""
    return nn.Parameter(nn.init.normal_(torch.empty(shape), std=std))


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        gate = (1.702 * x).sigmoid_()  # in place: fresh memory costs a CPU more than the arithmetic
        return x * gate if gate.requires_grad else gate.mul_(x)


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)), then x + MLP(norm(x)), the MLP four times as wide."""

    def __init__(self, width: int, heads: int, *, eps: float, quick_gelu: bool) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads: choose heads that divide it")
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width, eps=eps)
        self.up = nn.Linear(width, 4 * width)
        self.activation = QuickGELU() if quick_gelu else nn.GELU()
        self.down = nn.Linear(4 * width, width)
        self.checkpointing = False  # in training, compute activations again in the backward pass: less memory

    def forward(self, x_BLD: Tensor, *, causal: bool = False) -> Tensor:
        """Self-attention among all tokens; `causal`: each token sees itself and those before it."""
        if self.checkpointing and torch.is_grad_enabled():
            again: Tensor = checkpoint(self._forward, x_BLD, causal=causal, use_reentrant=False)
            return again
        return self._forward(x_BLD, causal=causal)

    def _forward(self, x_BLD: Tensor, *, causal: bool) -> Tensor:
        q, k, v = self._split(self.qkv(self.norm_1(x_BLD)), 3)
        return self._finish(x_BLD, attention(q, k, v, causal=causal))

    def beside(
        self, sls_BQD: Tensor, context_BLD: Tensor, mask_BNQM: Tensor, *, last: bool
    ) -> tuple[Tensor, Tensor]:
        """One block of recognition (paper, Sec. 3.3): [SLS] tokens ride beside CLIP's own, sharing keys and values.

        context_BLD: CLIP's tokens, class token first. mask_BNQM: M = Q + L - 1; what is added to the scaled
        logits of each [SLS] token towards every [SLS] token and then every patch (`recognition_mask`).
        `last`: nothing reads the context any more, so it is returned as it came.
        """
        if self.checkpointing and torch.is_grad_enabled():
            both: tuple[Tensor, Tensor] = checkpoint(
                self._beside, sls_BQD, context_BLD, mask_BNQM, last=last, use_reentrant=False
            )
            return both
        return self._beside(sls_BQD, context_BLD, mask_BNQM, last=last)

    def _beside(
        self, sls_BQD: Tensor, context_BLD: Tensor, mask_BNQM: Tensor, *, last: bool
    ) -> tuple[Tensor, Tensor]:
        normed = self.norm_1(context_BLD)
        if last:
            width = context_BLD.shape[-1]
            k, v = self._split(F.linear(normed, self.qkv.weight[width:], self.qkv.bias[width:]), 2)
        else:
            q, k, v = self._split(self.qkv(normed), 3)
            context_BLD = self._finish(context_BLD, attention(q, k, v))
        q, own_k, own_v = self._split(self.qkv(self.norm_1(sls_BQD)), 3)
        keys = torch.cat([own_k, k[:, :, 1:]], dim=2)  # without the class token
        values = torch.cat([own_v, v[:, :, 1:]], dim=2)
        return self._finish(sls_BQD, attention(q, keys, values, mask_BNQM)), context_BLD

    def _split(self, x_BLD: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, L, parts * D) -> that many (B, N, L, D / N)."""
        B, L, _ = x_BLD.shape
        return torch.unbind(x_BLD.view(B, L, parts, self.heads, -1).permute(2, 0, 3, 1, 4))

    def _finish(self, x_BLD: Tensor, attended_BNLd: Tensor) -> Tensor:
        x_BLD = x_BLD + self.out(attended_BNLd.transpose(1, 2).flatten(2))
        mlp: Tensor = self.down(self.activation(self.up(self.norm_2(x_BLD))))
        return x_BLD + mlp


def recognition_mask(bias_BNQhw: Tensor) -> Tensor:
    """What [SLS] tokens add to their attention logits: (B, N, Q, Q + h w).

    Sec. 3.3: an [SLS] token attends to itself (bias 0) and to the patches (its bias), never to another [SLS]
    token. The class token is not among the keys.
    """
    B, N, Q = bias_BNQhw.shape[:3]
    apart = torch.full((Q, Q), float("-inf"), dtype=bias_BNQhw.dtype, device=bias_BNQhw.device)
    apart.fill_diagonal_(0)
    return torch.cat([apart.expand(B, N, Q, Q), bias_BNQhw.flatten(3)], dim=3)


def known(size: tuple[int, ...]) -> bool:
    """Whether a size is numbers. While a network is exported it may be symbols, and comparing would fix them."""
    return all(isinstance(side, int) for side in size)


def resize_position(position_LD: Tensor, grid: int, size: tuple[int, int]) -> Tensor:
    """A positional embedding (grid * grid, D) for a grid of `size` (h, w): (h * w, D), bicubic, not antialiased."""
    if known(size) and size == (grid, grid):
        return position_LD
    square = position_LD.view(1, grid, grid, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=size, mode="bicubic", align_corners=False)
    return resized.flatten(2)[0].T
