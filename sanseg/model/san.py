"""SAN: the paper's figure.

B batch, Q queries, N heads of CLIP, E shared embedding, D width of CLIP, h w grids, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from sanseg.model.clip import CLIP
from sanseg.model.config import SANConfig
from sanseg.model.side_adapter import SideAdapter
from sanseg.model.transformer import drawn


@dataclass(frozen=True)
class Proposals:
    """What a picture holds, before any word has been read.

    mask_logits: (B, Q, h, w), on the mask grid of the padded picture.
    embeddings: (B, Q, E), unit length, in the space shared with words.
    """

    mask_logits: Tensor
    embeddings: Tensor


class SAN(nn.Module):
    """A frozen CLIP, the side adapter beside it, and the learned "nothing" embedding."""

    def __init__(self, config: SANConfig) -> None:
        super().__init__()
        self.config = config
        self.clip = CLIP(config.clip)
        self.side_adapter = SideAdapter(config)
        self.nothing = drawn(1, config.clip.embed, std=1.0)
        self.freeze()

    def propose(self, image_B3HW: Tensor) -> Proposals:
        """Pictures, normalised and padded to multiples of `config.divisor`, to Proposals."""
        return self._read(image_B3HW, auxiliary=False)[-1]

    def readings(self, image_B3HW: Tensor) -> list[Proposals]:
        """As `propose`, for training: every reading of the side adapter, the answer last."""
        return self._read(image_B3HW, auxiliary=True)

    def _read(self, image_B3HW: Tensor, *, auxiliary: bool) -> list[Proposals]:
        wanted = {block for block, _ in self.config.side.fusion}
        shallow = self.clip.visual.shallow(self.clip_image(image_B3HW), self.config.split, wanted)
        readings = []
        for mask_logits_BQhw, bias_BNQhw in self.side_adapter(image_B3HW, shallow, auxiliary=auxiliary):
            region_BQE = self.clip.visual.recognise(shallow, bias_BNQhw)
            readings.append(Proposals(mask_logits_BQhw, region_BQE))
        return readings

    def clip_image(self, image_B3HW: Tensor) -> Tensor:
        """The picture as CLIP sees it, smaller by `config.clip_scale`."""
        scale = self.config.clip_scale
        if scale == 1:
            return image_B3HW
        # With scale_factor, coordinates map by 1 / scale rather than by the ratio of the sizes: as released.
        return F.interpolate(image_B3HW, scale_factor=scale, mode="bilinear", align_corners=False)

    def freeze(self) -> None:
        """Leaves to train what the released recipe trains: see `trained`."""
        trained = self.trained()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained)

    def trained(self) -> dict[str, nn.Parameter]:
        """The side adapter, "nothing", and CLIP's visual positional embedding, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.startswith("side_adapter.") or name in ("nothing", "clip.visual.position")
        }
