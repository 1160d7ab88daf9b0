"""Reads the tensors of a foreign .pth file, running nothing that the file says.

A .pth file is a pickle, and a pickle may name any function to be called. Here no name is ever imported: the
few that a state dict needs stand for inert values, every other one for a placeholder. This is stricter than
`torch.load(weights_only=True)`, which refuses the trainer state that released checkpoints hold beside their
tensors, and which a hostile file could bring to corrupt memory before torch 2.10 (CVE-2026-24747), or to run
code before torch 2.6 (CVE-2025-32434).
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# What zipfile, pickle and torch raise on damaged or hostile bytes. pickle's documentation rules nothing out.
_DAMAGE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class _Storage(NamedTuple):
    """Where the numbers of tensors lie: the archive's member data/`key`."""

    dtype: torch.dtype
    key: str


class _StoredTensor(NamedTuple):
    """A tensor that has not been read yet. Offset and strides count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Placeholder:
    """Stands for every other class and function. Takes what a pickle may do to an object, and forgets it."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> _Placeholder:
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass


# The unpickler written in Python: the one in C allocates as much memory as the memo index that a file names.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        match module, name:
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, offset, size, stride, *_: _StoredTensor(storage, offset, size, stride)
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch", _ if name in _DTYPES:
                return _DTYPES[name]
        return _Placeholder

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, _elements = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("a tensor has no storage of a known type")
        return _Storage(dtype, key)


def read_pth(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a file of `torch.save`: its entry "model" where it has one, else all of it.

    Tensors are on the CPU, of the dtype they were stored with. Whatever else the file holds is ignored.
    Raises ValueError for a file that is damaged, that would unpack to more than its own size, or that holds
    no tensors by name; FileNotFoundError where there is none.
    """
    with Path(path).open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                room = _room(archive, os.fstat(file.fileno()).st_size)
                folder = _folder(archive)
                content = _Unpickler(io.BytesIO(archive.read(f"{folder}data.pkl"))).load()
                state = dict(_tensors(archive, folder, content, room))
        except _DAMAGE as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"{path} is not a whole checkpoint of torch.save ({reason}):"
                " get it again, or save it again with torch 1.6 or later"
            ) from error
    if not state:
        raise ValueError(
            f"{path} holds no tensors by name: wanted a state dict, alone or as its entry 'model'"
        )
    return state


def _room(archive: zipfile.ZipFile, size: int) -> int:
    """The bytes that the members unpack to. Raises BadZipFile where that is more than the file has."""
    members = archive.infolist()
    room = sum(member.file_size for member in members)
    if room > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise zipfile.BadZipFile("its members are compressed, or overlap")
    return room


def _folder(archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    folders = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise zipfile.BadZipFile(f"it has {len(folders)} members called data.pkl")
    order = f"{folders[0]}byteorder"
    if order in names and archive.read(order) != b"little":
        raise zipfile.BadZipFile("its numbers are big-endian")
    return folders[0]


def _tensors(
    archive: zipfile.ZipFile, folder: str, content: object, room: int
) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, dict) and "model" in content:
        content = content["model"]
    if not isinstance(content, dict):
        return
    storages: dict[_Storage, Tensor] = {}
    for name, stored in content.items():
        if not isinstance(name, str) or not isinstance(stored, _StoredTensor):
            continue
        storage, offset, size, stride = stored
        if not isinstance(storage, _Storage) or not all(type(length) is int for length in size):
            raise pickle.UnpicklingError(f"the tensor {name} has no storage or no size")
        room -= math.prod(size) * storage.dtype.itemsize
        if room < 0:  # tensors that share or repeat their numbers would grow when they are copied
            raise zipfile.BadZipFile("its tensors are larger than the file")
        if storage not in storages:
            storages[storage] = _numbers(archive.read(f"{folder}data/{storage.key}"), storage.dtype)
        yield name, torch.as_strided(storages[storage], size, stride, offset)  # refuses to leave the storage


def _numbers(data: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
