"""What training minimises: queries matched to the masks of a picture, then mask, dice and class losses.

The released recipe (SAN, Sec. 3.4, after Mask2Former): costs and losses are taken at random points instead of
whole masks. All randomness comes in as `Draws`, so that a step can be repeated.

B batch, Q queries, K labels (of one picture's vocabulary), T masks of one picture, N matched masks (of one
picture or of a batch), P points, A points of the answer loss, h w grid of the mask logits, H W pixels of the
padded picture. Points are (x, y), in [0, 1], of the padded picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sanseg.vocabulary import other_id

EPSILON = 1e-6  # keeps the logarithms of the answer loss finite

Match = tuple[
    Tensor, Tensor
]  # indices of queries and of the target masks they are matched to, int64 (min(Q, T),)


@dataclass(frozen=True)
class LossConfig:
    """Weights and sampling, by default those of the released recipe.

    `nothing_weight`: weight of "nothing" in the class loss.
    `points`: P. Of them the share `importance` are the most uncertain of `oversample` * P random ones.
    `count_unknown`: pixels that are unknown, padding included, are negatives of every mask (as released);
    False leaves them out of the costs and of the mask and dice losses.
    `answer_weight`, `answer_points`: see `answer_loss`; not part of the released recipe.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    nothing_weight: float = 0.1
    points: int = 12_544
    oversample: float = 3.0
    importance: float = 0.75
    count_unknown: bool = True
    answer_weight: float = 0.0
    answer_points: int = 2_048

    def __post_init__(self) -> None:
        if self.points < 1 or self.answer_points < 1:
            raise ValueError(f"points are {self.points} and {self.answer_points}: give at least 1")

    @property
    def important(self) -> int:
        """How many of the P loss points are chosen for being uncertain."""
        return int(self.importance * self.points)


def unknown_id(labels: int) -> int:
    """The id of "unknown" in a map of indices into that many labels: the one after "other", 255 or 65535."""
    return other_id(labels) + 1


@dataclass(frozen=True)
class Target:
    """What one picture shows.

    labels: int64 (T,), the label of each mask.
    masks: bool (T, H, W), of the padded size, False in the padding; or float32, as points are sampled in them.
    index_map: int64 (H, W), the label of each pixel, `other_id` or `unknown_id`; "unknown" in the padding.
    """

    labels: Tensor
    masks: Tensor
    index_map: Tensor

    @classmethod
    def from_index_map(cls, index_map_HW: Tensor, labels: int) -> Target:
        """One mask for each of the `labels` labels that the map (any integer type, padded) holds."""
        index_map = index_map_HW.long()
        present = torch.unique(index_map)
        present = present[present < labels]
        return cls(present, index_map == present[:, None, None], index_map)

    def unknown(self, labels: int) -> Tensor:
        """bool (H, W): where nobody knows what is there."""
        return self.index_map == unknown_id(labels)


@dataclass(frozen=True)
class Draws:
    """The uniform draws in [0, 1) that the losses of one reading use; float32.

    matching: (B, P, 2). oversample: (N, oversample * P, 2) and extra: (N, P - important, 2), for the masks of
    the batch in order. answer: (B, A).
    """

    matching: Tensor
    oversample: Tensor
    extra: Tensor
    answer: Tensor

    @classmethod
    def make(
        cls, targets: Sequence[Target], queries: int, config: LossConfig, generator: torch.Generator
    ) -> Draws:
        """Fresh draws from the generator, on the device of the targets."""
        matched = sum(min(queries, len(target.labels)) for target in targets)
        device = targets[0].labels.device

        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=generator.device).to(device)

        return cls(
            matching=draw(len(targets), config.points, 2),
            oversample=draw(matched, int(config.oversample * config.points), 2),
            extra=draw(matched, config.points - config.important, 2),
            answer=draw(len(targets), config.answer_points if config.answer_weight else 0),
        )

    @classmethod
    def join(cls, draws: Sequence[Draws]) -> Draws:
        """The draws of a batch, from those of its pictures."""
        return cls(
            matching=torch.cat([one.matching for one in draws]),
            oversample=torch.cat([one.oversample for one in draws]),
            extra=torch.cat([one.extra for one in draws]),
            answer=torch.cat([one.answer for one in draws]),
        )


@dataclass(frozen=True)
class Normalisers:
    """What the sums over the pictures of a step are divided by. All are known before the network has seen them,
    so that a step may be divided among processes and micro-batches without changing its losses.

    masks: how many target masks there are. queries: the weights of all queries in the class loss, 1 for those that
    will be matched. pixels: of the answer loss.
    """

    masks: float
    queries: float
    pixels: float

    @classmethod
    def count(
        cls, targets: Sequence[Target], labels: Sequence[int], queries: int, config: LossConfig
    ) -> Normalisers:
        """Of these pictures. labels: how many labels the set of each has."""
        matched = [min(queries, len(target.labels)) for target in targets]
        known = [
            not bool(target.unknown(number).all()) for target, number in zip(targets, labels, strict=True)
        ]
        return cls(
            masks=float(sum(len(target.labels) for target in targets)),
            queries=sum(number + (queries - number) * config.nothing_weight for number in matched),
            pixels=float(config.answer_points * sum(known)),
        )


@dataclass(frozen=True)
class Losses:
    """The losses of one reading, scalars, not weighted."""

    classification: Tensor
    mask: Tensor
    dice: Tensor
    answer: Tensor

    def stacked(self) -> Tensor:
        """All four: (4,)."""
        return torch.stack([self.classification, self.mask, self.dice, self.answer])

    def weighted(self, config: LossConfig) -> Tensor:
        """Their weighted sum: what is minimised."""
        return (
            config.class_weight * self.classification
            + config.mask_weight * self.mask
            + config.dice_weight * self.dice
            + config.answer_weight * self.answer
        )


def reading_losses(
    class_logits: Sequence[Tensor],
    mask_logits_BQhw: Tensor,
    targets: Sequence[Target],
    draws: Draws,
    config: LossConfig,
    normalisers: Normalisers,
) -> Losses:
    """The losses of one reading of the side adapter; with deep supervision each reading has its own matching.

    class_logits: for each picture (Q, K + 1), against its own vocabulary; the last is "nothing".
    normalisers: of the whole step, of which these pictures may be a part: the losses of its parts add up.
    Computed in float32.
    """
    masks = mask_logits_BQhw.float()
    logits = [one.float() for one in class_logits]
    unknowns = [target.unknown(one.shape[-1] - 1) for target, one in zip(targets, logits, strict=True)]
    if config.count_unknown:
        unknowns = [torch.zeros_like(unknown) for unknown in unknowns]
    matches = [
        match(matching_cost(*of_picture, config))
        for of_picture in zip(logits, masks, targets, unknowns, draws.matching, strict=True)
    ]
    mask, dice = _matched_mask_losses(masks, targets, unknowns, matches, draws, config)
    return Losses(
        classification=classification_loss(logits, targets, matches, config.nothing_weight)
        / normalisers.queries,
        mask=mask / max(1.0, normalisers.masks),
        dice=dice / max(1.0, normalisers.masks),
        answer=answer_loss(logits, masks, targets, draws.answer) / max(1.0, normalisers.pixels)
        if config.answer_weight
        else mask.new_zeros(()),
    )


@torch.no_grad()
def matching_cost(
    logits_QK: Tensor,
    masks_Qhw: Tensor,
    target: Target,
    unknown_HW: Tensor,
    points_P2: Tensor,
    config: LossConfig,
) -> Tensor:
    """What it costs one picture's queries to answer for its masks: (Q, T).

    logits_QK holds K + 1 class logits. unknown_HW: bool, where a point counts for nothing.
    """
    x_QP = sample_points(masks_Qhw[None], points_P2[None])[0]
    weight_P = 1.0 - _nearest(unknown_HW, points_P2).float()
    target_TP = sample_points(target.masks[None].float(), points_P2[None])[0] * weight_P
    # BCE(x, t) = softplus(x) - x t
    bce_QT = ((F.softplus(x_QP) @ weight_P)[:, None] - x_QP @ target_TP.T) / weight_P.sum().clamp(min=1)
    inside_QP = x_QP.sigmoid() * weight_P
    overlap_QT = 2 * inside_QP @ target_TP.T
    dice_QT = 1 - (overlap_QT + 1) / (inside_QP.sum(1)[:, None] + target_TP.sum(1) + 1)
    class_QT = -logits_QK.softmax(dim=-1)[:, target.labels]
    return config.mask_weight * bce_QT + config.class_weight * class_QT + config.dice_weight * dice_QT


def match(cost_QT: Tensor) -> Match:
    """The cheapest way to give each mask a query of its own."""
    # A cost that is not finite must not stop here: the loss will not be finite either, and the training loop,
    # which knows the pictures' names, stops on that.
    queries, masks = linear_sum_assignment(torch.nan_to_num(cost_QT).cpu().numpy())
    device = cost_QT.device
    return torch.as_tensor(queries, device=device), torch.as_tensor(masks, device=device)


def classification_loss(
    class_logits: Sequence[Tensor], targets: Sequence[Target], matches: Sequence[Match], nothing_weight: float
) -> Tensor:
    """Cross-entropy of all queries: a matched one should name its mask, the others "nothing".

    The weighted sum over all queries of the batch, though pictures may have different vocabularies.
    """
    losses = []
    for logits_QK, target, (queries, masks) in zip(class_logits, targets, matches, strict=True):
        nothing = logits_QK.shape[-1] - 1
        wanted_Q = torch.full((len(logits_QK),), nothing, device=logits_QK.device)
        wanted_Q[queries] = target.labels[masks]
        weight_Q = torch.where(wanted_Q == nothing, nothing_weight, 1.0)
        losses.append((F.cross_entropy(logits_QK, wanted_Q, reduction="none") * weight_Q).sum())
    return torch.stack(losses).sum()


def _matched_mask_losses(
    masks_BQhw: Tensor,
    targets: Sequence[Target],
    unknowns: Sequence[Tensor],
    matches: Sequence[Match],
    draws: Draws,
    config: LossConfig,
) -> tuple[Tensor, Tensor]:
    """The mask and dice losses of all matched pairs of a batch, summed over the pairs."""
    mask = dice = masks_BQhw.sum() * 0.0  # a batch without any mask still has a gradient, of zero
    start = 0
    for masks_Qhw, target, unknown_HW, (queries, rows) in zip(
        masks_BQhw, targets, unknowns, matches, strict=True
    ):
        these = slice(start, start := start + len(queries))
        logits_Nhw = masks_Qhw[queries]
        points = important_points(logits_Nhw, unknown_HW, draws.oversample[these], draws.extra[these], config)
        one_mask, one_dice = mask_losses(logits_Nhw, target.masks[rows], unknown_HW, points)
        mask, dice = mask + one_mask.sum(), dice + one_dice.sum()
    return mask, dice


@torch.no_grad()
def important_points(
    logits_Nhw: Tensor, unknown_HW: Tensor, oversample: Tensor, extra: Tensor, config: LossConfig
) -> Tensor:
    """Points (N, P, 2) for each mask: the least certain of `oversample`, then all of `extra`."""
    uncertainty_NP = -sample_points(logits_Nhw[:, None], oversample)[:, 0].abs()
    uncertainty_NP = uncertainty_NP.masked_fill(_nearest(unknown_HW, oversample), float("-inf"))
    chosen = uncertainty_NP.topk(config.important, dim=1).indices
    return torch.cat([oversample.take_along_dim(chosen[..., None], dim=1), extra], dim=1)


def mask_losses(
    logits_Nhw: Tensor, masks_NHW: Tensor, unknown_HW: Tensor, points_NP2: Tensor
) -> tuple[Tensor, Tensor]:
    """Of one picture's matched pairs: binary cross-entropy (mean over points) and dice loss, both (N,)."""
    x_NP = sample_points(logits_Nhw[:, None], points_NP2)[:, 0]
    with torch.no_grad():
        weight_NP = 1.0 - _nearest(unknown_HW, points_NP2).float()
        target_NP = sample_points(masks_NHW[:, None].float(), points_NP2)[:, 0]
    bce_NP = F.binary_cross_entropy_with_logits(x_NP, target_NP, weight=weight_NP, reduction="none")
    inside_NP = x_NP.sigmoid() * weight_NP
    target_NP = target_NP * weight_NP
    overlap_N = 2 * (inside_NP * target_NP).sum(1)
    dice_N = 1 - (overlap_N + 1) / (inside_NP.sum(1) + target_NP.sum(1) + 1)
    return bce_NP.sum(1) / weight_NP.sum(1).clamp(min=1), dice_N


def answer_loss(
    class_logits: Sequence[Tensor], masks_BQhw: Tensor, targets: Sequence[Target], draws_BA: Tensor
) -> Tensor:
    """Cross-entropy of the answer itself, which needs no matching (ours, not part of the released recipe).

    At A random known pixels of each picture the score of label k is S_k = sum_q p_qk sigmoid(mask_q), as in
    the answer. A pixel of label t costs -log(S_t / sum_k S_k). A pixel known to be none of the labels costs
    log(1 + sum_k S_k): like -log(1 - sum_k S_k) where the sum is small, and with a gradient where it is above
    1, as it is when training begins. The sum over all these pixels; zero where no pixel is known.
    """
    losses = [masks_BQhw.sum() * 0.0]
    for logits_QK, masks_Qhw, target, draws_A in zip(
        class_logits, masks_BQhw, targets, draws_BA, strict=True
    ):
        labels = logits_QK.shape[-1] - 1
        known = (~target.unknown(labels)).flatten().nonzero()[:, 0]
        if len(known) == 0:
            continue
        pixels_A = known[(draws_A * len(known)).long()]
        ids_A = target.index_map.flatten()[pixels_A]
        H, W = target.index_map.shape
        centres_A2 = torch.stack([(pixels_A % W + 0.5) / W, (pixels_A // W + 0.5) / H], dim=1)
        inside_QA = sample_points(masks_Qhw[None], centres_A2[None])[0].sigmoid()
        score_KA = logits_QK.softmax(dim=-1)[:, :-1].T @ inside_QA
        total_A = score_KA.sum(0)
        right_A = score_KA.gather(0, ids_A.clamp(max=labels - 1)[None])[0]
        named = (total_A + EPSILON).log() - (right_A + EPSILON).log()
        losses.append(torch.where(ids_A < labels, named, total_A.log1p()).sum())
    return torch.stack(losses).sum()


def sample_points(maps_NChw: Tensor, points_NP2: Tensor) -> Tensor:
    """Bilinear values (N, C, P) of the maps at the points; zero beyond their border (align_corners False)."""
    return F.grid_sample(maps_NChw, 2 * points_NP2[:, None] - 1, align_corners=False)[:, :, 0]


def _nearest(map_HW: Tensor, points: Tensor) -> Tensor:
    """The value of the pixel that each point (..., 2) lies in: (...)."""
    H, W = map_HW.shape
    x = (points[..., 0] * W).long().clamp(max=W - 1)
    y = (points[..., 1] * H).long().clamp(max=H - 1)
    return map_HW[y, x]
