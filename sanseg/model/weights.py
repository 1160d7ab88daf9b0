"""Weights by name or path: the model in the box, the released SANs, and checkpoints of our own."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sanseg.model import keymaps
from sanseg.model.checkpoint import (
    KINDS,
    Head,
    check_finite,
    checksum,
    frozen_clip,
    outline,
    precision,
    read_head,
    read_tensors,
    rounded,
    skeleton,
    write,
)
from sanseg.model.config import SANConfig
from sanseg.model.download import Release, cache_folder, obtain
from sanseg.model.fresh import OPEN_CLIP, open_clip_san
from sanseg.model.pth import read_pth
from sanseg.model.san import SAN

NameOrPath = str | os.PathLike[str]

# The released ones (MIT) hold all of CLIP: nothing else is downloaded to run them.
NAMED: dict[str, Path | Release] = {
    "mini": Path(__file__).parent / "assets" / "mini.safetensors",
    "san-vit-b-16": Release("Mendel192/san", "san_vit_b_16.pth"),
    "san-vit-l-14": Release("Mendel192/san", "san_vit_large_14.pth"),
}


def load_san(
    name_or_path: NameOrPath,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    clip: NameOrPath | None = None,
) -> SAN:
    """A SAN in eval mode.

    name_or_path: a key of NAMED (downloaded and converted at first use), a .safetensors file that `save_san`
    or `convert` wrote, a released .pth file, which is converted in memory, or "open_clip:NAME:PRETRAINED", an
    untrained SAN on that CLIP (`open_clip_san`).
    dtype: what the parameters become, whatever they are stored as; but for some, see `checkpoint.precision`.
    clip: for a file that holds only a side adapter, the full checkpoint whose CLIP it belongs to.

    Raises ValueError for unknown names, for files that are damaged, hostile, or hold other tensors than their
    configuration says, and for an adapter that belongs to another CLIP; OSError where a download is needed
    and fails.
    """
    if os.fspath(name_or_path).startswith(OPEN_CLIP):
        return rounded(open_clip_san(os.fspath(name_or_path)), dtype).to(device)
    path = _locate(name_or_path)
    if path.suffix == ".pth":
        config, state = _read_official(path)
        if _whole(state):
            _refuse(clip, path)
        else:
            raise ValueError(
                f"{path} holds only a side adapter: convert it first, naming its CLIP's checkpoint"
            )
        state = {name: tensor.to(precision(name, config, dtype)) for name, tensor in state.items()}
        check_finite(state, path)
        san = outline(config)
    else:
        head = read_head(path)
        frozen = _clip_for(head, clip)
        san = skeleton(head)
        state = read_tensors(head, dtype)
        state |= {name: tensor.to(precision(name, head.config, dtype)) for name, tensor in frozen.items()}
        san.labels = head.labels
    san.load_state_dict(state, assign=True)
    return san.to(device).eval()


def save_san(
    path: str | os.PathLike[str], san: SAN, kind: str = "san", dtype: torch.dtype | None = None
) -> None:
    """Writes a checkpoint that `load_san` reads. A file at `path` is replaced, whole or not at all.

    kind: a key of `checkpoint.KINDS`: "san" for the whole network, "adapter" for what the released recipe
    trains (`SAN.trained`) and the checksum of the CLIP that it belongs to.
    dtype: what the parameters are stored as; None keeps theirs.

    Raises ValueError for an unknown kind, a path that does not end in .safetensors, and parameters that are
    not finite as `dtype`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown: use one of {', '.join(KINDS)}")
    state = san.state_dict()
    stored = {name: tensor.detach().to("cpu", dtype) for name, tensor in state.items()}
    if kind == "adapter":
        clip_sha256 = checksum(frozen_clip(state))
        stored = {name: stored[name] for name in san.trained()}
    else:
        clip_sha256 = checksum(frozen_clip(stored))
    write(Path(path), stored, kind, san.config, clip_sha256, san.labels)


def seen_labels(name_or_path: NameOrPath) -> tuple[str, ...]:
    """The names that a checkpoint of ours says it was trained on; empty where it does not say.

    Raises ValueError as `load_san` for a file that is not one.
    """
    path = _locate(name_or_path)
    return read_head(path).labels if path.suffix == ".safetensors" else ()


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    clip: NameOrPath | None = None,
    overwrite: bool = False,
) -> None:
    """Converts a released .pth file, or one of the released training code, to a checkpoint of ours.

    A file that holds only what is trained becomes an adapter, for the CLIP of the full checkpoint `clip`.
    Raises ValueError where `load_san` would, and where `out` exists and `overwrite` is not given; a failure
    leaves what was at `out` as it was.
    """
    if Path(out).exists() and not overwrite:
        raise ValueError(f"{out} exists: choose another name, or say that it may be overwritten")
    path = Path(source)
    config, state = _read_official(path)
    if _whole(state):
        _refuse(clip, path)
        write(Path(out), state, "san", config, checksum(frozen_clip(state)))
    else:
        write(Path(out), state, "adapter", config, checksum(_base_clip(path, config, clip)))


def _locate(name_or_path: NameOrPath) -> Path:
    name = os.fspath(name_or_path)
    known = NAMED.get(name)
    if isinstance(known, Release):
        target = cache_folder() / "weights" / f"{name}.safetensors"
        return obtain(known, target, partial(convert, overwrite=True))
    path = known or Path(name)
    if known is not None and not path.is_file():
        raise ValueError(f"the file of {name!r} is not at {path}: install sanseg again")
    if path.suffix not in (".safetensors", ".pth") or not path.is_file():
        raise ValueError(
            f"{name!r} is neither the name of a model ({', '.join(NAMED)}) nor a .safetensors or .pth file"
            " that exists: check the spelling"
        )
    return path


def _read_official(path: Path) -> tuple[SANConfig, dict[str, Tensor]]:
    state = read_pth(path)
    try:
        config = keymaps.official_config(state)
        return config, keymaps.from_official(state, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _whole(state: dict[str, Tensor]) -> bool:
    return bool(frozen_clip(state))


def _refuse(clip: NameOrPath | None, path: Path) -> None:
    if clip is not None:
        raise ValueError(f"{path} holds its own CLIP: leave clip={os.fspath(clip)!r} out")


def _clip_for(head: Head, clip: NameOrPath | None) -> dict[str, Tensor]:
    """The frozen CLIP that an adapter needs; nothing for a whole network, which has its own."""
    if head.kind == "san":
        _refuse(clip, head.path)
        return {}
    frozen = _base_clip(head.path, head.config, clip)
    got = checksum(frozen)
    if got != head.clip_sha256:
        raise ValueError(
            f"{head.path} is an adapter for the {head.config.clip.name} with checksum {head.clip_sha256},"
            f" {os.fspath(clip or '')!r} has the one with {got}: name the checkpoint it was trained on"
        )
    return frozen


def _base_clip(path: Path, config: SANConfig, clip: NameOrPath | None) -> dict[str, Tensor]:
    if clip is None:
        raise ValueError(
            f"{path} holds only a side adapter for the CLIP {config.clip.name!r}: give clip=, a full"
            " checkpoint with this CLIP"
        )
    base = load_san(clip)
    if base.config.clip != config.clip:
        raise ValueError(
            f"{path} is an adapter for {config.clip}, {os.fspath(clip)!r} has {base.config.clip}:"
            " name the checkpoint it was trained on"
        )
    return frozen_clip(base.state_dict())
