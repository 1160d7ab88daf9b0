"""The methods that SAN's speed is claimed against, on the CLIP and the masks of the SAN they are made from.

Each is behind the one seam, `propose(images) -> Proposals`. Importing this loads none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sanseg.baselines.maskclip import MaskCLIP
    from sanseg.baselines.simseg import SimSeg
    from sanseg.model.san import SAN


def _san(san: SAN) -> SAN:
    return san


def _simseg(san: SAN) -> SimSeg:
    from sanseg.baselines.simseg import SimSeg

    return SimSeg(san)


def _maskclip(san: SAN) -> MaskCLIP:
    from sanseg.baselines.maskclip import MaskCLIP

    return MaskCLIP(san)


METHODS: dict[str, Callable[[SAN], SAN | SimSeg | MaskCLIP]] = {
    "san": _san,
    "simseg": _simseg,
    "maskclip": _maskclip,
}
