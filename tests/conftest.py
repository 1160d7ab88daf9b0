"""What every test may use: a tiny random SAN, and the facts that lie beside the project."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sanseg.data.datasets import SegmentationSet
from sanseg.model.config import CLIPConfig, SANConfig, SideAdapterConfig, TextConfig, VisionConfig
from sanseg.model.san import SAN
from sanseg.segmenter import Segmenter
from tests.data.test_datasets import stripes, write_set

SHARED = Path(__file__).parents[2] / "shared"

TINY = SANConfig(
    name="tiny",
    clip=CLIPConfig(
        name="tiny-clip",
        embed=24,
        vision=VisionConfig(width=32, layers=4, heads=4, patch=16, grid=4),
        text=TextConfig(width=24, layers=2, heads=2, context=77, merges=1_000),
    ),
    side=SideAdapterConfig(
        width=24,
        layers=4,
        heads=3,
        grid=4,
        queries=7,
        fusion=((0, 0), (2, 1), (3, 2)),
        readings=(3, 4),
        hidden=16,
        channels=12,
    ),
    split=3,
    clip_scale=0.5,
    short_side=64,
    long_side=256,
)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache: what is known there could hide that the code is wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers, label sets and pictures."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED.name}/ with the golden numbers is not beside the project")
    return SHARED


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Torch computes with three threads meanwhile, however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_config() -> SANConfig:
    return TINY


@pytest.fixture
def tiny_san() -> SAN:
    """A random SAN that answers in milliseconds, in eval mode, the same each time."""
    return make_san(TINY)


@pytest.fixture
def segmenter(tiny_san: SAN) -> Segmenter:
    return Segmenter(tiny_san)


@pytest.fixture
def tiny_stem_san() -> SAN:
    """As `tiny_san`, on a convolutional stem with masks at stride 8, as the model in the box has it."""
    vision = replace(TINY.clip.vision, stem="efficientnet-lite0")
    config = replace(
        TINY, clip=replace(TINY.clip, vision=vision), side=replace(TINY.side, mask_stride=8), clip_scale=1.0
    )
    return make_san(config)


@pytest.fixture
def tiny_seeing_san(tiny_stem_san: SAN) -> SAN:
    """As `tiny_stem_san`, whose stem has a classifier of six classes that knows what they are kinds of."""
    config = tiny_stem_san.config
    vision = replace(config.clip.vision, classes=6, kinds=True)
    return make_san(replace(config, clip=replace(config.clip, vision=vision)))


def make_san(config: SANConfig) -> SAN:
    """A SAN whose every weight is drawn from one seed, zero biases and unit norms included."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        san = SAN(config).eval()
        for parameter in san.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return san


@pytest.fixture
def sets(tmp_path: Path) -> list[SegmentationSet]:
    """Two sets with labels of their own; one of their pictures is other all over."""
    large = stripes().repeat(6, 0).repeat(6, 1)
    only_other = np.full_like(large, 254)
    pets = {"p0": large, "p1": large.T.copy(), "p2": only_other}
    plants = {f"q{number}": np.roll(large, 13 * number, 0) for number in range(2)}
    pets_folder = write_set(tmp_path / "pets", pets, ["cat | kitten", "dog", "horse"], other=254)
    plants_folder = write_set(tmp_path / "plants", plants, ["fern", "oak"], other=254)
    return [SegmentationSet.open(pets_folder), SegmentationSet.open(plants_folder)]
