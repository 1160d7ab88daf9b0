"""Our SAN with official weights is the official SAN: every stored tensor, and what numbers can hardly feel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sanseg.model.config import SAN_VIT_B16, SAN_VIT_L14, SANConfig
from sanseg.model.keymaps import from_official, official_config, official_name
from sanseg.model.san import SAN
from sanseg.model.transformer import Block, QuickGELU
from tests.parity.__main__ import main
from tests.parity.case import Case, report

CASES = ("default", "l14like")
RELEASED = {"manifest_san_vit_b_16.json": SAN_VIT_B16, "manifest_san_vit_large_14.json": SAN_VIT_L14}


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    return Case(shared / "golden" / request.param)


def test_every_stored_tensor_is_equal(case: Case) -> None:
    found = report(case)
    over = {quantity: pair for quantity, pair in found.items() if not pair[0] <= pair[1]}
    assert not over
    inputs = {"vocabulary", "image0", "image1", "image1_resized"}
    inputs |= {name for name in case.arrays if name.startswith("tgt") or "match_points" in name}
    inputs |= {name for name in case.arrays if "rand_" in name}
    compared = {name.removesuffix("_b0").removesuffix("_b1") if "points" in name else name for name in found}
    assert set(case.arrays) - inputs <= compared


def test_the_command_prints_one_json_object(
    shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(shared / "golden" / "default")
    assert main([folder]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(len(pair) == 2 for pair in found.values())
    monkeypatch.setattr(QuickGELU, "forward", lambda self, x: nn.functional.gelu(x))
    assert main([folder]) == 1
    broken = json.loads(capsys.readouterr().out)
    assert broken["sem_seg"][0] > broken["sem_seg"][1]
    assert main([]) == 2


@pytest.mark.parametrize("file", RELEASED)
def test_manifests_are_consumed_whole(shared: Path, file: str) -> None:
    config, manifest = RELEASED[file], json.loads((shared / "golden" / file).read_text())
    state = {key: torch.empty(spec[0], device="meta") for key, spec in manifest["keys"].items()}
    assert official_config(state) == config
    with torch.device("meta"):
        san = SAN(config)
    ours = from_official(state, config)
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in san.state_dict().items()
    }
    trained = {key for key, spec in manifest["keys"].items() if spec[2]}
    requiring = {name for name, parameter in san.named_parameters() if parameter.requires_grad}
    assert {official_name(name, config.split) for name in requiring} == trained
    counts = manifest["counts"]
    assert sum(parameter.numel() for parameter in san.parameters()) == counts["params_total"]
    assert sum(p.numel() for p in san.parameters() if p.requires_grad) == counts["params_trainable"]


@pytest.mark.parametrize("file", RELEASED)
def test_a_missing_or_unknown_key_is_named(shared: Path, file: str) -> None:
    config, manifest = RELEASED[file], json.loads((shared / "golden" / file).read_text())
    state = {key: torch.empty(spec[0], device="meta") for key, spec in manifest["keys"].items()}
    del state["clip_rec_head.proj"]
    state["clip_rec_head.extra"] = torch.empty(1, device="meta")
    with pytest.raises(ValueError, match=r"clip_rec_head\.proj.*clip_rec_head\.extra"):
        from_official(state, config)


def test_a_transposed_tensor_is_refused() -> None:
    with torch.device("meta"):
        state = {official_name(n, 9): t for n, t in SAN(SAN_VIT_B16).state_dict().items()}
    state["clip_rec_head.proj"] = state["clip_rec_head.proj"].T
    with pytest.raises(ValueError, match=r"clip_rec_head\.proj has shape \(512, 768\)"):
        from_official(state, SAN_VIT_B16)


@pytest.mark.parametrize("config", RELEASED.values(), ids=lambda config: config.name)
def test_what_golden_numbers_hardly_feel(config: SANConfig) -> None:
    with torch.device("meta"):
        san = SAN(config)
    for name, module in san.named_modules():
        beside = name.startswith("side_adapter")
        if isinstance(module, nn.LayerNorm):
            assert module.eps == (1e-6 if beside else 1e-5), name
        if isinstance(module, Block):
            assert isinstance(module.activation, nn.GELU if beside else QuickGELU), name
            assert not beside or module.activation.approximate == "none", name
