"""MaskCLIP: mask class tokens ride beside CLIP's own, which stay exact, and each reads what its mask covers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanseg.baselines import maskclip
from sanseg.baselines.maskclip import MaskCLIP
from sanseg.baselines.masks import to_clips_square
from sanseg.model.san import SAN
from sanseg.model.transformer import Block

FULL, CORNER, EDGE, EMPTY, ALSO_EMPTY = range(5)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Of two pictures (2, 5, 8, 12); they take the place of the side adapter's."""
    drawn = torch.rand(2, 5, 8, 12, generator=torch.Generator().manual_seed(2)) + 0.1
    sign = torch.full((2, 5, 8, 12), -1.0)
    sign[:, FULL] = 1
    sign[0, CORNER, 5:, 7:] = sign[1, CORNER, :2, :3] = 1
    sign[:, EDGE, 3, :] = 1
    made = drawn * sign
    monkeypatch.setattr(
        maskclip, "propose_masks", lambda _, image: made[: len(image)].to(image.dtype, copy=True)
    )
    return made


def square(san: SAN, image: Tensor) -> Tensor:
    return to_clips_square(image, san.config.clip.vision)


def as_released(san: SAN, image: Tensor, mask_logits: Tensor) -> Tensor:
    """The released code's way: one attention over [mask class; class; patches], closed where a mask is not."""
    visual, config = san.clip.visual, san.config.clip.vision
    side, Q, N = config.grid * config.patch, mask_logits.shape[1], config.heads
    masks = F.interpolate(mask_logits, size=(side, side), mode="bilinear", align_corners=False)
    covered = F.max_pool2d((masks.sigmoid() >= 0.5).float(), config.patch).flatten(2)
    x = visual.shallow(square(san, image), 0, ()).tokens
    x = torch.cat([x[:, :1].expand(-1, Q, -1), x], dim=1)
    B, L, _ = x.shape
    closed = torch.zeros(B, 1, L, L, dtype=torch.bool)
    closed[..., :Q] = True
    closed[:, 0, :Q, Q + 1 :] = covered == 0
    for block in visual.blocks:
        q, k, v = block.qkv(block.norm_1(x)).view(B, L, 3, N, -1).permute(2, 0, 3, 1, 4)
        logits = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(closed, float("-inf"))
        x = x + block.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + block.down(block.activation(block.up(block.norm_2(x))))
    return visual.embed(x[:, :Q])


@torch.inference_mode()
def test_riders_are_one_attention_over_the_whole_matrix(tiny_san: SAN, image: Tensor, masks: Tensor) -> None:
    found = MaskCLIP(tiny_san).propose(image)
    torch.testing.assert_close(found.embeddings, as_released(tiny_san, image, masks), atol=2e-6, rtol=1e-5)
    assert torch.equal(found.mask_logits, masks)


@pytest.mark.parametrize("which", ["tiny_san", "tiny_stem_san"])
@torch.inference_mode()
def test_the_masks_are_the_sans(request: pytest.FixtureRequest, which: str, image: Tensor) -> None:
    san: SAN = request.getfixturevalue(which)
    found = MaskCLIP(san).propose(image)
    assert torch.equal(found.mask_logits, san.propose(image).mask_logits)
    assert found.embeddings.shape == (2, san.config.side.queries, san.config.clip.embed)
    assert found.embeddings.isfinite().all()


@torch.inference_mode()
def test_a_mask_of_everything_is_plain_clip(tiny_san: SAN, image: Tensor, masks: Tensor) -> None:
    found = MaskCLIP(tiny_san).propose(image).embeddings
    plain = tiny_san.clip.visual(square(tiny_san, image))
    torch.testing.assert_close(found[:, FULL], plain, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(found[:, CORNER], plain, atol=1e-3)


@torch.inference_mode()
def test_what_the_stem_guesses_is_joined_as_plain_clip_does(
    tiny_seeing_san: SAN, image: Tensor, masks: Tensor
) -> None:
    san = tiny_seeing_san
    masks[:, FULL] = 40  # all of each place
    found = MaskCLIP(san).propose(image)
    plain = san.clip.visual(square(san, image))
    torch.testing.assert_close(found.embeddings[:, FULL], plain, atol=2e-6, rtol=1e-5)
    assert found.seen is not None
    torch.testing.assert_close(found.seen.sum(-1), torch.ones(found.seen.shape[:2]), atol=1e-3, rtol=0)


@torch.inference_mode()
def test_clips_own_tokens_are_exact(
    tiny_san: SAN, image: Tensor, masks: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[Tensor] = []
    riders: list[Tensor] = []
    beside = Block.beside

    def recording(
        self: Block, sls: Tensor, context: Tensor, mask: Tensor, *, last: bool
    ) -> tuple[Tensor, Tensor]:
        contexts.append(context)
        riders.append(sls)
        return beside(self, sls, context, mask, last=last)

    monkeypatch.setattr(Block, "beside", recording)
    MaskCLIP(tiny_san).propose(image)
    visual = tiny_san.clip.visual
    assert len(contexts) == len(visual.blocks), "through all of CLIP's blocks"
    for passed, (context, rider) in enumerate(zip(contexts, riders, strict=True)):
        plain = visual.shallow(square(tiny_san, image), passed, ()).tokens
        assert torch.equal(context, plain)
        torch.testing.assert_close(rider[:, -1], plain[:, 0], atol=2e-6, rtol=1e-5)


@torch.inference_mode()
def test_another_mask_changes_no_others_embedding(tiny_san: SAN, image: Tensor, masks: Tensor) -> None:
    before = MaskCLIP(tiny_san).propose(image).embeddings
    masks[0, EDGE] = masks[0, CORNER]
    after = MaskCLIP(tiny_san).propose(image).embeddings
    differs = (after - before).abs().amax(2) > 1e-5
    assert differs.nonzero().tolist() == [[0, EDGE]]


@torch.inference_mode()
def test_a_batch_equals_its_pictures(tiny_san: SAN, image: Tensor) -> None:
    together = MaskCLIP(tiny_san).propose(image)
    for number in range(2):
        alone = MaskCLIP(tiny_san).propose(image[number : number + 1])
        torch.testing.assert_close(alone.mask_logits[0], together.mask_logits[number], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.embeddings[0], together.embeddings[number], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_an_empty_mask_reads_the_class_token_alone(tiny_san: SAN, image: Tensor, masks: Tensor) -> None:
    """So it is finite, and two of them are the same; but it is a proposal like the others, as released."""
    found = MaskCLIP(tiny_san).propose(image).embeddings
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, EMPTY], found[:, ALSO_EMPTY])
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_is_close(tiny_san: SAN, image: Tensor, masks: Tensor, dtype: torch.dtype) -> None:
    full = MaskCLIP(tiny_san).propose(image).embeddings
    half = MaskCLIP(tiny_san.to(dtype)).propose(image.to(dtype)).embeddings
    assert half.dtype == maskclip.attention_mask(masks.to(dtype), tiny_san.config.clip.vision).dtype == dtype
    assert F.cosine_similarity(half.float(), full, dim=-1).min() > 0.99
