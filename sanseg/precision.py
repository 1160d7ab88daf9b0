"""The precision that a step of training computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sanseg.model.san import SAN


class Precision:
    """Autocast, and the frozen weights of CLIP's blocks rounded once, for all steps: autocast would at each use."""

    def __init__(self, san: SAN, dtype: torch.dtype) -> None:
        """As the network is frozen now. dtype: float32 for neither.

        With activation checkpointing memory counts for more, and nothing is kept rounded.
        """
        self.dtype, self.device = dtype, san.nothing.device.type
        layers = [layer for layer in san.clip.visual.blocks.modules() if isinstance(layer, nn.Linear)]
        weights = [weight for layer in layers for weight in layer.parameters() if not weight.requires_grad]
        keeps = dtype is not torch.float32 and not san.checkpointing
        self.frozen = [(one, one.detach().to(dtype)) for one in weights] if keeps else []

    def autocast(self) -> torch.autocast:
        """For a forward, which may be one of several threads: what autocast keeps, it gives to all of them."""
        enabled = self.dtype is not torch.float32
        return torch.autocast(self.device, self.dtype, enabled=enabled, cache_enabled=False)

    @contextmanager
    def rounded(self) -> Iterator[None]:
        """The network has its frozen weights so meanwhile: for forwards and their backwards, which read them too."""
        whole = [weight.data for weight, _ in self.frozen]
        try:
            for weight, rounded in self.frozen:
                weight.data = rounded
            yield
        finally:
            for (weight, _), data in zip(self.frozen, whole, strict=True):
                weight.data = data
