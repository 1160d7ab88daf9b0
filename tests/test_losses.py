"""The losses: equal to the released recipe's, and sane where it says nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sanseg.losses import (
    Draws,
    LossConfig,
    Losses,
    Normalisers,
    Target,
    answer_loss,
    classification_loss,
    important_points,
    mask_losses,
    match,
    matching_cost,
    reading_losses,
    sample_points,
    unknown_id,
)

GOLDEN = {"main": "", "aux0": "_0"}  # our name of a reading in io.npz: its suffix in train.json
CONFIG = LossConfig(points=100)


class Golden:
    """One case of the golden data: what the official classes computed from the same numbers."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "io.npz") as arrays:
            self.arrays: dict[str, NDArray[np.generic]] = {
                name: arrays[name] for name in arrays.files if name.startswith(("train_", "tgt"))
            }
        self.losses: dict[str, float] = json.loads((folder / "train.json").read_text())["losses_unweighted"]
        self.size = 192, 224  # both pictures padded together, to multiples of 32

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def targets(self) -> list[Target]:
        targets = []
        for number in range(2):
            content = self.tensor(f"tgt{number}_masks")
            masks = torch.zeros(len(content), *self.size, dtype=torch.bool)
            masks[:, : content.shape[1], : content.shape[2]] = content
            labels = self.tensor(f"tgt{number}_labels")
            every_pixel_known = torch.zeros(self.size, dtype=torch.int64)
            targets.append(Target(labels, masks, every_pixel_known))
        return targets

    def draws(self, reading: str) -> Draws:
        return Draws(
            matching=self.tensor(f"train_{reading}_match_points"),
            oversample=self.tensor(f"train_{reading}_rand_oversample"),
            extra=self.tensor(f"train_{reading}_rand_extra"),
            answer=torch.zeros(2, 0),
        )

    def predictions(self, reading: str) -> tuple[Tensor, Tensor]:
        return self.tensor(f"train_pred_logits_{reading}"), self.tensor(f"train_pred_masks_{reading}")


@pytest.fixture(params=["default", "l14like"])
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return Golden(shared / "golden" / request.param)


def none_of(target: Target) -> Tensor:
    return torch.zeros_like(target.index_map, dtype=torch.bool)


@pytest.mark.parametrize("reading", GOLDEN)
def test_costs_and_matches_equal_the_official_ones(golden: Golden, reading: str) -> None:
    logits, masks = golden.predictions(reading)
    points = golden.draws(reading).matching
    for number, target in enumerate(golden.targets()):
        cost = matching_cost(logits[number], masks[number], target, none_of(target), points[number], CONFIG)
        torch.testing.assert_close(
            cost, golden.tensor(f"train_{reading}_cost_b{number}"), atol=2e-5, rtol=2e-6
        )
        queries, rows = match(cost)
        assert queries.equal(golden.tensor(f"train_{reading}_match_b{number}_src"))
        assert rows.equal(golden.tensor(f"train_{reading}_match_b{number}_tgt"))


@pytest.mark.parametrize("reading", GOLDEN)
def test_importance_sampling_picks_the_official_points(golden: Golden, reading: str) -> None:
    _, masks = golden.predictions(reading)
    draws = golden.draws(reading)
    start = 0
    for number, target in enumerate(golden.targets()):
        matched = masks[number][golden.tensor(f"train_{reading}_match_b{number}_src")]
        these = slice(start, start := start + len(matched))
        points = important_points(
            matched, none_of(target), draws.oversample[these], draws.extra[these], CONFIG
        )
        assert points.equal(golden.tensor(f"train_{reading}_loss_points")[these])


@pytest.mark.parametrize("reading", GOLDEN)
def test_losses_equal_the_official_ones(golden: Golden, reading: str) -> None:
    logits, masks = golden.predictions(reading)
    targets = golden.targets()
    losses = reading_losses(
        list(logits), masks, targets, golden.draws(reading), CONFIG, counted(logits, targets, CONFIG)
    )
    suffix = GOLDEN[reading]
    wanted = [golden.losses[f"loss_{name}{suffix}"] for name in ("ce", "mask", "dice")]
    assert [losses.classification.item(), losses.mask.item(), losses.dice.item()] == pytest.approx(
        wanted, rel=3e-6
    )
    assert losses.weighted(CONFIG).item() == pytest.approx(np.dot([2, 5, 5], wanted), rel=3e-6)


def test_the_released_settings_are_the_defaults() -> None:
    released = LossConfig()
    assert (released.class_weight, released.mask_weight, released.dice_weight) == (2, 5, 5)
    assert (released.nothing_weight, released.points, released.oversample) == (0.1, 12_544, 3)
    assert (released.important, released.answer_weight, released.count_unknown) == (9_408, 0, True)


def a_target(labels: int = 3, size: int = 16) -> Target:
    """Stripes of labels 0 and 2, other pixels, unknown pixels."""
    index_map = torch.full((size, size), 255)
    index_map[:, : size // 4] = 0
    index_map[:, size // 4 : size // 2] = 2
    index_map[:, size // 2 : 3 * size // 4] = 254
    return Target.from_index_map(index_map, labels)


def losses_of(
    logits: list[Tensor], masks: Tensor, targets: list[Target], config: LossConfig, seed: int = 0
) -> Losses:
    draws = Draws.make(targets, masks.shape[1], config, torch.Generator().manual_seed(seed))
    return reading_losses(logits, masks, targets, draws, config, counted(logits, targets, config))


def counted(logits: Sequence[Tensor], targets: Sequence[Target], config: LossConfig) -> Normalisers:
    labels = [one.shape[-1] - 1 for one in logits]
    return Normalisers.count(targets, labels, logits[0].shape[0], config)


def predictions(labels: list[int], queries: int = 6) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(queries, count + 1, generator=generator, requires_grad=True) for count in labels]
    masks = torch.randn(len(labels), queries, 8, 8, generator=generator, requires_grad=True)
    return logits, masks


def test_a_target_is_read_off_an_index_map() -> None:
    target = a_target()
    assert target.labels.tolist() == [0, 2]
    assert target.masks.sum((1, 2)).tolist() == [64, 64]
    assert target.unknown(3).sum() == 64


def test_the_id_of_unknown_leaves_room_for_every_label() -> None:
    assert unknown_id(254) == 255
    assert unknown_id(255) == 65_535


@pytest.mark.parametrize("answer_weight", [0.0, 1.0])
def test_a_picture_without_any_target_trains(answer_weight: float) -> None:
    config = LossConfig(points=50, answer_weight=answer_weight)
    nothing_known = Target.from_index_map(torch.full((16, 16), 255), 3)
    logits, masks = predictions([3])
    losses_of(logits, masks, [nothing_known], config).weighted(config).backward()
    assert logits[0].grad is not None
    assert masks.grad is not None
    assert logits[0].grad.isfinite().all()
    assert logits[0].grad.abs().sum() > 0, "all queries learn to say nothing"
    assert masks.grad.eq(0).all()


def test_more_masks_than_queries_train() -> None:
    config = LossConfig(points=50)
    stripes = torch.arange(16).expand(16, 16)
    logits, masks = predictions([16], queries=4)
    losses = losses_of(logits, masks, [Target.from_index_map(stripes, 16)], config)
    assert losses.weighted(config).isfinite()


def test_pictures_with_different_vocabularies_share_a_batch() -> None:
    config = LossConfig(points=50)
    targets = [a_target(3), a_target(20)]
    logits, masks = predictions([3, 20])
    together = losses_of(logits, masks, targets, config).classification
    matches = [(torch.tensor([0, 1]), torch.tensor([0, 1])), (torch.tensor([2, 3]), torch.tensor([1, 0]))]
    wanted = [torch.tensor([0, 2, 3, 3, 3, 3]), torch.tensor([20, 20, 2, 0, 20, 20])]
    by_hand = sum(
        torch.nn.functional.cross_entropy(
            one, ids, torch.tensor([1.0] * (len(one[0]) - 1) + [0.1]), reduction="sum"
        )
        for one, ids in zip(logits, wanted, strict=True)
    )
    torch.testing.assert_close(classification_loss(logits, targets, matches, 0.1), torch.as_tensor(by_hand))
    assert together.isfinite()


def test_draws_repeat_with_the_generator() -> None:
    config = LossConfig(points=50, answer_weight=1.0)
    logits, masks = predictions([3])
    once, again, otherwise = (
        losses_of(logits, masks, [a_target()], config, seed).weighted(config) for seed in (0, 0, 1)
    )
    assert once == again
    assert once != otherwise


def test_twice_the_normaliser_halves_the_mask_losses() -> None:
    config = LossConfig(points=50)
    logits, masks = predictions([3])
    targets = [a_target()]
    draws = Draws.make(targets, 6, config, torch.Generator().manual_seed(0))
    normalisers = counted(logits, targets, config)
    one, two = (
        reading_losses(logits, masks, targets, draws, config, replace(normalisers, masks=n))
        for n in (2.0, 4.0)
    )
    torch.testing.assert_close(one.mask, 2 * two.mask)
    torch.testing.assert_close(one.dice, 2 * two.dice)
    assert one.classification == two.classification
    assert normalisers.masks == 2


def test_the_losses_of_the_parts_of_a_step_add_up() -> None:
    """However it is divided: pictures with many masks, without any, and with nothing known."""
    config = LossConfig(points=50, answer_weight=1.0, answer_points=40, nothing_weight=0.3)
    logits, masks = predictions([3, 5, 3, 3])
    unknown = Target.from_index_map(torch.full((16, 16), 255), 3)
    targets = [a_target(), a_target(5), unknown, a_target(size=8)]
    drawn = [
        Draws.make([target], 6, config, torch.Generator().manual_seed(number))
        for number, target in enumerate(targets)
    ]
    normalisers = counted(logits, targets, config)
    whole = reading_losses(logits, masks, targets, Draws.join(drawn), config, normalisers).stacked()
    for cuts in ([0, 2, 4], [0, 1, 3, 4], [0, 1, 2, 3, 4]):
        parts = [
            reading_losses(
                logits[a:b], masks[a:b], targets[a:b], Draws.join(drawn[a:b]), config, normalisers
            ).stacked()
            for a, b in pairwise(cuts)
        ]
        torch.testing.assert_close(torch.stack(parts).sum(0), whole)


def test_unknown_pixels_count_only_when_asked() -> None:
    """Mask logits over unknown pixels get a gradient as negatives, as released, or none at all."""
    gradients = {}
    for count_unknown in (True, False):
        config = LossConfig(points=4_000, count_unknown=count_unknown)
        logits, masks = predictions([3])
        losses_of(logits, masks, [a_target()], config).weighted(config).backward()
        assert masks.grad is not None
        gradients[count_unknown] = masks.grad[..., 7].abs().sum()  # the last column is well inside "unknown"
    assert gradients[True] > 0
    assert gradients[False] == 0


@pytest.mark.parametrize("count_unknown", [True, False])
def test_other_pixels_are_negatives(count_unknown: bool) -> None:
    """Over pixels known to be none of the labels every matched mask is pushed down, whatever unknown ones do."""
    config = LossConfig(points=4_000, count_unknown=count_unknown, class_weight=0)
    logits, masks = predictions([3])
    losses_of(logits, masks, [a_target()], config).weighted(config).backward()
    assert masks.grad is not None
    matched = masks.grad[0].abs().sum((1, 2)) > 0
    assert matched.sum() == 2
    over_other = masks.grad[0, matched][..., 4:6]  # descending a positive gradient lowers the logit
    assert (over_other.sum((1, 2)) > 0).all()


def test_points_are_chosen_among_known_pixels_first() -> None:
    target = a_target()
    config = LossConfig(points=40, importance=0.75)
    draws = Draws.make([target], 6, config, torch.Generator().manual_seed(0))
    points = important_points(torch.zeros(2, 8, 8), target.unknown(3), draws.oversample, draws.extra, config)
    assert (points[:, : config.important, 0] < 0.75).all()


def test_confident_right_masks_cost_nothing() -> None:
    target = a_target(size=16)
    points = torch.rand(2, 500, 2, generator=torch.Generator().manual_seed(0))
    x = (points[..., 0] * 16).floor() + 0.5  # pixel centres, so that bilinear values are the pixels' own
    y = (points[..., 1] * 16).floor() + 0.5
    points = torch.stack([x, y], dim=-1) / 16
    bce, dice = mask_losses(target.masks * 60.0 - 30.0, target.masks, none_of(target), points)
    assert bce.max() < 1e-6
    assert dice.max() < 1e-3
    bce, dice = mask_losses(target.masks * -60.0 + 30.0, target.masks, none_of(target), points)
    assert bce.min() > 10
    assert dice.min() > 0.5


def test_mask_losses_are_means_over_known_points() -> None:
    """Constant logits, three quarters of the picture known: the cross-entropy is that of a known point."""
    target = a_target()
    points = torch.rand(1, 500, 2, generator=torch.Generator().manual_seed(0))
    empty = torch.zeros(1, 16, 16, dtype=torch.bool)
    bce, _ = mask_losses(torch.full((1, 8, 8), -2.0), empty, target.unknown(3), points * 0.8 + 0.1)
    assert bce.item() == pytest.approx(np.log1p(np.exp(-2)), rel=1e-5)


def test_points_beyond_the_border_read_zero() -> None:
    values = sample_points(torch.ones(1, 2, 4, 4), torch.tensor([[[0.5, 0.5], [1.5, 0.5]]]))
    assert values.tolist() == [[[1, 0], [1, 0]]]


def answer_of(logits: Tensor, masks: Tensor, target: Target) -> Tensor:
    draws = torch.rand(1, 4_000, generator=torch.Generator().manual_seed(0))
    return answer_loss([logits], masks, [target], draws) / draws.numel()


def test_the_answer_loss_is_the_mean_over_known_pixels() -> None:
    """Against the plain formula at every pixel, for masks as fine as the picture."""
    target = a_target(size=8)
    generator = torch.Generator().manual_seed(2)
    logits, masks = torch.randn(5, 4, generator=generator), torch.randn(1, 5, 8, 8, generator=generator)
    score = torch.einsum("qk,qhw->khw", logits.softmax(-1)[:, :3], masks[0].sigmoid())
    cost_0, cost_2 = (-(score[k] / score.sum(0)).log() for k in (0, 2))
    cost_other = (1 + score.sum(0)).log()
    stripes = cost_0[:, :2], cost_2[:, 2:4], cost_other[:, 4:6]
    assert answer_of(logits, masks, target).item() == pytest.approx(
        torch.cat(stripes, 1).mean().item(), rel=0.03
    )


def test_the_answer_loss_teaches_the_answer() -> None:
    """Descending it alone names labelled pixels, and empties those known to be none of the labels."""
    target = a_target(size=8)
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(5, 4, generator=generator).requires_grad_()
    masks = torch.randn(1, 5, 8, 8, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([logits, masks], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        answer_of(logits, masks, target).backward()
        optimizer.step()
    score = torch.einsum("qk,qhw->khw", logits.softmax(-1)[:, :3], masks[0].sigmoid())
    assert score.argmax(0)[:, :2].eq(0).all()
    assert score.argmax(0)[:, 2:4].eq(2).all()
    assert score.sum(0)[:, 4:6].max() < 0.1
    assert masks.grad is not None
    assert masks.grad[0, :, :, 6:].eq(0).all(), "unknown pixels teach nothing"


def test_the_answer_loss_is_off_by_default_and_has_a_switch() -> None:
    logits, masks = predictions([3])
    off = LossConfig(points=50)
    on = replace(off, answer_weight=1.5)
    assert losses_of(logits, masks, [a_target()], off).answer == 0
    losses = losses_of(logits, masks, [a_target()], on)
    assert losses.answer > 0
    torch.testing.assert_close(losses.weighted(on), losses.weighted(off) + 1.5 * losses.answer)


def test_a_cost_that_is_not_finite_reaches_the_loss() -> None:
    """The training loop, which knows the pictures' names, stops on it."""
    config = LossConfig(points=50)
    logits, masks = predictions([3])
    broken = masks.detach().clone()
    broken[0, 0, 0, 0] = float("nan")
    assert not losses_of(logits, broken, [a_target()], config).weighted(config).isfinite()
