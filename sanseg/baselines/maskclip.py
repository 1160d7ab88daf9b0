"""MaskCLIP: mask class tokens ride through all of CLIP's blocks, each attending to what its mask covers.

Ding et al., "Open-Vocabulary Universal Image Segmentation with MaskCLIP", ICML 2023, arXiv 2208.08984 (not
"Extract Free Dense Labels from CLIP", which has the same name).

B batch, Q queries, D width of CLIP, h w the mask grid, g CLIP's own grid, S its side in pixels, L = g g.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sanseg.baselines.masks import propose_masks, to_clips_square
from sanseg.model.config import VisionConfig
from sanseg.model.san import SAN, Proposals
from sanseg.model.transformer import Block


class MaskCLIP:
    """MaskCLIP on a SAN's CLIP and masks, in the form that needs no training.

    As in the released code, CLIP sees the picture stretched to its own square. Each mask class token starts as
    CLIP's class token behind `norm_pre`, and attends in every block to that class token and to the patches in
    which its mask has a pixel (sigmoid at least 0.5), not to itself nor to another. CLIP's own tokens never attend
    to them. An empty mask is not dropped: it reads the class token alone.

    Left out is what was trained: the Mask2Former that proposes masks (the SAN's side adapter does, at less cost),
    and what relative mask attention adds in every sixth block: an embedding of the mask in the attention logits,
    and a mask refined by them. So masks are fixed, and one attention mask serves all blocks. The tokens, blocks
    and resolution, which the method's cost is made of, are its own; with the rest it would be dearer. CLIP is the
    SAN's, whose training moved the positional embedding.
    """

    def __init__(self, san: SAN) -> None:
        self.san = san

    def propose(self, image_B3HW: Tensor) -> Proposals:
        """As `SAN.propose`."""
        visual = self.san.clip.visual
        mask_logits_BQhw = propose_masks(self.san, image_B3HW)
        mask_B1RM = attention_mask(mask_logits_BQhw, visual.config)
        shallow = visual.shallow(to_clips_square(image_B3HW, visual.config), 0, ())
        context = shallow.tokens
        riders_BRD = context[:, :1].expand(-1, mask_B1RM.shape[2], -1)
        blocks = list(visual.blocks)
        for block in blocks:
            assert isinstance(block, Block)
            riders_BRD, context = block.beside(riders_BRD, context, mask_B1RM, last=block is blocks[-1])
        region_BQE = visual.embed(riders_BRD[:, :-1])
        return Proposals(mask_logits_BQhw, *self.san.guessed(region_BQE, shallow, mask_logits_BQhw))


def attention_mask(mask_logits_BQhw: Tensor, vision: VisionConfig) -> Tensor:
    """What is added to the attention logits of Q + 1 riders: (B, 1, Q + 1, Q + 1 + L), 0 or minus infinity.

    `Block.beside` has no class token among its keys. So a copy of it rides along, the last: it attends to itself
    and to all patches, and thus equals CLIP's own in every block.
    """
    B, Q = mask_logits_BQhw.shape[:2]
    side = vision.grid * vision.patch
    logits_BQSS = F.interpolate(mask_logits_BQhw, size=(side, side), mode="bilinear", align_corners=False)
    patches_BQL = (F.max_pool2d(logits_BQSS, vision.patch) >= 0).flatten(2)
    open_BRM = torch.zeros(B, Q + 1, Q + 1 + vision.grid**2, dtype=torch.bool, device=mask_logits_BQhw.device)
    open_BRM[:, :, Q] = True  # the class token
    open_BRM[:, :Q, Q + 1 :] = patches_BQL
    open_BRM[:, Q, Q + 1 :] = True
    closed = torch.zeros_like(open_BRM, dtype=mask_logits_BQhw.dtype).masked_fill_(~open_BRM, float("-inf"))
    return closed[:, None]
