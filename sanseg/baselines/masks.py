"""What the baselines share: the masks of a SAN, and pictures as its CLIP was trained on them.

B batch, Q queries, h w the mask grid, H W pixels, S CLIP's own side.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sanseg.model.config import VisionConfig
from sanseg.model.san import SAN


def propose_masks(san: SAN, image_B3HW: Tensor) -> Tensor:
    """The first stage: the mask logits (B, Q, h, w) of `SAN.propose`, and no recognition."""
    wanted = {block for block, _ in san.config.side.fusion}
    shallow = san.clip.visual.shallow(san.clip_image(image_B3HW), max(wanted, default=0), wanted)
    mask_logits_BQhw: Tensor = san.side_adapter(image_B3HW, shallow, auxiliary=False)[-1][0]
    return mask_logits_BQhw


def to_clips_square(image_B3HW: Tensor, vision: VisionConfig) -> Tensor:
    """Stretched to the square (B, 3, S, S) that CLIP was trained on: bicubic, not antialiased, as released."""
    side = vision.grid * vision.patch
    return F.interpolate(image_B3HW, size=(side, side), mode="bicubic", align_corners=False)
