"""Encoded pictures on disk: the network's half of an answer, so that new words need no network.

Q queries, E shared embedding, h w the mask grid.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sanseg.devices import name_dtype
from sanseg.images import Geometry, write_bytes
from sanseg.model.san import Proposals
from sanseg.segmenter import Encoded, Segmenter

ENCODED = ".encoded"  # in OUT, unless another folder is asked for

LOW, HIGH = "mask_logits.low", "mask_logits.high.zlib"  # bytes
EARLIER = b'"mask_logits":'  # float32, before they were two
LARGEST = torch.finfo(torch.float16).max


class KeptPictures:
    """Proposals and sizes of pictures, a file for each, by the checksum of the picture's file and of the network.

    Mask logits and what is seen are kept in float16, embeddings as the network gave them. Whoever keeps a picture
    answers from what `rounded` makes of it, so that later answers are the same to the bit. A file that is damaged,
    or of an earlier version, counts as absent, and is written again. Several processes may use one folder. What a
    picture's file was called does not matter.

    folder: made when first written to; it may be removed at any time.
    network: the fingerprint of its weights.
    """

    def __init__(self, folder: Path, network: str, segmenter: Segmenter) -> None:
        self.folder = folder
        self.segmenter = segmenter
        self._network = f"1 {network} {segmenter.resize} {name_dtype(segmenter.san.nothing.dtype)}"

    def path(self, sha256: str) -> Path:
        """Where the picture with this checksum is kept, or would be."""
        name = hashlib.sha256(f"{self._network} {sha256}".encode()).hexdigest()[:40]
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, sha256: str) -> tuple[Proposals, Geometry] | None:
        """Of the picture with this checksum, on the model's device; None where nothing whole is kept."""
        try:
            path = self.path(sha256)
            return self._read(load(path.read_bytes()), path.stem)
        except (OSError, SafetensorError, LookupError, ValueError, RuntimeError, zlib.error):
            return None

    def _read(self, tensors: dict[str, Tensor], name: str) -> tuple[Proposals, Geometry]:
        """Raises LookupError, ValueError, RuntimeError and zlib.error for what `put` does not write."""
        if tensors.pop("seal").tolist() != _seal(tensors, name).tolist():
            raise ValueError("these are not the numbers that were written for this picture")
        original, content, padded = ((int(y), int(x)) for y, x in tensors["geometry"].tolist())
        masks = _unpacked(tensors[LOW], tensors[HIGH]).to(self.segmenter.device)
        proposals = Proposals(masks, tensors["embeddings"].to(self.segmenter.device))
        if (seen := tensors.get("seen")) is not None:
            proposals = replace(proposals, seen=seen.to(self.segmenter.device).float())
        return proposals, Geometry(original, content, padded)

    def put(self, sha256: str, encoded: Encoded) -> None:
        """Keeps a picture that was `rounded`. Raises OSError where the disk refuses."""
        geometry, proposals = encoded.geometry, encoded.proposals
        low, high = _packed(proposals.mask_logits.cpu())
        tensors = {
            LOW: low,  # (1, Q, h, w)
            HIGH: high,
            "embeddings": proposals.embeddings.cpu().contiguous(),  # (1, Q, E)
            "geometry": torch.tensor([geometry.original, geometry.content, geometry.padded]),
        }
        if proposals.seen is not None:
            tensors["seen"] = proposals.seen.cpu().half().contiguous()  # (1, Q, C)
        path = self.path(sha256)
        write_bytes(path, save({**tensors, "seal": _seal(tensors, path.stem)}))


def rounded(encoded: Encoded) -> Encoded:
    """The picture as it will be read again: mask logits and what is seen float32, but of float16's numbers.

    Mask logits are at most 65504.

    What is not finite stays so, for an answer to refuse.
    """
    masks = encoded.proposals.mask_logits.float()
    within = torch.where(masks.isfinite(), masks.clamp(-LARGEST, LARGEST), masks).half().float()
    seen = None if encoded.proposals.seen is None else encoded.proposals.seen.half().float()
    return replace(encoded, proposals=replace(encoded.proposals, mask_logits=within, seen=seen))


def holds_earlier(folder: Path) -> bool:
    """Whether pictures are kept there, the first one found for one, as earlier versions did: in float32."""
    for path in folder.glob("*/*.safetensors"):
        with path.open("rb") as file:
            return EARLIER in file.read(1000)
    return False


def _packed(masks: Tensor) -> tuple[Tensor, Tensor]:
    """The low bytes of float16's numbers, uint8 of the same shape, and the high bytes packed by zlib, uint8 (n,).

    The high ones are sign, exponent and two bits more, which repeat themselves; the low ones do not.
    """
    low, high = masks.half()[..., None].view(torch.uint8).unbind(-1)
    packed = bytearray(zlib.compress(high.contiguous().numpy().data, level=1))
    return low.contiguous(), torch.frombuffer(packed, dtype=torch.uint8)


def _unpacked(low: Tensor, high: Tensor) -> Tensor:
    """What `_packed` was given, float32. Raises ValueError and zlib.error for what it does not give.

    Never more is unpacked than there are low bytes, whatever the packed ones pretend to be.
    """
    count = low.numel()
    opened = zlib.decompressobj()
    content = opened.decompress(high.numpy().data, count + 1)
    if len(content) != count or not opened.eof:
        raise ValueError(f"{len(content)} high bytes or more for {count} low ones")
    both = np.empty((count, 2), dtype=np.uint8)
    both[:, 0], both[:, 1] = low.numpy().ravel(), np.frombuffer(content, dtype=np.uint8)
    return torch.from_numpy(both.view(np.float16).reshape(low.shape)).float()


def _seal(tensors: dict[str, Tensor], name: str) -> Tensor:
    """A checksum of what a file holds and of what it is called, uint8 (32,)."""
    digest = hashlib.sha256(name.encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
