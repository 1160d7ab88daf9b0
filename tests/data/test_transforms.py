"""What happens to a picture happens to its map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from sanseg.data.transforms import Augmentation, augment, distort_colour, draw_crop, to_tensors

PLAIN = Augmentation(short_side=40, scale=(1.0, 1.0), crop=64, flip=0.0, colour=0.0)


def a_picture(height: int = 40, width: int = 60) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Blocks of 10 pixels whose colour says their index."""
    blocks = np.arange(height // 10 * (width // 10), dtype=np.uint8).reshape(height // 10, width // 10)
    index_map = blocks.repeat(10, 0).repeat(10, 1)
    return (index_map * 8)[..., None].repeat(3, 2), index_map


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_nothing_to_do_changes_nothing() -> None:
    image, index_map = a_picture()
    view, index_view = augment(image, index_map, PLAIN, rng())
    assert (view == image).all()
    assert (index_view == index_map).all()
    assert index_view.dtype == np.uint8


@pytest.mark.parametrize("seed", range(8))
def test_picture_and_map_stay_together(seed: int) -> None:
    """Inside the blocks the colour still says the index, whatever was scaled, cut and mirrored."""
    image, index_map = a_picture()
    augmentation = replace(PLAIN, short_side=60, scale=(0.8, 1.5), crop=48, flip=0.5)
    view, index_view = augment(image, index_map, augmentation, rng(seed))
    assert view.shape == (48, 48, 3)
    assert index_view.shape == (48, 48)
    agree = np.abs(view[..., 0].astype(int) - 8 * index_view.astype(int)) <= 1
    assert agree.mean() > 0.7
    assert len(np.unique(index_view)) > 2


def test_mirroring_mirrors_both() -> None:
    image, index_map = a_picture()
    view, index_view = augment(image, index_map, replace(PLAIN, flip=1.0), rng())
    assert (view == image[:, ::-1]).all()
    assert (index_view == index_map[:, ::-1]).all()


def test_scale_is_drawn_in_steps_of_a_tenth_of_the_short_side() -> None:
    image, index_map = a_picture()
    augmentation = replace(PLAIN, scale=(0.5, 1.5), crop=640)
    heights = {augment(image, index_map, augmentation, rng(seed))[1].shape[0] for seed in range(200)}
    assert heights == {20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60}


def test_crops_lie_inside_the_picture_and_everywhere_in_it() -> None:
    augmentation = replace(PLAIN, crop=32)
    boxes = np.array([draw_crop((41, 67), augmentation, 1.3, rng(seed))[1] for seed in range(300)])
    assert boxes.min() == 0
    assert boxes[:, 2].max() == 67
    assert boxes[:, 3].max() == 41
    assert np.allclose(boxes[:, 2] - boxes[:, 0], 32 * 67 / 85)


def test_16_bit_maps_keep_their_ids() -> None:
    image, index_map = a_picture()
    wide = index_map.astype(np.uint16) + 65_500
    _, index_view = augment(image, wide, replace(PLAIN, short_side=80, crop=160), rng())
    assert index_view.dtype == np.uint16
    assert set(np.unique(index_view)) == set(np.unique(wide))


def test_colour_changes_the_picture_as_the_generator_says() -> None:
    image = rng().integers(0, 255, (20, 20, 3), dtype=np.uint8)
    changed = [distort_colour(image, 1.0, rng(seed)) for seed in (1, 1, 2)]
    assert (changed[0] == changed[1]).all()
    assert (changed[0] != changed[2]).any()
    slightly = distort_colour(image, 0.1, rng(1))
    distance = [np.abs(one.astype(int) - image).mean() for one in (slightly, changed[0])]
    assert 0 < distance[0] < distance[1]
    left_alone = [(distort_colour(image, 1.0, rng(seed)) == image).all() for seed in range(100)]
    assert 0 < sum(left_alone) < 20, "one in sixteen"


def test_tensors_are_normalised_then_padded() -> None:
    image, index_map = a_picture()
    x, indices = to_tensors(image, index_map, 64, (0.5, 0.4, 0.3), (0.2, 0.2, 0.3), unknown=255)
    assert x.shape == (3, 64, 64)
    assert x[:, 39, 59].tolist() == pytest.approx(
        [(184 - 255 * m) / (255 * s) for m, s in ((0.5, 0.2), (0.4, 0.2), (0.3, 0.3))], abs=1e-5
    )
    assert x[:, 40:].abs().sum() == x[:, :, 60:].abs().sum() == 0
    assert (indices[:40, :60].numpy() == index_map).all()
    assert (indices[40:] == 255).all()
    assert (indices[:, 60:] == 255).all()
