"""Several views of a picture: sizes and the mirror, their scores averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sanseg.model.san import SAN, Proposals
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Segmenter
from sanseg.views import MultiView

WORDS = "sky, tree | woods, cat, wall, floor"


@pytest.fixture
def image() -> NDArray[np.uint8]:
    small = np.random.default_rng(3).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((90, 60), Image.Resampling.BICUBIC))


def differ(one: Segmentation, two: Segmentation) -> float:
    """The share of pixels."""
    return float((one.label_map != two.label_map).mean())


def test_one_view_answers_as_the_segmenter_to_the_bit(segmenter: Segmenter, image: NDArray[np.uint8]) -> None:
    for other in (None, "auto"):
        view, plain = MultiView(segmenter)(image, WORDS, other), segmenter(image, WORDS, other)
        np.testing.assert_array_equal(view.label_map, plain.label_map)
        np.testing.assert_array_equal(view.confidence, plain.confidence)
        assert view.vocabulary == plain.vocabulary
        assert view.to_dict() == plain.to_dict()
        assert view.image is not None
        np.testing.assert_array_equal(view.image, image)


def test_the_mirrored_picture_has_the_mirrored_answer(segmenter: Segmenter, image: NDArray[np.uint8]) -> None:
    """Only with the flip: the network alone does not see left and right alike."""
    mirrored = np.ascontiguousarray(image[:, ::-1])
    both = MultiView(segmenter, flip=True)
    there, back = both(image, WORDS, None), both(mirrored, WORDS, None)
    np.testing.assert_allclose(back.confidence[:, ::-1], there.confidence, atol=1e-5)
    assert (back.label_map[:, ::-1] != there.label_map).mean() < 0.002
    alone = segmenter(image, WORDS, None), segmenter(mirrored, WORDS, None)
    assert np.abs(alone[1].confidence[:, ::-1] - alone[0].confidence).max() > 1e-3


def test_each_scale_and_the_flip_change_the_answer(segmenter: Segmenter, image: NDArray[np.uint8]) -> None:
    answers = [
        MultiView(segmenter, scales, flip=flip)(image, WORDS, None)
        for scales, flip in (((1,), False), ((1.25,), False), ((1, 1.25), False), ((1, 1.25), True))
    ]
    for number, one in enumerate(answers):
        for two in answers[:number]:
            assert np.abs(one.confidence - two.confidence).max() > 1e-3


def test_pictures_are_seen_in_the_sizes_asked_for(tiny_san: SAN, image: NDArray[np.uint8]) -> None:
    """60 x 90 at short sides of 48, 64 and 80, padded to multiples of 32; the mirror shares its pass."""
    seen: list[tuple[int, ...]] = []

    class Watched:
        def propose(self, image_B3HW: Tensor) -> Proposals:
            seen.append(tuple(image_B3HW.shape))
            return tiny_san.propose(image_B3HW)

    segmenter = Segmenter(tiny_san, proposer=Watched())
    MultiView(segmenter, (0.75, 1, 1.25), flip=True)(image, WORDS)
    assert seen == [(2, 3, 64, 96), (2, 3, 64, 96), (2, 3, 96, 128)]


def test_each_view_counts_alike(segmenter: Segmenter, image: NDArray[np.uint8]) -> None:
    """The order of the views does not matter."""
    one, two = (MultiView(segmenter, scales)(image, WORDS, None) for scales in ((0.75, 1.5), (1.5, 0.75)))
    np.testing.assert_allclose(one.confidence, two.confidence, atol=1e-5)
    assert differ(one, two) < 0.002


@pytest.mark.parametrize(
    ("scales", "reason"),
    [
        ((), "give at least one"),
        ((1, 1.0), "each once"),
        ((0.1,), "a scale is 0.1: wanted 0.25 to 3"),
        ((1, 5.0), "a scale is 5.0"),
        ((float("nan"),), "a scale is nan"),
    ],
)
def test_scales_that_make_no_sense_are_refused(
    segmenter: Segmenter, scales: tuple[float, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        MultiView(segmenter, scales)


def test_half_precision_sees_its_own_type(tiny_san: SAN, image: NDArray[np.uint8]) -> None:
    half = Segmenter(tiny_san.to(torch.bfloat16))
    assert MultiView(half, (1, 1.25), flip=True)(image, WORDS).label_map.shape == image.shape[:2]
