"""The devices of this machine, and the types of number that they compute in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

# The kinds of device by preference, and whether this machine has one.
DEVICES: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "cpu": lambda: True,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str = "auto") -> torch.device:
    """A device of this machine by name; "auto" is the first of DEVICES. Raises ValueError where there is none."""
    here = [kind for kind, available in DEVICES.items() if available()]
    if name == "auto":
        return torch.device(here[0])
    kind, _, number = name.partition(":")
    if kind not in DEVICES or name.endswith(":") or (number and not number.isdecimal()):
        raise ValueError(
            f"there is no kind of device called {name!r}: choose from auto, {', '.join(DEVICES)}"
        )
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in here or int(number or 0) >= count:
        raise ValueError(f"this machine has no device {name!r}, only {', '.join(here)}: choose one, or auto")
    return torch.device(kind, int(number)) if number else torch.device(kind)


def find_dtype(name: str | torch.dtype, device: torch.device | str) -> torch.dtype:
    """A number type by name; "auto" is bfloat16 where the device computes with it natively, else float32.

    Raises ValueError for an unknown name.
    """
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(torch.device(device)) else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}: choose from auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    # Older torch does not say; AVX-512 and AMX have instructions of their own, others convert.
    capabilities: Callable[[], Mapping[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    return any(capabilities().get(name) for name in ("amx_bf16", "avx512_bf16", "sve_bf16"))


def name_dtype(dtype: torch.dtype) -> str:
    """The key of DTYPES that a number type has."""
    return str(dtype).removeprefix("torch.")
