from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sanseg.model import checkpoint
from sanseg.model.checkpoint import checksum, fingerprint, frozen_clip
from sanseg.model.config import SANConfig
from sanseg.model.san import SAN
from sanseg.model.weights import load_san, save_san
from tests.model.checkpoints import assert_same, read_file, refusal, rewrite


@pytest.fixture
def saved(tmp_path: Path, tiny_san: SAN) -> Path:
    save_san(tmp_path / "san.safetensors", tiny_san)
    return tmp_path / "san.safetensors"


def test_a_whole_network_comes_back(saved: Path, tiny_san: SAN) -> None:
    san = load_san(saved)
    assert_same(san, tiny_san)
    assert san.config == tiny_san.config
    assert not any(module.training for module in san.modules())
    assert not any(tensor.is_meta for tensor in (*san.parameters(), *san.buffers()))
    trained = {name for name, parameter in san.named_parameters() if parameter.requires_grad}
    assert trained == set(tiny_san.trained())
    image = torch.zeros(1, 3, 64, 64)
    assert torch.equal(san.propose(image).mask_logits, tiny_san.propose(image).mask_logits)


def test_a_network_with_a_stem_comes_back(tmp_path: Path, tiny_stem_san: SAN) -> None:
    save_san(tmp_path / "san.safetensors", tiny_stem_san)
    assert_same(load_san(str(tmp_path / "san.safetensors")), tiny_stem_san)


def test_half_precision_is_stored_and_widened(tmp_path: Path, saved: Path, tiny_san: SAN) -> None:
    half = tmp_path / "half.safetensors"
    save_san(half, tiny_san, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * saved.stat().st_size
    assert {tensor.dtype for tensor in read_file(half)[0].values()} == {torch.float16}
    assert_same(load_san(half), tiny_san.half().float())
    assert {tensor.dtype for tensor in load_san(half).parameters()} == {torch.float32}
    words = ("clip.text.", "clip.logit_scale")
    found = {name: one.dtype for name, one in load_san(saved, dtype=torch.bfloat16).named_parameters()}
    assert {name for name in found if found[name] is torch.float32} == {
        n for n in found if n.startswith(words)
    }
    assert {*found.values()} == {torch.float32, torch.bfloat16}


def test_a_file_says_what_it_holds(saved: Path, tiny_san: SAN) -> None:
    metadata = read_file(saved)[1]
    assert metadata["sanseg"] == "1"
    assert metadata["kind"] == "san"
    assert SANConfig.from_dict(json.loads(metadata["config"])) == tiny_san.config
    assert metadata["clip"] == "tiny-clip"
    assert metadata["clip_sha256"] == checksum(frozen_clip(tiny_san.state_dict()))


def test_a_failed_save_keeps_the_old_file(saved: Path, tiny_san: SAN) -> None:
    old = saved.read_bytes()
    with torch.no_grad():
        tiny_san.side_adapter.query[0, 0] = torch.nan
    assert "side_adapter.query" in refusal(lambda: save_san(saved, tiny_san))
    with torch.no_grad():
        tiny_san.side_adapter.query[0, 0] = 1e5
    assert "float16" in refusal(lambda: save_san(saved, tiny_san, dtype=torch.float16))
    assert saved.read_bytes() == old
    assert list(saved.parent.iterdir()) == [saved]


def test_an_interrupted_write_keeps_the_old_file(
    saved: Path, tiny_san: SAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half of i")
        raise KeyboardInterrupt

    old = saved.read_bytes()
    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_san(saved, tiny_san)
    assert saved.read_bytes() == old
    assert list(saved.parent.iterdir()) == [saved]


def test_saving_elsewhere_or_otherwise_is_refused(tmp_path: Path, tiny_san: SAN) -> None:
    assert ".safetensors" in refusal(lambda: save_san(tmp_path / "san.pth", tiny_san))
    assert "san, adapter" in refusal(lambda: save_san(tmp_path / "san.safetensors", tiny_san, kind="clip"))
    assert not list(tmp_path.iterdir())


# Files that are not what they say.


def test_wrong_tensors_are_named(saved: Path, tiny_san: SAN) -> None:
    tensors = read_file(saved)[0]
    names = [name for name in tiny_san.state_dict() if name.startswith("side_adapter.blocks.0.")]
    assert len(names) > 4

    rewrite(saved, {name: tensor for name, tensor in tensors.items() if name not in names})
    message = refusal(lambda: load_san(saved))
    assert all(name in message for name in names[:3])
    assert f"and {len(names) - 3} more" in message

    rewrite(saved, {**tensors, "clip.visual.extra": torch.zeros(1)})
    assert "unknown: clip.visual.extra" in refusal(lambda: load_san(saved))

    rewrite(saved, {**tensors, "nothing": torch.zeros(1, 25)})
    assert "wrong shape: nothing (1, 25) for (1, 24)" in refusal(lambda: load_san(saved))

    rewrite(saved, {**tensors, "nothing": torch.zeros(1, 24, dtype=torch.int64)})
    message = refusal(lambda: load_san(saved))
    assert "wrong type" in message
    assert "nothing I64" in message

    rewrite(saved, {**tensors, "nothing": torch.full((1, 24), torch.inf)})
    assert "not finite are nothing" in refusal(lambda: load_san(saved))
    rewrite(saved, {**tensors, "clip.logit_scale": torch.tensor(torch.nan)})
    assert "not finite are clip.logit_scale" in refusal(lambda: load_san(saved))


def test_numbers_too_large_for_the_dtype_are_named(saved: Path) -> None:
    rewrite(saved, read_file(saved)[0] | {"nothing": torch.full((1, 24), 1e6)})
    load_san(saved)
    assert "nothing as torch.float16" in refusal(lambda: load_san(saved, dtype=torch.float16))


def test_foreign_safetensors_are_refused(saved: Path) -> None:
    save_file({"x": torch.zeros(1)}, saved)
    assert "was not written by sanseg" in refusal(lambda: load_san(saved))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"sanseg": "2"}, "format '2'"),
        ({"kind": "clip"}, "kind 'clip'"),
        ({"config": ""}, "no usable configuration"),
        ({"config": "{"}, "no usable configuration"),
        ({"config": "[" * 100_000}, "no usable configuration"),
        ({"config": "[]"}, "is of type list, wanted dict"),
        ({"config": "{}"}, "'clip'"),
        ({"config": '{"clip": 3}'}, "clip is of type int, wanted dict"),
    ],
    ids=str,
)
def test_other_metadata_is_refused(saved: Path, metadata: dict[str, str], said: str) -> None:
    rewrite(saved, **metadata)
    message = refusal(lambda: load_san(saved))
    assert str(saved) in message
    assert said in message


def leaves(values: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a nested dictionary, and in the tuples in it."""
    if not isinstance(values, dict | tuple):
        return [place]
    inner = values.items() if isinstance(values, dict) else enumerate(values)
    return [leaf for name, value in inner for leaf in leaves(value, (*place, name))]


@pytest.mark.parametrize(
    "hostile", [10**9, -1, 1e30, float("nan"), "x", None, [], {}, True], ids=lambda value: repr(value)
)
def test_no_field_of_a_configuration_may_be_anything(tmp_path: Path, tiny_san: SAN, hostile: object) -> None:
    path = tmp_path / "san.safetensors"
    whole = tiny_san.config.to_dict()
    assert len(leaves(whole)) > 40
    for *parents, field in leaves(whole):
        config = json.loads(json.dumps(whole))
        parent = config
        for name in parents:
            parent = parent[name]
        if type(parent[field]) is type(hostile) and isinstance(hostile, str | bool):
            continue  # another name, another kind of GELU
        parent[field] = hostile
        save_file({"x": torch.zeros(1)}, path, {"sanseg": "1", "kind": "san", "config": json.dumps(config)})
        assert "no usable configuration" in refusal(lambda: load_san(path))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("side", {"layers": 99_999}),
        ("side", {"width": 99_999}),
        ("side", {"queries": 99_999}),
        ("side", {"width": 99_000, "hidden": 99_999, "channels": 99_999}),
        ("side", {"heads": 0}),
        ("side", {"patch": 7}),
        ("side", {"fusion": ()}),
        ("side", {"fusion": ((0, 0),) * 1000}),
        ("vision", {"layers": 99_999}),
        ("vision", {"grid": 99_999, "width": 96_000}),
        ("vision", {"stem": "no such stem"}),
        ("text", {"layers": 99_999}),
        ("text", {"context": 99_999}),
    ],
    ids=str,
)
def test_a_configuration_of_another_network_takes_no_memory(
    saved: Path, tiny_san: SAN, part: str, changes: dict[str, Any]
) -> None:
    """Sizes up to 99,999 pass for sane."""
    made = checkpoint.skeleton(checkpoint.read_head(saved))
    assert all(tensor.is_meta for tensor in (*made.parameters(), *made.buffers()))
    config = tiny_san.config.to_dict()
    (config["side"] if part == "side" else config["clip"][part]).update(changes)
    rewrite(saved, config=json.dumps(config))
    assert str(saved) in refusal(lambda: load_san(saved))


def test_damaged_files_are_refused(saved: Path, tiny_san: SAN) -> None:
    whole = saved.read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 50):
        saved.write_bytes(whole[:length])
        assert "not a whole safetensors file" in refusal(lambda: load_san(saved))
    header = int.from_bytes(whole[:8], "little")
    dice = random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[dice.randrange(8 + header)] = dice.randrange(256)
        saved.write_bytes(damaged)
        with suppress(ValueError):
            load_san(saved)


# Fingerprints.


def test_fingerprints_name_weights(tiny_san: SAN) -> None:
    whole, text = fingerprint(tiny_san), fingerprint(tiny_san.clip.text)
    seen = {whole}
    for parameter in tiny_san.parameters():
        with torch.no_grad():
            parameter.view(-1)[-1] += 0.125
        seen.add(fingerprint(tiny_san))
    assert len(seen) == 1 + len(list(tiny_san.parameters()))
    assert fingerprint(tiny_san.clip.text) != text
    assert all(len(name) == 16 for name in seen)


def test_fingerprints_do_not_depend_on_storage(tiny_san: SAN) -> None:
    tiny_san.half()
    assert fingerprint(tiny_san) == fingerprint(tiny_san.float())


def test_training_leaves_the_frozen_clip_as_it_was(tiny_san: SAN) -> None:
    before = checksum(frozen_clip(tiny_san.state_dict()))
    with torch.no_grad():
        for parameter in tiny_san.trained().values():
            parameter += 1
    assert checksum(frozen_clip(tiny_san.state_dict())) == before
