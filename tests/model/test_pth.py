"""Foreign pickles: what a trainer leaves in a checkpoint is ignored, what an attacker puts there never runs."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sanseg.model.pth import read_pth


class Hook:
    """What a trainer keeps beside the model. Nobody may make one while a file is read."""

    made_by_a_file = False

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        Hook.made_by_a_file = True


class History(dict[str, float]):
    pass


class Names(list[str]):
    pass


@dataclass
class Event:
    seconds: float


class Attack:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def state_dict() -> OrderedDict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = nn.BatchNorm1d(5).state_dict()  # also has an attribute, and a buffer of integers
    state["weight"] = torch.randn(3, 5, generator=generator)
    state["half"] = torch.randn(4, generator=generator).half()
    state["bfloat16"] = torch.randn(4, generator=generator).bfloat16()
    state["parameter"] = nn.Parameter(torch.randn(2, 3, generator=generator))
    state["view"] = torch.randn(6, 4, generator=generator).T[1:3]  # offset and strides
    state["scalar"] = torch.tensor(0.07)
    state["empty"] = torch.empty(0, 3)
    return state


def trainer_state() -> dict[str, object]:
    """As detectron2 writes it, and more of a kind."""
    return {
        "iteration": np.int64(59_999),
        "best": np.float64(41.9),
        "history": History(loss=1.5),
        "by_name": defaultdict(list, {"miou": [1.0]}),
        "hooks": [Hook("evaluate"), os.path.join, Event(1.0), {1, 2}, frozenset("ab"), b"bytes", 2**70],
        "names": [Names(), Names(["one"]), Names(["one", "two"])],
        "curve": np.arange(5.0),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]},
        "path": Path("output"),
    }


def assert_same(read: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
    assert list(read) == list(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_trainer_state_is_ignored(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": state_dict(), **trainer_state()}, path, pickle_protocol=protocol)
    assert_same(read_pth(path), state_dict())
    assert not Hook.made_by_a_file
    torch.load(path, weights_only=False)
    assert Hook.made_by_a_file  # a full unpickle would have made it
    Hook.made_by_a_file = False


def test_a_bare_state_dict_is_read(tmp_path: Path) -> None:
    torch.save(state_dict(), tmp_path / "model.pth")
    assert_same(read_pth(tmp_path / "model.pth"), state_dict())


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("where", ["beside", "inside", "instead"])
def test_hostile_files_run_nothing(tmp_path: Path, where: str, protocol: int) -> None:
    touched = tmp_path / "touched"
    attacks = [
        Attack(os.system, f"touch {touched}"),
        Attack(eval, f"open({str(touched)!r}, 'w').close()"),
        Attack(Path.touch, touched),
    ]
    for attack in attacks:
        path = tmp_path / "model.pth"
        state: dict[str, object] = dict(state_dict())
        content: object = {
            "beside": {"model": state, "evil": attack},
            "inside": {"model": {**state, "evil": attack}},
            "instead": attack,
        }[where]
        torch.save(content, path, pickle_protocol=protocol)
        if where == "instead":
            with pytest.raises(ValueError, match="holds no tensors"):
                read_pth(path)
        else:
            assert_same(read_pth(path), state_dict())
        assert not touched.exists()
        torch.load(path, weights_only=False)
        assert touched.exists()  # a full unpickle would have run it
        touched.unlink()


def archive(
    path: Path, pickled: bytes, members: dict[str, bytes] | None = None, compressed: bool = False
) -> Path:
    """A file of torch.save's form with any pickle in it."""
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, data in (members or {}).items():
            file.writestr(f"archive/{name}", data)
    return path


def tensor_pickle(
    size: str, stride: str, offset: int = 0, dtype: str = "FloatStorage", key: str = "0"
) -> bytes:
    """{"model": {"x": a tensor of that geometry}}, in pickle's text opcodes. size, stride: like "I2\\nI3\\n"."""
    return (
        f"(dVmodel\n(dVx\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\n{dtype}\nV{key}\nVcpu\nI4\ntQ"
        f"I{offset}\n({size}t({stride}tI00\nNtRss."
    ).encode()


NUMBERS = {"data/0": struct.pack("<4f", 1, 2, 3, 4)}


def test_the_form_that_the_hostile_cases_start_from_is_right(tmp_path: Path) -> None:
    path = archive(tmp_path / "model.pth", tensor_pickle("I2\nI2\n", "I2\nI1\n"), NUMBERS)
    assert read_pth(path)["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "pickled",
    {
        "beyond the storage": tensor_pickle("I5\n", "I1\n"),
        "beyond by its offset": tensor_pickle("I2\n", "I1\n", offset=3),
        "before the storage": tensor_pickle("I2\n", "I1\n", offset=-1),
        "negative size": tensor_pickle("I-2\n", "I1\n"),
        "negative stride": tensor_pickle("I2\n", "I-1\n"),
        "too few strides": tensor_pickle("I2\nI2\n", "I1\n"),
        "repeated a billion times": tensor_pickle("I1000000000\n", "I0\n"),
        "numel wraps around to 0": tensor_pickle("I4294967296\nI4294967296\n", "I0\nI0\n"),
        "size is a text": tensor_pickle("Vx\n", "I1\n"),
        "offset of no machine": tensor_pickle("I4\n", "I1\n", offset=10**30),
        "no such storage": tensor_pickle("I4\n", "I1\n", key="1"),
        "unknown dtype": tensor_pickle("I4\n", "I1\n", dtype="Tensor"),
        "storage of no whole number of elements": tensor_pickle("I1\n", "I1\n", key="odd"),
        "attribute of a number": b"I1\n(I1\nI1\ndb.",
        "list as a key": b"\x80\x02}]K\x01s.",
        "half a number": b"\x80\x02J\x01",
        "not a storage": b"(dVmodel\n(dVx\nctorch._utils\n_rebuild_tensor_v2\n(I1\nI0\n(t(tI00\nNtRss.",
        "memo index of four billion": b"\x80\x02}r\xff\xff\xff\xff.",
        "a terabyte of bytes": b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.",
        "extension": b"\x80\x02\x82\x01.",
        "nothing": b"",
        "no end": b"\x80\x02}",
        "empty stack": b"\x80\x02R.",
        "next protocol": b"\x80\x06}.",
        "nested": b"(" * 100_000 + b"t" * 99_999 + b".",
    }.items(),
    ids=lambda case: case[0],
)
def test_hostile_pickles_are_refused_in_one_line(tmp_path: Path, pickled: tuple[str, bytes]) -> None:
    path = archive(tmp_path / "model.pth", pickled[1], {**NUMBERS, "data/odd": b"123"})
    with pytest.raises(
        ValueError, match=r"model\.pth (is not a whole checkpoint|holds no tensors)"
    ) as caught:
        read_pth(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [bytes(10_000_000), random.Random(0).randbytes(100_000)])
def test_compressed_files_are_refused(tmp_path: Path, data: bytes) -> None:
    """A bomb or not: torch.save compresses nothing."""
    pickled = tensor_pickle("I4\n", "I1\n")
    path = archive(tmp_path / "model.pth", pickled, {"data/0": data}, compressed=True)
    with pytest.raises(ValueError, match="compressed, or overlap"):
        read_pth(path)


@pytest.mark.parametrize(
    "pickled",
    [
        tensor_pickle("I2000000000\nVx\n", "I1\nI1\n"),
        b"(dVmodel\n(dVx\nctorch._utils\n_rebuild_tensor_v2\n(I1\nI0\n(t(tI00\nNtRss.",
    ],
)
def test_tensors_that_are_none_are_refused_before_they_are_made(tmp_path: Path, pickled: bytes) -> None:
    with pytest.raises(ValueError, match="the tensor x has no storage or no size"):
        read_pth(archive(tmp_path / "model.pth", pickled, NUMBERS))


def test_shared_tensors_are_refused(tmp_path: Path) -> None:
    """They would be written many times."""
    path = tmp_path / "model.pth"
    shared = torch.zeros(10_000)
    torch.save({f"x{number}": shared for number in range(100)}, path)
    with pytest.raises(ValueError, match="tensors are larger than the file"):
        read_pth(path)


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """A directory that lists the same bytes many times."""
    path = archive(tmp_path / "model.pth", tensor_pickle("I4\n", "I1\n"), {"data/0": bytes(100_000)})
    with zipfile.ZipFile(path, "a") as file:
        member = file.getinfo("archive/data/0")
        file.filelist.extend([member] * 10)
        file._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="compressed, or overlap"):
        read_pth(path)


def test_a_directory_that_points_before_the_file_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "model.pth", tensor_pickle("I4\n", "I1\n"), NUMBERS)
    whole = bytearray(path.read_bytes())
    whole[-6] += 10  # where the directory is said to begin
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        read_pth(path)


def test_big_endian_numbers_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "model.pth", tensor_pickle("I4\n", "I1\n"), {**NUMBERS, "byteorder": b"big"})
    with pytest.raises(ValueError, match="big-endian"):
        read_pth(path)


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    buffer = io.BytesIO()
    torch.save({"model": state_dict(), **trainer_state()}, buffer)
    whole = buffer.getvalue()
    for length in range(0, len(whole) - 1, 211):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a whole checkpoint") as caught:
            read_pth(path)
        assert "\n" not in str(caught.value)


def test_flipped_bits_are_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    buffer = io.BytesIO()
    torch.save({"model": state_dict()}, buffer)
    whole = buffer.getvalue()
    dice = random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        with suppress(ValueError):
            assert_same(read_pth(path), state_dict())


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"model": {}})])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        read_pth(tmp_path / "model.pth")


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_pth(tmp_path / "model.pth")
