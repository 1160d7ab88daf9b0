"""The options that say which model computes, and where: what several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sanseg.segmenter import Segmenter

Model = Annotated[str, typer.Option(help="A name ('sanseg models' lists them) or a checkpoint.")]
Clip = Annotated[
    str | None,
    typer.Option(help="For a checkpoint that is only an adapter: the one whose CLIP it needs."),
]
Device = Annotated[str, typer.Option(help="auto, cuda, cuda:1, mps or cpu.")]
Dtype = Annotated[
    str,
    typer.Option(help="float32, bfloat16, float16. auto: bfloat16 where the device has it natively."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def what_computes(model: str, segmenter: Segmenter) -> str:
    """The model as it was asked for, and the device and number type that "auto" became, if it was that."""
    from sanseg.devices import name_dtype

    return f"{model} on {segmenter.device} in {name_dtype(segmenter.san.nothing.dtype)}"
