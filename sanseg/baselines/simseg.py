"""SimSeg: two stages, masks first, then all of CLIP's image tower once for each mask.

Xu et al., "A Simple Baseline for Open-Vocabulary Semantic Segmentation with Pre-trained Vision-language Model",
ECCV 2022, arXiv 2112.14757.

B batch, Q queries, q queries of one piece, E shared embedding, h w the mask grid, H W pixels, S CLIP's own side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sanseg.baselines.masks import propose_masks, to_clips_square
from sanseg.model.san import SAN, Proposals

DROPPED = -100.0  # a mask logit whose sigmoid adds nothing to any score, and which float16 can hold


class SimSeg:
    """SimSeg on a SAN's CLIP and masks, in the form that needs no training.

    As in the released code, a mask is where its upsampled sigmoid is above 0.5; the picture is cropped to the
    mask's box, what lies outside of the mask becomes CLIP's mean pixel, and the crop is stretched bicubically to
    CLIP's own square. An empty mask is dropped there; here its logits become DROPPED and its embedding "nothing".

    Left out is what was trained: the MaskFormer that proposes masks (the SAN's side adapter does, at less cost), the
    ensemble with that MaskFormer's own classes, and learned prompts. CLIP is the SAN's, whose training moved the
    positional embedding.

    at_once: masks that are upsampled, cropped and encoded together, which bounds the memory. For inference only:
    embeddings are filled in where they lie.
    """

    def __init__(self, san: SAN, at_once: int = 32) -> None:
        if at_once < 1:
            raise ValueError(f"at_once is {at_once}: give at least 1")
        self.san = san
        self.at_once = at_once

    def propose(self, image_B3HW: Tensor) -> Proposals:
        """As `SAN.propose`."""
        mask_logits_BQhw = propose_masks(self.san, image_B3HW)
        nothing_1E = F.normalize(self.san.nothing, dim=-1)
        embeddings_BQE = nothing_1E.expand(*mask_logits_BQhw.shape[:2], -1).clone()
        for image_3HW, logits_Qhw, embeddings_QE in zip(
            image_B3HW, mask_logits_BQhw, embeddings_BQE, strict=True
        ):
            for start in range(0, len(logits_Qhw), self.at_once):
                piece = slice(start, start + self.at_once)
                self._encode(image_3HW, logits_Qhw[piece], embeddings_QE[piece])
        return Proposals(mask_logits_BQhw, embeddings_BQE)

    def _encode(self, image_3HW: Tensor, logits_qhw: Tensor, embeddings_qE: Tensor) -> None:
        """Fills in the embeddings of some masks, and closes those that are empty."""
        visual = self.san.clip.visual
        upsampled_1qHW = F.interpolate(
            logits_qhw[None], size=image_3HW.shape[1:], mode="bilinear", align_corners=False
        )
        inside_qHW = upsampled_1qHW[0] > 0  # where the sigmoid is above 0.5
        crops_13SS, kept = [], []
        for number, box in enumerate(boxes(inside_qHW)):
            if box is None:
                logits_qhw[number] = DROPPED
                continue
            crop_3yx = torch.where(inside_qHW[number][box], image_3HW[:, *box], 0)  # 0: the mean, normalised
            crops_13SS.append(to_clips_square(crop_3yx[None], visual.config))
            kept.append(number)
        if kept:
            embeddings_qE[kept] = visual(torch.cat(crops_13SS))


def boxes(inside_QHW: Tensor) -> list[tuple[slice, slice] | None]:
    """The rows and columns of the smallest box around each mask, bool; None for one that is empty."""
    ends = []
    for lines_QL in (inside_QHW.any(dim=2), inside_QHW.any(dim=1)):
        first_Q = lines_QL.int().argmax(dim=1)  # of several the first
        last_Q = lines_QL.shape[1] - lines_QL.flip(1).int().argmax(dim=1)
        ends += [first_Q, last_Q]
    ends.append(inside_QHW.flatten(1).any(dim=1))
    return [
        (slice(top, bottom), slice(left, right)) if some else None
        for top, bottom, left, right, some in torch.stack(ends, dim=1).tolist()  # the one wait for the device
    ]
