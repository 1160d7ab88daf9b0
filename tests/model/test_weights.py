from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanseg.model import download, keymaps, weights
from sanseg.model.checkpoint import checksum, frozen_clip
from sanseg.model.san import SAN
from sanseg.model.weights import convert, load_san, save_san
from tests.model.checkpoints import assert_same, read_file, refusal, rewrite


@pytest.fixture
def saved(tmp_path: Path, tiny_san: SAN) -> Path:
    save_san(tmp_path / "san.safetensors", tiny_san)
    return tmp_path / "san.safetensors"


@pytest.fixture
def adapter(tmp_path: Path, tiny_san: SAN) -> Path:
    save_san(tmp_path / "adapter.safetensors", tiny_san, kind="adapter")
    return tmp_path / "adapter.safetensors"


def test_an_adapter_sits_on_its_clip(tmp_path: Path, tiny_san: SAN, adapter: Path) -> None:
    tensors = read_file(adapter)[0]
    assert set(tensors) == set(tiny_san.trained())
    base = SAN(replace(tiny_san.config, side=replace(tiny_san.config.side, queries=3)))  # trained otherwise
    base.load_state_dict(frozen_clip(tiny_san.state_dict()), strict=False)
    save_san(tmp_path / "base.safetensors", base)
    assert_same(load_san(adapter, clip=tmp_path / "base.safetensors"), tiny_san)
    half = load_san(adapter, clip=tmp_path / "base.safetensors", dtype=torch.float16)
    assert {tensor.dtype for tensor in half.parameters()} == {torch.float16}


def test_an_adapter_is_refused_another_clip(saved: Path, tiny_san: SAN, adapter: Path) -> None:
    right = checksum(frozen_clip(tiny_san.state_dict()))
    with torch.no_grad():
        tiny_san.clip.text.projection[0, 0] += 1e-3
    save_san(saved, tiny_san)
    wrong = checksum(frozen_clip(tiny_san.state_dict()))
    message = refusal(lambda: load_san(adapter, clip=saved))
    assert right in message
    assert wrong in message
    assert "tiny-clip" in message

    config = replace(tiny_san.config, clip=replace(tiny_san.config.clip, name="other-clip", quick_gelu=False))
    save_san(saved, SAN(config))
    message = refusal(lambda: load_san(adapter, clip=saved))
    assert "tiny-clip" in message
    assert "other-clip" in message


def test_clip_goes_with_adapters_only(saved: Path, adapter: Path) -> None:
    assert "give clip=" in refusal(lambda: load_san(adapter))
    assert "give clip=" in refusal(lambda: load_san(adapter, clip=adapter))
    assert "leave clip=" in refusal(lambda: load_san(saved, clip=saved))


# Names.


@pytest.mark.parametrize("name", ["san-vit-b", "", "no/such/file.safetensors", __file__, "."])
def test_an_unknown_name_lists_the_names(name: str) -> None:
    message = refusal(lambda: load_san(name))
    assert all(known in message for known in ("mini", "san-vit-b-16", "san-vit-l-14", ".safetensors", ".pth"))


def test_a_lost_bundled_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.NAMED, "mini", tmp_path / "mini.safetensors")
    assert "install sanseg again" in refusal(lambda: load_san("mini"))


def test_the_bundled_model_loads() -> None:
    path = weights.NAMED["mini"]
    assert isinstance(path, Path)
    if not path.is_file():
        pytest.skip("the model in the box has not been trained yet")
    assert {tensor.dtype for tensor in read_file(path)[0].values()} == {torch.float16}
    assert load_san("mini").config.name == "mini"


# Released files.


def official_state(san: SAN) -> dict[str, Tensor]:
    """As the released training code would have written it."""
    split = san.config.split
    state = {keymaps.official_name(name, split): tensor for name, tensor in san.state_dict().items()}
    return {
        **state,
        "criterion.empty_weight": torch.ones(8),
        "ov_classifier.attn_mask": torch.full((77, 77), -torch.inf).triu(1),
    }


@pytest.fixture
def released(tmp_path: Path, tiny_san: SAN, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file in the form of the released ones; the key map takes it for one of them."""
    monkeypatch.setattr(keymaps, "official_config", lambda state: tiny_san.config)
    path = tmp_path / "released.pth"
    torch.save({"model": official_state(tiny_san), "iteration": 59_999}, path)
    return path


def test_a_released_file_loads_and_converts(tmp_path: Path, released: Path, tiny_san: SAN) -> None:
    assert_same(load_san(released), tiny_san)
    assert "leave clip=" in refusal(lambda: load_san(released, clip=released))
    half = load_san(released, dtype=torch.float16)
    assert {tensor.dtype for tensor in half.parameters()} == {torch.float16}
    out = tmp_path / "out" / "san.safetensors"
    convert(released, out)
    assert_same(load_san(out), tiny_san)
    assert load_san(out).config == tiny_san.config


def test_a_diverged_released_file_is_refused(tmp_path: Path, released: Path, tiny_san: SAN) -> None:
    with torch.no_grad():
        tiny_san.clip.text.projection[0, 0] = torch.nan
    torch.save(official_state(tiny_san), released)
    assert "not finite are clip.text.projection" in refusal(lambda: load_san(released))
    assert "not finite are clip.text.projection" in refusal(
        lambda: convert(released, tmp_path / "out.safetensors")
    )


def test_convert_keeps_what_is_there(tmp_path: Path, released: Path, tiny_san: SAN, saved: Path) -> None:
    old = saved.read_bytes()
    assert "exists" in refusal(lambda: convert(released, saved))
    broken = official_state(tiny_san)
    del broken["ov_classifier.logit_scale"]
    torch.save({"model": broken}, tmp_path / "broken.pth")
    message = refusal(lambda: convert(tmp_path / "broken.pth", saved, overwrite=True))
    assert "broken.pth" in message
    assert "ov_classifier.logit_scale" in message
    assert "leave clip=" in refusal(lambda: convert(released, saved, clip=saved, overwrite=True))
    assert saved.read_bytes() == old
    with torch.no_grad():
        tiny_san.nothing += 1
    torch.save(official_state(tiny_san), released)
    convert(released, saved, overwrite=True)
    assert_same(load_san(saved), tiny_san)


def test_a_released_adapter_converts(tmp_path: Path, released: Path, tiny_san: SAN, saved: Path) -> None:
    split = tiny_san.config.split
    trained = {keymaps.official_name(name, split): tensor for name, tensor in tiny_san.trained().items()}
    torch.save({"model": trained}, released)
    out = tmp_path / "adapter.safetensors"
    assert "convert it first" in refusal(lambda: load_san(released))
    assert "give clip=" in refusal(lambda: convert(released, out))
    assert not out.exists()
    convert(released, out, clip=saved)
    assert_same(load_san(out, clip=saved), tiny_san)


def test_a_name_is_downloaded_converted_and_checked(
    tmp_path: Path, released: Path, tiny_san: SAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANSEG_CACHE", str(tmp_path / "cache"))
    converted = tmp_path / "cache" / "weights" / "san-vit-b-16.safetensors"
    converted.parent.mkdir(parents=True)
    converted.write_bytes(b"half of i")  # a conversion that was interrupted
    converted.with_suffix(".json").write_text(json.dumps({"sha256": download.sha256_of(released)}))
    with monkeypatch.context() as patch:
        patch.setattr(download, "_download", lambda release, target: released)
        assert_same(load_san("san-vit-b-16"), tiny_san)
    monkeypatch.setattr(download, "_download", lambda release, target: pytest.fail("was downloaded again"))
    assert_same(load_san("san-vit-b-16"), tiny_san)
    rewrite(converted, read_file(converted)[0] | {"nothing": torch.zeros(1, 24)})
    assert str(converted) in refusal(lambda: load_san("san-vit-b-16"))


def test_a_name_takes_a_file_converted_by_hand(
    tmp_path: Path, released: Path, tiny_san: SAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_download", lambda release, target: pytest.fail("was downloaded"))
    convert(released, tmp_path / "cache" / "weights" / "san-vit-l-14.safetensors")
    assert_same(load_san("san-vit-l-14"), tiny_san)
