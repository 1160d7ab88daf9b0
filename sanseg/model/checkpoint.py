"""Our own checkpoint files: safetensors whose metadata says which network they hold, and for which CLIP.

Metadata: "sanseg" the version of the format; "kind" a key of KINDS; "config" `SANConfig.to_dict()` as JSON;
"clip" the CLIP's name; "clip_sha256" the checksum of its frozen tensors; "labels" the names that it was trained
on, a JSON list, empty where that is not known. Nothing in a file is trusted: the
configuration is held against the shapes of the tensors before memory is taken for any of them.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sanseg.model.config import SAN_MINI, SANConfig
from sanseg.model.san import SAN

FORMAT = "1"
KINDS = {
    "san": "the whole network",
    "adapter": "what the released recipe trains; the rest is a CLIP that another file holds",
}
LARGEST_NUMBER = 100_000  # in a configuration; CLIP's vocabulary has 49,408
FLOATS = ("F16", "BF16", "F32", "F64")  # how safetensors calls the types that parameters may be stored in


@dataclass(frozen=True)
class Head:
    """What a checkpoint says of itself, and the shape and stored type of each of its tensors."""

    path: Path
    kind: str
    config: SANConfig
    clip_sha256: str
    labels: tuple[str, ...]
    tensors: dict[str, tuple[tuple[int, ...], str]]


def read_head(path: Path) -> Head:
    """Reads what a checkpoint says of itself, and no tensor.

    Raises ValueError for a file that is damaged, not ours, or of a configuration that makes no sense.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, not a mapping
        tensors = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
    if "sanseg" not in metadata:
        raise ValueError(
            f"{path} was not written by sanseg, its metadata does not say what it holds:"
            " convert the .pth file that it was made from"
        )
    version, kind = metadata["sanseg"], metadata.get("kind")
    if version != FORMAT or kind not in KINDS:
        raise ValueError(
            f"{path} is of format {version!r} and kind {kind!r}, wanted format {FORMAT!r} and kind"
            f" {' or '.join(map(repr, KINDS))}: update sanseg, or write the file again"
        )
    try:
        values = json.loads(metadata.get("config", ""))
        _check_values(values, json.loads(json.dumps(SAN_MINI.to_dict())), "the configuration")
        config = SANConfig.from_dict(values)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has no usable configuration ({error}): write the file again") from error
    return Head(path, kind, config, metadata.get("clip_sha256", ""), _labels(metadata, path), tensors)


def skeleton(head: Head) -> SAN:
    """The network that a checkpoint is for, on torch's "meta" device: without memory for its tensors.

    An adapter's CLIP configuration must be known to be that of a real CLIP: its file cannot show it.
    Raises ValueError where the configuration makes no network, or one of other tensors than the file has.
    """
    side, clip = head.config.side, head.config.clip
    layers = side.layers + len(side.fusion)
    if head.kind == "san":
        layers += clip.vision.layers + clip.text.layers
    if layers > len(head.tensors):
        raise ValueError(f"{head.path} has {len(head.tensors)} tensors for {layers} layers: write it again")
    try:
        san = outline(head.config)
    # Beside ValueError, what modules raise for numbers that overflow or divide by zero.
    except (ValueError, ArithmeticError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{head.path} is configured as no network can be ({error}): write it again"
        ) from error
    wanted = san.state_dict() if head.kind == "san" else san.trained()
    _check_tensors(head, {name: tuple(tensor.shape) for name, tensor in wanted.items()})
    return san


def outline(config: SANConfig) -> SAN:
    """A network on torch's "meta" device: shapes without memory, whose values a file will bring."""
    with torch.device("meta"), _Shapes():
        return SAN(config).to("meta")


class _Shapes(TorchFunctionMode):
    """Keeps from "meta" what torch can only do there by loading its compiler, which takes 2 s.

    That is drawing random numbers, which is left out, and arithmetic on numbers that the code states, which stay
    on the CPU.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {} if kwargs is None else dict(kwargs)
        if getattr(func, "__module__", "") == "torch.nn.init":  # accessors of attributes have no module
            return args[0] if args else given["tensor"]
        if func is torch.tensor:
            given["device"] = "cpu"
        return func(*args, **given)


def precision(name: str, config: SANConfig, dtype: torch.dtype) -> torch.dtype:
    """What a tensor becomes in a network of some dtype.

    Beside bfloat16's 8 bits float32 stays where they would cost most of what they do to the answers: a convolutional
    stem, for batch normalisation is folded into its weights; and what words become, which is computed once and kept.
    """
    exact = ["clip.text.", "clip.logit_scale"]
    if config.clip.vision.stem:
        exact.append("clip.visual.stem.")
    return torch.float32 if dtype is torch.bfloat16 and name.startswith(tuple(exact)) else dtype


def rounded(san: SAN, dtype: torch.dtype) -> SAN:
    """The same network, each of its tensors as `precision` has it."""
    for name, parameter in san.named_parameters():
        parameter.data = parameter.data.to(precision(name, san.config, dtype))
    return san


def read_tensors(head: Head, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every tensor, as `dtype`, on the CPU. Raises ValueError naming tensors that are not finite."""
    with _opened(head.path) as file:
        tensors = {
            name: file.get_tensor(name).to(precision(name, head.config, dtype)) for name in head.tensors
        }
    check_finite(tensors, head.path)
    return tensors


def _labels(metadata: Mapping[str, str], path: Path) -> tuple[str, ...]:
    try:
        labels = json.loads(metadata.get("labels", "[]"))
    except (ValueError, RecursionError):
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{path} says its labels in a way that cannot be read: write the file again")
    return tuple(labels)


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    kind: str,
    config: SANConfig,
    clip_sha256: str,
    labels: Iterable[str] = (),
) -> None:
    """Writes a checkpoint; a failure leaves what was at `path` before as it was.

    labels: the names it was trained on, where that is known.
    Raises ValueError for tensors that are not finite, and for a path that does not end in .safetensors.
    """
    assert kind in KINDS
    if path.suffix != ".safetensors":
        raise ValueError(f"checkpoints are safetensors files, the path is {path}: let it end in .safetensors")
    check_finite(tensors, path)
    metadata = {
        "sanseg": FORMAT,
        "kind": kind,
        "config": json.dumps(config.to_dict()),
        "clip": config.clip.name,
        "clip_sha256": clip_sha256,
        "labels": json.dumps(list(labels)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        try:
            # Clones: safetensors refuses tensors that share memory, as a foreign file's may.
            save_file(
                {name: tensor.clone().contiguous() for name, tensor in tensors.items()}, temporary, metadata
            )
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end, or vanishes after an error."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """sha256, 64 hex digits, of names, shapes and values as float32, in the order of the names.

    Values that float16 can hold have the same checksum whether they are stored in float16 or float32.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().numpy().data)  # its memory, not a copy
    return digest.hexdigest()


def fingerprint(module: nn.Module) -> str:
    """16 hex digits that name a module's weights: those of a SAN, or of a part such as `san.clip.text`."""
    return checksum(module.state_dict())[:16]


def frozen_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a SAN's state dict is CLIP's own: all of CLIP but the visual positional embedding."""
    return {
        name: tensor
        for name, tensor in state.items()
        if name.startswith("clip.") and name != "clip.visual.position"
    }


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises ValueError naming the tensors that hold NaN or infinite numbers, for the file `path`."""
    bad = [f"{name} as {tensor.dtype}" for name, tensor in tensors.items() if not _finite(tensor)]
    if bad:
        raise ValueError(
            f"{path}: not finite are {_some(bad)}: the training diverged, the file is damaged,"
            " or the numbers are too large for that dtype"
        )


def _finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor.detach())  # lets NaN through, 70 times as fast as isfinite().all()
    return bool(low.isfinite() & high.isfinite())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): get it again") from error


def _check_values(got: Any, like: Any, where: str) -> None:
    """Raises ValueError for a value of another type than `like`, and for numbers out of bounds.

    Fields that are missing or unknown are refused by `SANConfig.from_dict`.
    """
    if type(got) is not type(like) and (type(got), type(like)) != (int, float):
        raise ValueError(f"{where} is of type {type(got).__name__}, wanted {type(like).__name__}")
    if type(got) in (int, float) and not 0 <= got <= LARGEST_NUMBER:
        raise ValueError(f"{where} is {got}, wanted 0 to {LARGEST_NUMBER}")
    if isinstance(got, dict):
        for name in got.keys() & like.keys():
            _check_values(got[name], like[name], name)
    if isinstance(got, list):
        for value in got:
            _check_values(value, like[0], where)


def _check_tensors(head: Head, wanted: Mapping[str, tuple[int, ...]]) -> None:
    faults = {
        "missing": [name for name in wanted if name not in head.tensors],
        "unknown": [name for name in head.tensors if name not in wanted],
        "wrong shape": [
            f"{name} {head.tensors[name][0]} for {shape}"
            for name, shape in wanted.items()
            if name in head.tensors and head.tensors[name][0] != shape
        ],
        f"wrong type (not {', '.join(FLOATS)})": [
            f"{name} {stored}" for name, (_, stored) in head.tensors.items() if stored not in FLOATS
        ],
    }
    found = "; ".join(f"{fault}: {_some(names)}" for fault, names in faults.items() if names)
    if found:
        raise ValueError(
            f"{head.path} is not the {head.kind} {head.config.name!r} that it is configured as; {found}:"
            " write it again"
        )
