"""A fresh side adapter on any CLIP: the CLIP stays what it was, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sanseg.model.fresh import fresh_san
from sanseg.model.san import SAN
from sanseg.model.weights import load_san, save_san, seen_labels

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install '.[test]'")

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 64, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Makes open_clip know a model "small"; tests may change its description before they use it."""
    described = {name: dict(value) if isinstance(value, dict) else value for name, value in SMALL.items()}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", described)
    return described


def weights_file(path: Path) -> Path:
    torch.manual_seed(0)
    state = open_clip.create_model("small").state_dict()
    state = {
        name: value + 0.02 * torch.randn_like(value)
        for name, value in state.items()
        if value.is_floating_point()
    }
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items() if name != "attn_mask"}, path)
    else:
        torch.save(state, path)
    return path


def test_a_fresh_adapter_keeps_the_clip_and_nothing_of_the_adapter(tiny_san: SAN) -> None:
    fresh = fresh_san(tiny_san)
    assert fresh.config == tiny_san.config
    for name, value in tiny_san.clip.state_dict().items():
        assert fresh.clip.state_dict()[name].equal(value), name
    for name, value in tiny_san.trained().items():
        if not name.startswith("clip.") and value.numel() > 1 and "norm" not in name and "bias" not in name:
            assert not fresh.state_dict()[name].equal(value), name
    assert {n for n, p in fresh.named_parameters() if p.requires_grad} == set(fresh.trained())
    assert fresh_san(tiny_san).nothing.equal(fresh.nothing)
    assert not fresh_san(tiny_san, seed=1).nothing.equal(fresh.nothing)


def test_a_fresh_adapter_may_have_another_shape(tiny_san: SAN) -> None:
    side = replace(tiny_san.config.side, bias="mask", fusion=(), queries=5)
    fresh = fresh_san(tiny_san, side)
    assert fresh.config == replace(tiny_san.config, side=side)
    assert fresh.propose(torch.randn(1, 3, 64, 64)).embeddings.shape == (1, 5, 24)


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_clip_of_open_clip(small: dict[str, Any], tmp_path: Path, file: str, quick_gelu: bool) -> None:
    small["quick_gelu"] = quick_gelu
    path = weights_file(tmp_path / file)
    theirs = open_clip.create_model("small").eval()
    open_clip.load_checkpoint(theirs, str(path))
    san = load_san(f"open_clip:small:{path}")
    clip = san.config.clip
    assert (clip.vision.heads, clip.vision.grid, clip.quick_gelu) == (4, 4, quick_gelu)
    assert san.config.split == 3
    assert san.config.side.fusion == ((0, 0), (1, 1), (2, 2), (3, 3))
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            san.clip.visual(image), theirs.encode_image(image, normalize=True), atol=1e-5, rtol=0
        )
    assert san.clip.logit_scale.equal(theirs.logit_scale)
    san.propose(torch.randn(1, 3, 320, 320)).embeddings.sum().backward()
    assert san.clip.visual.position.grad is not None


def test_an_adapter_on_a_clip_of_open_clip_names_it(small: dict[str, Any], tmp_path: Path) -> None:
    base = f"open_clip:small:{weights_file(tmp_path / 'weights.safetensors')}"
    san = load_san(base)
    san.labels = ("sky", "tree")
    save_san(tmp_path / "adapter.safetensors", san, "adapter")
    again = load_san(tmp_path / "adapter.safetensors", clip=base)
    assert all(again.state_dict()[name].equal(value) for name, value in san.state_dict().items())
    assert seen_labels(tmp_path / "adapter.safetensors") == again.labels == ("sky", "tree")


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("open_clip:small", "names no weights: write open_clip:NAME:PRETRAINED"),
        ("open_clip:smaller:x.pt", "no model 'smaller'"),
        ("open_clip:small:x.pt", "'x.pt' is neither a file nor weights of small"),
        ("open_clip:ViT-B-16:x", "choose from openai"),
        ("open_clip:RN50:openai", "RN50 is no plain ViT"),
        ("open_clip:ViT-B-16-SigLIP:webli", "no plain ViT"),
    ],
)
def test_what_is_no_clip_is_refused(small: dict[str, Any], specification: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_san(specification)


def test_weights_of_another_model_are_refused(small: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"other\.pt does not hold this model's weights"):
        load_san(f"open_clip:small:{path}")
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"other\.pt"):
        load_san(f"open_clip:small:{path}")


@pytest.mark.parametrize(
    ("tower", "field", "value"),
    [
        ("vision_cfg", "no_ln_pre", True),
        ("vision_cfg", "pool_type", "avg"),
        ("text_cfg", "no_causal_mask", True),
    ],
)
def test_a_clip_that_computes_something_else_is_refused(
    small: dict[str, Any], tmp_path: Path, tower: str, field: str, value: object
) -> None:
    small[tower][field] = value
    path = weights_file(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"gives other embeddings|not open_clip's small"):
        load_san(f"open_clip:small:{path}")


def test_blocks_that_four_does_not_divide_are_refused(small: dict[str, Any], tmp_path: Path) -> None:
    small["vision_cfg"]["layers"] = 6
    with pytest.raises(ValueError, match="6 blocks"):
        load_san(f"open_clip:small:{weights_file(tmp_path / 'weights.safetensors')}")
