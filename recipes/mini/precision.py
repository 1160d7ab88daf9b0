"""Networks in bfloat16 where the processor computes with it; elsewhere it would be taken apart, many times slower."""

from __future__ import annotations

import torch

from sanseg.devices import find_dtype


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=find_dtype("auto", "cpu") is torch.bfloat16)
