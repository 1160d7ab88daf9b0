"""The picture's half of a SAN as one file of torch's own, for any height and width: `torch.export`.

The program takes a picture (1, 3, H, W), normalised and padded as `images.prepare` does it, and gives mask logits
and embeddings, as Proposals has them. It needs torch to run and none of this package. Beside it in the file stands
MEMBER: the SAN's configuration, which says how pictures are resized and normalised, and the fingerprint of its
weights. Words stay with the SAN.

B batch, H W pixels of the padded picture.
"""

from __future__ import annotations

import json
import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from sanseg.model.checkpoint import fingerprint, replacing
from sanseg.model.config import LARGEST_SIDE
from sanseg.model.san import SAN, Proposals

SUFFIX = ".pt2"
MEMBER = "sanseg.json"
FORMAT = "1"
LONGEST_MEMBER = 1 << 20  # bytes
FEWEST_STEPS = 2  # of the divisor, that a side has: torch.export takes a side of one token for a constant
FARTHEST = 1e-4  # that the program's answer may be from the network's, of the largest number there
TRACED, CHECKED = (
    (3, 5),
    (4, 2),
)  # steps high and wide of the pictures that it is traced with, and compared on


class _Propose(nn.Module):
    """`SAN.propose` with tensors as its answer. Shares the SAN's tensors, and leaves out its text tower."""

    def __init__(self, san: SAN) -> None:
        super().__init__()
        shared: dict[int, Any] = {id(parameter): parameter for parameter in san.parameters()}
        self.san = deepcopy(san, shared | {id(san.clip.text): nn.Identity()})

    def forward(self, image_13HW: Tensor) -> tuple[Tensor, ...]:
        proposals: Proposals = self.san.propose(image_13HW)
        return proposals.tensors


def export_san(path: str | os.PathLike[str], san: SAN, *, overwrite: bool = False) -> None:
    """Writes the program of a SAN, on its device and in its dtype, whole or not at all.

    Raises ValueError where the path does not end in SUFFIX, or exists and may not be overwritten, for a SAN that
    cannot be exported, and where the program gives something else than the SAN.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"exported programs are {SUFFIX} files, the path is {path}: let it end in {SUFFIX}")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: choose another name, or say that it may be overwritten")
    program = _trace(san.eval())
    _compare(program, san)
    told = {"format": FORMAT, "fingerprint": fingerprint(san), "config": san.config.to_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file, extra_files={MEMBER: json.dumps(told)})


def _trace(san: SAN) -> ExportedProgram:
    divisor = san.config.divisor
    most = LARGEST_SIDE // divisor
    high, wide = Dim("high", min=FEWEST_STEPS, max=most), Dim("wide", min=FEWEST_STEPS, max=most)
    sizes = {"image_13HW": {2: divisor * high, 3: divisor * wide}}
    try:
        with torch.no_grad():
            return torch.export.export(
                _Propose(san), (_picture(san, TRACED),), dynamic_shapes=sizes, strict=False
            )
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the {san.config.name!r} cannot be exported ({reason}): use it as it is") from error


def _compare(program: ExportedProgram, san: SAN) -> None:
    """On a picture of another size than it was traced with. Raises ValueError where they differ."""
    image = _picture(san, CHECKED)
    with torch.no_grad():
        wanted = san.propose(image)
        answer = program.module()(image)
    for found, one in zip(answer, wanted.tensors, strict=True):
        apart = float((found - one).abs().max())
        if not apart <= FARTHEST * float(one.abs().max()):
            raise ValueError(
                f"torch {torch.__version__} makes a program whose answer is {apart:.3g} apart from that of the"
                f" {san.config.name!r}: use it as it is"
            )


def _picture(san: SAN, steps: tuple[int, int]) -> Tensor:
    height, width = (san.config.divisor * side for side in steps)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, height, width, generator=generator).to(san.nothing.device)


@dataclass(frozen=True)
class Exported:
    """A program behind the seam: `Segmenter(san, proposer=Exported.load("mini.pt2", san))`."""

    program: nn.Module
    divisor: int

    @classmethod
    def load(cls, path: str | os.PathLike[str], san: SAN) -> Exported:
        """san: the one that it was exported from, whose words will name the regions.

        `torch.export.load` can be made to run code: give it files of your own only, or of whom you trust. A file
        that `export_san` did not write is refused before it is asked.

        Raises ValueError for other files, damaged ones, and programs of other weights.
        """
        told = _read_member(Path(path))
        if told.get("fingerprint") != (own := fingerprint(san)):
            raise ValueError(
                f"{path} was exported from weights {told.get('fingerprint')}, these are {own}: load the SAN that it"
                " was made of, or export this one"
            )
        try:
            program = torch.export.load(path)
        # What torch raises for files that it cannot take, whose reader has no error of its own.
        except (RuntimeError, ValueError, LookupError, AssertionError, BadZipFile) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{path} is no program that torch {torch.__version__} can read ({reason}): export it again"
            ) from error
        return cls(program.module(), san.config.divisor)

    def propose(self, image_B3HW: Tensor) -> Proposals:
        """As `SAN.propose`, one picture after the other.

        Raises ValueError for sides below FEWEST_STEPS times the divisor or above LARGEST_SIDE, or no multiples.
        """
        least = FEWEST_STEPS * self.divisor
        for side in image_B3HW.shape[2:]:
            if side % self.divisor or not least <= side <= LARGEST_SIDE:
                raise ValueError(
                    f"a side has {side} pixels, the program takes multiples of {self.divisor} from {least} to"
                    f" {LARGEST_SIDE}: resize or pad the picture"
                )
        answers = [self.program(image_3HW[None]) for image_3HW in image_B3HW]
        return Proposals(*map(torch.cat, zip(*answers, strict=True)))


def _read_member(path: Path) -> dict[str, Any]:
    """What an exported file says of itself, in plain values; its program is not looked at."""
    try:
        with ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/{MEMBER}")]
            if len(names) != 1:
                raise ValueError(f"it holds {len(names)} {MEMBER}")
            with archive.open(names[0]) as member:
                told = json.loads(member.read(LONGEST_MEMBER))
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise ValueError(f"its {MEMBER} is not of format {FORMAT}")
    except (ValueError, BadZipFile, RecursionError, NotImplementedError) as error:
        raise ValueError(f"{path} was not written by `sanseg export` ({error}): export it again") from error
    return told
