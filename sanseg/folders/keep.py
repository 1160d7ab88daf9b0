"""Encoded pictures on disk: the network's half of an answer, so that new words need no network.

Q queries, E shared embedding, h w the mask grid.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sanseg.devices import name_dtype
from sanseg.images import Geometry, write_bytes
from sanseg.model.checkpoint import checksum
from sanseg.model.san import Proposals
from sanseg.segmenter import Encoded, Segmenter

ENCODED = ".encoded"  # in OUT, unless another folder is asked for


class KeptPictures:
    """Proposals and sizes of pictures, a file for each, by the checksum of the picture's file and of the network.

    Tensors are kept as the network gave them: answers are the same to the bit. (In float16 they take half the room,
    but about one pixel in 30,000 gets another label.) A file that is damaged counts as absent, and is written again.
    Several processes may use one folder. What a picture's file was called does not matter.

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
        except (OSError, SafetensorError, LookupError, ValueError, RuntimeError):
            return None

    def _read(self, tensors: dict[str, Tensor], name: str) -> tuple[Proposals, Geometry]:
        """Raises LookupError and ValueError for what `put` does not write."""
        if tensors.pop("seal").tolist() != _seal(tensors, name).tolist():
            raise ValueError("these are not the numbers that were written for this picture")
        original, content, padded = ((int(y), int(x)) for y, x in tensors["geometry"].tolist())
        device = self.segmenter.device
        proposals = Proposals(tensors["mask_logits"].to(device), tensors["embeddings"].to(device))
        return proposals, Geometry(original, content, padded)

    def put(self, sha256: str, encoded: Encoded) -> None:
        """Keeps an encoded picture. Raises OSError where the disk refuses."""
        geometry, proposals = encoded.geometry, encoded.proposals
        tensors = {
            "mask_logits": proposals.mask_logits.cpu().contiguous(),  # (1, Q, h, w)
            "embeddings": proposals.embeddings.cpu().contiguous(),  # (1, Q, E)
            "geometry": torch.tensor([geometry.original, geometry.content, geometry.padded]),
        }
        path = self.path(sha256)
        write_bytes(path, save({**tensors, "seal": _seal(tensors, path.stem)}))


def _seal(tensors: dict[str, Tensor], name: str) -> Tensor:
    """A checksum of what a file holds and of what it is called, uint8 (32,)."""
    digest = hashlib.sha256(f"{name} {checksum(tensors)}".encode()).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)
