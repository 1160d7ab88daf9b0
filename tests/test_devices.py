"""Devices and number types by name, and the best of this machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sanseg.devices import DEVICES, find_device, find_dtype


def test_the_best_device_of_this_machine_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(*here: str) -> None:
        for kind in DEVICES:
            available: Callable[[], bool] = (lambda: True) if kind in here else (lambda: False)
            monkeypatch.setitem(DEVICES, kind, available)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    pretend("cpu")
    assert find_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="no device 'cuda', only cpu"):
        find_device("cuda")
    pretend("cpu", "mps", "cuda")
    assert find_device() == torch.device("cuda")
    assert find_device("cuda:1") == torch.device("cuda:1")
    assert find_device("mps") == torch.device("mps")
    for absent in ("cuda:2", "mps:1"):
        with pytest.raises(ValueError, match=f"no device '{absent}'"):
            find_device(absent)
    assert find_device("cuda:01") == torch.device("cuda:1")
    for strange in ("tpu", "cuda:x", "", "cuda1", "cuda:"):
        with pytest.raises(ValueError, match=f"device called '{strange}': choose from auto, cuda, mps, cpu"):
            find_device(strange)


def test_auto_takes_the_number_type_that_the_device_has_natively(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert find_dtype("auto", cpu) == torch.bfloat16
    assert find_dtype("float32", cpu) == find_dtype(torch.float32, cpu) == torch.float32
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in older torch
    assert find_dtype("auto", cpu) == torch.float32
    for native, chosen in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native
        )
        assert find_dtype("auto", cuda) == chosen
    with pytest.raises(ValueError, match="dtype is 'int8': choose from auto, float32, bfloat16, float16"):
        find_dtype("int8", cpu)
