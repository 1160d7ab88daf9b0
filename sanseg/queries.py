"""Queries: what a network said of one picture, asked some words, before its masks became one label map.

Q queries, R classifier rows, K labels, E shared embedding, h w the size asked for, H W pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sanseg.images import Geometry

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, eq=False)
class QueryMasks:
    """The queries' own masks, and what each of them holds.

    masks: float32 (Q, h, w) in [0, 1], over the whole picture; they overlap, and need not add up to 1.
    embeddings: float32 (Q, E), unit length, in the space shared with words.
    scores: float32 (Q, K + 1) in [0, 1]: the labels in the order asked, then other; what is left of 1 says that
        the query holds nothing, or another row of a label that has several.
    """

    masks: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Queries:
    """Kept with a Segmentation on request.

    mask_logits: (Q, gh, gw), on the mask grid of the padded picture. embeddings: (Q, E).
    probabilities: (Q, R), without "nothing". row_label: for each row the index of its label, or -1 for other.
    geometry: the sizes of the picture.
    """

    mask_logits: Tensor
    embeddings: Tensor
    probabilities: Tensor
    row_label: Sequence[int]
    geometry: Geometry

    @property
    def grid(self) -> Size:
        """The part of the mask grid that lies on the picture, in cells, rounded up."""
        cells, geometry = self.mask_logits.shape[1:], self.geometry
        height, width = (
            min(side, -(-number * content // padded))
            for side, number, content, padded in zip(
                geometry.original, cells, geometry.content, geometry.padded, strict=True
            )
        )
        return height, width

    @torch.inference_mode()
    def masks(self, size: Size | None = None) -> Tensor:
        """(Q, h, w) float32 in [0, 1]: see `model.san` and SAN's answer. size: None is `grid`.

        The whole picture, whatever the size: bilinear from the grid, as the label map's masks are.
        Raises ValueError for a size without pixels.
        """
        if min(size or (1, 1)) < 1:
            raise ValueError(f"size is {size}: give a height and a width of at least 1 pixel")
        geometry = replace(self.geometry, original=self.grid if size is None else size)
        logits = self.mask_logits.float()[None]
        padded = F.interpolate(logits, size=geometry.padded, mode="bilinear", align_corners=False)
        content = padded[..., : geometry.content[0], : geometry.content[1]]
        resized = F.interpolate(content, size=geometry.original, mode="bilinear", align_corners=False)
        return resized[0].sigmoid_()

    @torch.inference_mode()
    def scores(self, size: Size | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The score of every label and of other, (K + 1, h, w), and of all rows together, (h, w); float32.

        Over all rows of a label, and all other words, the best: at the picture's size the label map is where they
        are largest, and the confidence their largest over the score of all rows, thresholds and temperature
        aside. Other is 0 where nothing competes.
        """
        masks_Qhw = self.masks(size)
        rows_Rhw = torch.einsum("qr,qyx->ryx", self.probabilities.float(), masks_Qhw)
        return self._by_label(rows_Rhw).cpu().numpy(), rows_Rhw.sum(0).cpu().numpy()

    def proposals(self, size: Size | None = None) -> QueryMasks:
        """As numpy, the masks at this size; None is `grid`."""
        scores_KQ = self._by_label(self.probabilities.float().T)
        return QueryMasks(
            self.masks(size).cpu().numpy(),
            self.embeddings.float().cpu().numpy(),
            np.ascontiguousarray(scores_KQ.T.cpu().numpy()),
        )

    def _by_label(self, rows: Tensor) -> Tensor:
        """The best of each label's rows: (R, ...) to (K + 1, ...), other last."""
        label_R = torch.tensor(self.row_label, device=rows.device)
        of_label = [rows[label_R == label] for label in [*range(int(label_R.max()) + 1), -1]]
        nothing = rows.new_zeros(rows.shape[1:])
        return torch.stack([own.amax(0) if len(own) else nothing for own in of_label])
