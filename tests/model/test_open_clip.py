"""Our CLIP towers and tokenizer give what open_clip's give, with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sanseg.model.clip import CLIP
from sanseg.model.config import CLIPConfig, TextConfig, VisionConfig
from sanseg.model.keymaps import from_open_clip
from sanseg.model.tokenizer import Tokenizer

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install '.[test]'")

LAYERS = 4  # of each tower; widths, heads, patches and grids are the real ones
SHAPES = {
    "ViT-B-16": (512, VisionConfig(768, LAYERS, 12, 16, 14), TextConfig(512, LAYERS, 8)),
    "ViT-B-32": (512, VisionConfig(768, LAYERS, 12, 32, 7), TextConfig(512, LAYERS, 8)),
    "ViT-L-14-336": (768, VisionConfig(1024, LAYERS, 16, 14, 24), TextConfig(768, LAYERS, 12)),
}
ODD = [
    "a photo of a cat.",
    "naïve café, déjà vu",
    "a 🐈‍⬛ and a 🏳️‍🌈",
    "AT&amp;T &amp;lt;sign&amp;gt;",
    "don't, we'll, it's, I'D",
    "ï»¿broken â€œquotesâ€\x9d",
    "日本語 と ｆｕｌｌｗｉｄｔｈ",
    "x" * 400,
    "word " * 100,
    "<end_of_text> inside <start_of_text>",
    "under_score 12345 1/2 №",
    "  folded \t\n spaces  ",
    "",
]


@pytest.fixture(params=[(name, quick) for name in SHAPES for quick in (True, False)], ids=str, scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[CLIP, Any]:
    """Ours and open_clip's, with open_clip's random weights."""
    name, quick_gelu = request.param
    embed, vision, text = SHAPES[name]
    torch.manual_seed(0)
    theirs = open_clip.model.CLIP(
        embed,
        {
            "image_size": vision.grid * vision.patch,
            "layers": vision.layers,
            "width": vision.width,
            "patch_size": vision.patch,
        },
        {
            "context_length": text.context,
            "vocab_size": text.vocabulary_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
        quick_gelu=quick_gelu,
    ).eval()
    for parameter in theirs.parameters():  # biases and norms are drawn as trivial values: disturb them too
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    ours = CLIP(CLIPConfig(name, embed, vision, text, quick_gelu)).eval()
    ours.load_state_dict(from_open_clip(theirs.state_dict(), ours.config))
    return ours, theirs


@torch.inference_mode()
def test_every_block_and_the_feature_are_equal(pair: tuple[CLIP, Any]) -> None:
    ours, theirs = pair
    side = ours.config.vision.grid * ours.config.vision.patch
    image = torch.randn(2, 3, side, side)
    taken: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: taken.append(output))
        for module in (theirs.visual.ln_pre, *theirs.visual.transformer.resblocks)
    ]
    wanted = theirs.encode_image(image, normalize=True)
    for hook in hooks:
        hook.remove()
    assert len(taken) == LAYERS + 1
    for passed, tokens in enumerate(taken):
        batch_first = tokens if len(tokens) == len(image) else tokens.transpose(0, 1)
        got = ours.visual.shallow(image, passed, ()).tokens
        torch.testing.assert_close(got, batch_first, atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(ours.visual(image), wanted, atol=2e-6, rtol=0)


@torch.inference_mode()
def test_text_features_are_equal_at_the_length_of_the_longest(pair: tuple[CLIP, Any]) -> None:
    ours, theirs = pair
    texts = ["cat", "a photo of a small red car in the scene.", *ODD[1:6]]
    short = Tokenizer()(texts, ours.config.text.context)
    whole = open_clip.tokenize(texts)
    assert short.shape[1] < whole.shape[1]
    torch.testing.assert_close(ours.text(short), theirs.encode_text(whole, normalize=True), atol=2e-6, rtol=0)


def test_token_ids_of_odd_texts_are_equal() -> None:
    assert_tokens_equal(ODD)


def test_token_ids_of_the_label_sets_are_equal(shared: Path) -> None:
    names = [
        line.split("\t")[-1]
        for file in sorted((shared / "labelsets").glob("*_*.txt"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert len(names) > 1_500
    assert_tokens_equal(names)


def assert_tokens_equal(texts: list[str]) -> None:
    wanted = open_clip.tokenize(texts)
    got = Tokenizer()(texts, 77)
    assert got.equal(wanted[:, : got.shape[1]])
    assert not wanted[:, got.shape[1] :].any()
