"""Training is the official training: gradients, four steps, groups and learning rates, on the golden numbers."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanseg.data.stream import Batch
from sanseg.losses import Draws, LossConfig, Target
from sanseg.model.config import (
    SAN_VIT_B16,
    SAN_VIT_L14,
    SANConfig,
)
from sanseg.model.keymaps import official_name
from sanseg.model.san import SAN
from sanseg.train import (
    Part,
    Report,
    TrainConfig,
    begin_training,
    count,
    learning_rate,
    make_optimizer,
    step,
    trainable,
)
from tests.parity.case import Case

CASES = ("default", "l14like")


class Golden(Case):
    """A case, and four steps of its training."""

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def batch(self) -> Batch:
        """Both resized pictures, normalised and padded together."""
        images = torch.zeros(2, 3, 192, 224)
        mean, std = (255 * torch.tensor(x).view(3, 1, 1) for x in (self.config.mean, self.config.std))
        for number in range(2):
            picture = self.tensor(f"image{number}_resized").permute(2, 0, 1)
            images[number, :, : picture.shape[1], : picture.shape[2]] = (picture - mean) / std
        return Batch(("one", "two"), images, torch.zeros(2, 192, 224, dtype=torch.int64), (0, 0))

    def targets(self) -> list[Target]:
        targets = []
        for number in range(2):
            content = self.tensor(f"tgt{number}_masks")
            masks = torch.zeros(len(content), 192, 224, dtype=torch.bool)
            masks[:, : content.shape[1], : content.shape[2]] = content
            known = torch.zeros(192, 224, dtype=torch.int64)
            targets.append(Target(self.tensor(f"tgt{number}_labels"), masks, known))
        return targets

    def draws(self) -> list[Draws]:
        """The points as they were chosen: with importance 0, `extra` is used as it is."""
        return [
            Draws(
                matching=self.tensor(f"train_{reading}_match_points"),
                oversample=torch.zeros(7, 100, 2),
                extra=self.tensor(f"train_{reading}_loss_points"),
                answer=torch.zeros(2, 0),
            )
            for reading in ("aux0", "main")
        ]

    def recipe(self) -> TrainConfig:
        told = self.trained["optimizer_steps"]
        return TrainConfig(
            iterations=told["max_iter"],
            lr=told["base_lr"],
            power=told["power"],
            clip=told["clip"],
            loss=LossConfig(points=100, oversample=1, importance=0),
        )

    def step_with(self, rows: list[Tensor]) -> Report:
        """A step on pictures of the first of these sets."""
        config = self.recipe()
        part = Part(self.batch(), tuple(self.targets()), tuple(self.draws()))
        normalisers = count([part], self.san, rows, config)
        return step(self.san, begin_training(self.san, config), [part], rows, normalisers, config, 0)

    def steps(self, number: int, config: TrainConfig) -> list[Report]:
        training = begin_training(self.san, config)
        part = Part(self.batch(), tuple(self.targets()), tuple(self.draws()))
        rows = [self.tensor("text_no_bg")]
        normalisers = count([part], self.san, rows, config)
        return [
            step(self.san, training, [part], rows, normalisers, config, iteration)
            for iteration in range(number)
        ]


@cache
def load_golden(folder: Path) -> Golden:
    return Golden(folder)


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return deepcopy(load_golden(shared / "golden" / request.param))


def by_official_name(golden: Golden) -> dict[str, torch.nn.Parameter]:
    names = trainable(golden.san).items()
    return {official_name(ours, golden.config.split): parameter for ours, parameter in names}


def test_gradients_equal_the_official_ones(golden: Golden) -> None:
    """Each parameter's gradient after clipping is the official one before, times 0.01 / the total norm."""
    (report,) = golden.steps(1, golden.recipe())
    assert report.norm == pytest.approx(golden.trained["total_grad_norm"], rel=2e-6)
    clipped = golden.trained["optimizer_steps"]["clip"] / report.norm
    parameters = by_official_name(golden)
    assert parameters.keys() == golden.trained["grad"].keys()
    stored = 0
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        gradient = parameter.grad / clipped
        official = golden.trained["grad_l2_float64"][name]
        assert gradient.norm().item() == pytest.approx(official, rel=1e-4), name
        if f"grad::{name}" in golden.arrays:
            stored += 1
            whole = golden.tensor(f"grad::{name}").reshape(gradient.shape)
            assert (gradient - whole).norm() <= 1e-4 * whole.norm(), name
    assert stored == 26


def test_four_steps_equal_the_official_ones(golden: Golden) -> None:
    before = {name: parameter.detach().clone() for name, parameter in by_official_name(golden).items()}
    told = golden.trained["optimizer_steps"]
    for report, official in zip(golden.steps(4, golden.recipe()), told["steps"], strict=True):
        assert report.total == pytest.approx(official["total"], rel=1e-5)
        for suffix, losses in zip(("_0", ""), report.losses, strict=True):
            weighted = 2 * losses.classification, 5 * losses.mask, 5 * losses.dice
            wanted = [official["losses"][f"loss_{name}{suffix}"] for name in ("ce", "mask", "dice")]
            assert [loss.item() for loss in weighted] == pytest.approx(wanted, rel=2e-5)
    for name, parameter in by_official_name(golden).items():
        norm, change = told["param_final_norm_and_change_norm"][name]
        assert parameter.norm().item() == pytest.approx(norm, rel=3e-5), name
        rounding = 4 * 6e-8 * norm  # of four changes to what float32 holds
        moved = (parameter - before[name]).norm().item()
        assert moved == pytest.approx(change, rel=5e-4, abs=rounding), name


def test_each_step_has_a_gradient_of_its_own(golden: Golden) -> None:
    one, two = golden.steps(2, replace(golden.recipe(), lr=0, clip=1e9))
    assert one.total == two.total
    assert one.norm == two.norm


def test_each_picture_is_scored_against_its_own_sets_labels(golden: Golden) -> None:
    """The second picture's set has the same labels in another order: nothing changes."""
    (together,) = deepcopy(golden).steps(1, golden.recipe())
    rows = golden.tensor("text_no_bg")
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    one, two = golden.targets()
    two = replace(two, labels=order.argsort()[two.labels])
    batch = replace(golden.batch(), sources=(0, 1))
    part = Part(batch, (one, two), tuple(golden.draws()))
    config, both = golden.recipe(), [rows, rows[order]]
    normalisers = count([part], golden.san, both, config)
    apart = step(golden.san, begin_training(golden.san, config), [part], both, normalisers, config, 0)
    assert apart.total == pytest.approx(together.total, rel=1e-6)
    assert apart.norm == pytest.approx(together.norm, rel=1e-6)


def test_the_labels_of_another_set_have_no_say(golden: Golden) -> None:
    """What is none of a set's own labels may well be another's: those are no rivals, in classes or "nothing"."""
    rows = golden.tensor("text_no_bg")
    alone = deepcopy(golden).step_with([rows])
    crowded = golden.step_with([rows, -rows])
    assert (crowded.total, crowded.norm) == (alone.total, alone.norm)


@pytest.mark.parametrize(
    ("config", "key"), [(SAN_VIT_B16, "san_vit_b_16"), (SAN_VIT_L14, "san_vit_large_14")]
)
def test_optimizer_and_schedule_are_the_released_ones(shared: Path, config: SANConfig, key: str) -> None:
    told = json.loads((shared / "golden" / "optim_schedule.json").read_text())[key]
    with torch.device("meta"):
        san = SAN(config)
    recipe = TrainConfig()
    assert (recipe.iterations, recipe.batch) == (told["max_iter"], told["ims_per_batch"])
    assert recipe.clip == 0.01
    for iteration, rate in told["lr_at_iteration"].items():
        assert learning_rate(int(iteration), recipe) == pytest.approx(rate, rel=1e-9)
    names = {id(parameter): official_name(name, config.split) for name, parameter in trainable(san).items()}
    ours = {
        names[id(parameter)]: [group[key] for key in ("lr", "weight_decay", "betas", "eps")]
        for group in make_optimizer(san, recipe).param_groups
        for parameter in group["params"]
    }
    assert ours == {
        group["name"]: [group["lr"], group["weight_decay"], tuple(group["betas"]), group["eps"]]
        for group in told["param_groups"]
    }
