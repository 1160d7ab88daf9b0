"""SimSeg: each mask is named by all of CLIP, which sees that mask and nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanseg.baselines import simseg
from sanseg.baselines.masks import propose_masks, to_clips_square
from sanseg.baselines.simseg import SimSeg, boxes
from sanseg.images import Geometry
from sanseg.labelmap import label_map
from sanseg.model.san import SAN, Proposals
from sanseg.model.text import Classifier

H, W = 64, 96
FULL, CORNER, RING, FEW, EMPTY = range(5)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, H, W, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Of two pictures (2, 5, 8, 12); they take the place of the side adapter's."""
    rng = torch.Generator().manual_seed(2)
    drawn = torch.rand(2, 5, 8, 12, generator=rng) + 0.1
    sign = torch.full((2, 5, 8, 12), -1.0)
    sign[:, FULL] = 1
    sign[0, CORNER, 5:, 7:] = sign[1, CORNER, :2, :3] = 1
    sign[:, RING, 1:7, 2:10] = 1
    sign[:, RING, 3:5, 4:8] = -1
    sign[:, FEW, 3, 1] = sign[:, FEW, 6, 10] = 1
    made = drawn * sign
    monkeypatch.setattr(
        simseg, "propose_masks", lambda _, image: made[: len(image)].to(image.dtype, copy=True)
    )
    return made


def inside(mask_logits: Tensor) -> Tensor:
    """Where a mask is on the picture: its sigmoid, upsampled, above one half."""
    size = (H, W)
    upsampled = F.interpolate(mask_logits[None, None], size=size, mode="bilinear", align_corners=False)
    return upsampled[0, 0].sigmoid() > 0.5


def named(san: SAN, picture: Tensor) -> Tensor:
    """CLIP's embedding of one picture (3, y, x), stretched to its square."""
    square = F.interpolate(picture[None], size=(64, 64), mode="bicubic", align_corners=False)
    embedding: Tensor = san.clip.visual(square)[0]
    return embedding


@pytest.mark.parametrize("which", ["tiny_san", "tiny_stem_san"])
@torch.inference_mode()
def test_the_masks_are_the_sans(request: pytest.FixtureRequest, which: str, image: Tensor) -> None:
    san: SAN = request.getfixturevalue(which)
    expected = san.propose(image).mask_logits
    assert torch.equal(propose_masks(san, image), expected)
    found = SimSeg(san).propose(image)
    kept = (found.mask_logits != simseg.DROPPED).flatten(2).all(2)
    assert torch.equal(found.mask_logits[kept], expected[kept])
    assert found.embeddings.shape == (2, san.config.side.queries, san.config.clip.embed)


@torch.inference_mode()
def test_a_mask_of_everything_is_plain_clip(tiny_san: SAN, image: Tensor, masks: Tensor) -> None:
    found = SimSeg(tiny_san).propose(image)
    plain = tiny_san.clip.visual(to_clips_square(image, tiny_san.config.clip.vision))
    torch.testing.assert_close(found.embeddings[:, FULL], plain, atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_a_mask_is_cropped_and_the_mean_pixel_is_around_it(
    tiny_san: SAN, image: Tensor, masks: Tensor
) -> None:
    found = SimSeg(tiny_san).propose(image).embeddings
    for number in range(2):
        for query in (CORNER, RING, FEW):
            where = inside(masks[number, query])
            rows, columns = where.nonzero().unbind(1)
            box = (
                slice(int(rows.min()), int(rows.max()) + 1),
                slice(int(columns.min()), int(columns.max()) + 1),
            )
            blanked = image[number] * where  # normalised, the mean pixel is 0
            torch.testing.assert_close(
                found[number, query], named(tiny_san, blanked[:, *box]), atol=1e-6, rtol=1e-5
            )
    assert not torch.allclose(found[0, CORNER], found[0, RING], atol=1e-3)


@torch.inference_mode()
def test_what_lies_outside_of_a_mask_changes_nothing_of_it(
    tiny_san: SAN, image: Tensor, masks: Tensor
) -> None:
    before = SimSeg(tiny_san).propose(image).embeddings
    where = inside(masks[0, RING])
    for changed, same in ((~where, True), (where, False)):
        noise = torch.randn(3, H, W, generator=torch.Generator().manual_seed(3))
        other = torch.stack([torch.where(changed, noise, image[0]), image[1]])
        after = SimSeg(tiny_san).propose(other).embeddings
        assert torch.equal(after[0, RING], before[0, RING]) == same
        assert not torch.equal(after[0, FULL], before[0, FULL])
        assert torch.equal(after[1], before[1])


@torch.inference_mode()
def test_another_mask_changes_no_others_embedding(tiny_san: SAN, image: Tensor, masks: Tensor) -> None:
    before = SimSeg(tiny_san).propose(image).embeddings
    masks[0, RING] = masks[0, CORNER]
    after = SimSeg(tiny_san).propose(image).embeddings
    differs = (after - before).abs().amax(2) > 1e-5
    assert differs.nonzero().tolist() == [[0, RING]]


@torch.inference_mode()
def test_a_batch_equals_its_pictures(tiny_san: SAN, image: Tensor) -> None:
    together = SimSeg(tiny_san).propose(image)
    for number in range(2):
        alone = SimSeg(tiny_san).propose(image[number : number + 1])
        torch.testing.assert_close(alone.mask_logits[0], together.mask_logits[number], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.embeddings[0], together.embeddings[number], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_pieces_equal_the_whole_and_bound_what_is_encoded_at_once(
    tiny_san: SAN, image: Tensor, masks: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mask that is not empty passes CLIP once."""
    passed: list[int] = []
    visual, forward = tiny_san.clip.visual, tiny_san.clip.visual.forward

    def counting(crops: Tensor) -> Tensor:
        passed.append(len(crops))
        return forward(crops)

    monkeypatch.setattr(visual, "forward", counting)
    whole = SimSeg(tiny_san).propose(image)
    assert passed == [4, 4]
    for at_once in (1, 2, 3):
        passed.clear()
        pieces = SimSeg(tiny_san, at_once).propose(image)
        assert sum(passed) == 8
        assert max(passed) == at_once
        torch.testing.assert_close(pieces.embeddings, whole.embeddings, atol=1e-6, rtol=1e-5)
        assert torch.equal(pieces.mask_logits, whole.mask_logits)
    with pytest.raises(ValueError, match="at_once is 0: give at least 1"):
        SimSeg(tiny_san, 0)


@torch.inference_mode()
def test_an_empty_mask_is_as_if_it_had_not_been_proposed(tiny_san: SAN, image: Tensor, masks: Tensor) -> None:
    """Even where it lies just below the threshold, and the others far below."""
    masks[0, EMPTY] = -0.01
    masks[0, :EMPTY, :4] -= 30
    found = SimSeg(tiny_san).propose(image)
    assert found.embeddings.isfinite().all()
    nothing = F.normalize(tiny_san.nothing, dim=-1)
    torch.testing.assert_close(found.embeddings[:, EMPTY], nothing.expand(2, -1))
    rows = F.normalize(torch.randn(6, 24, generator=torch.Generator().manual_seed(4)), dim=-1)
    classifier = Classifier.build(rows, tiny_san.nothing, tiny_san.clip.logit_scale)

    def answer(queries: list[int]) -> tuple[Tensor, Tensor]:
        logits, embeddings = found.mask_logits[0, queries], found.embeddings[0, queries]
        geometry = Geometry((H, W), (H, W), (H, W))
        ids, share = label_map(logits, classifier.probabilities(embeddings), classifier.row_label, geometry)
        return torch.from_numpy(ids), torch.from_numpy(share)

    kept = [query for query in range(5) if found.mask_logits[0, query].max() > simseg.DROPPED]
    assert EMPTY not in kept
    for with_it, without in zip(answer([*range(5)]), answer(kept), strict=True):
        torch.testing.assert_close(with_it, without, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_picture_without_any_mask_is_finite(tiny_san: SAN, image: Tensor, masks: Tensor) -> None:
    masks[0] = -1
    found: Proposals = SimSeg(tiny_san).propose(image)
    assert found.embeddings.isfinite().all()
    assert (found.mask_logits[0] == simseg.DROPPED).all()
    assert (found.mask_logits[1, FULL] > 0).all()


def test_boxes_are_tight() -> None:
    where = torch.zeros(4, 5, 7, dtype=torch.bool)
    where[0, 1:3, 2] = where[0, 4, 6] = True
    where[1] = True
    where[2, 0, 0] = True
    expected = [(slice(1, 5), slice(2, 7)), (slice(0, 5), slice(0, 7)), (slice(0, 1), slice(0, 1)), None]
    assert boxes(where) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_is_close(tiny_san: SAN, image: Tensor, masks: Tensor, dtype: torch.dtype) -> None:
    full = SimSeg(tiny_san).propose(image).embeddings
    half = SimSeg(tiny_san.to(dtype)).propose(image.to(dtype)).embeddings
    assert half.dtype == dtype
    assert F.cosine_similarity(half.float(), full, dim=-1).min() > 0.99
