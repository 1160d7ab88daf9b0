"""Label Studio's brush strokes, unpacked by its SDK and as rle-pack's documentation has it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Unpack = Callable[[Sequence[int]], np.ndarray]


def unpack(data: Sequence[int]) -> np.ndarray:
    bits, place = "".join(f"{byte:08b}" for byte in data), 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < total:
        same = read(1)
        length = read(sizes[read(2)]) + 1
        out += [read(word)] * length if same else [read(word) for _ in range(length)]
    return np.array(out, np.uint8)


def sdk() -> Unpack | None:
    """The SDK's decoder, without the rest of the SDK, which needs much; None where it is not installed."""
    found = importlib.util.find_spec("label_studio_sdk")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "converter" / "brush.py"
    spec = importlib.util.spec_from_file_location("brush", path)
    assert spec is not None
    assert spec.loader is not None
    brush = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(brush)
    decode: Unpack = brush.decode_rle
    return decode
