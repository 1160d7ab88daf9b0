"""How a photo's cost grows: with what the network sees, with the photo, with labels, with queries.

    python bench/growth.py --figure docs/pictures/growth.png --json runs/growth.json
    python bench/growth.py --dtype bfloat16 --rounds 5

SAN on ViT-B/16 with random weights and plausible answers (sanseg/benchmark/case.py), the stages of `sanseg bench`,
each the fastest of its rounds, which what else the machine does disturbs least. One thing grows at a time; the others
stay at a square photo of 640 pixels a side that is seen as it is, 171 labels and 100 queries. The rounds of one thing's
values take turns. Words are encoded first, and kept in sanseg's cache folder. Threads are torch's default; set
OMP_NUM_THREADS to change them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sanseg.benchmark import Case
from sanseg.benchmark.figures import Growth, growth_figure
from sanseg.benchmark.road import STAGES, Stopwatch, walk
from sanseg.benchmark.rounds import machine
from sanseg.devices import DTYPES
from sanseg.images import write_bytes
from sanseg.model.config import SAN_VIT_B16, SANConfig
from sanseg.model.download import cache_folder
from sanseg.model.san import SAN
from sanseg.model.text_cache import TextCache
from sanseg.segmenter import Segmenter

SIDE, LABELS = 640, 171


def seen_as(side: int) -> SANConfig:
    """A network that sees a square photo so many pixels high and wide."""
    return replace(SAN_VIT_B16, short_side=side, long_side=max(side, SAN_VIT_B16.long_side))


def asking(queries: int) -> SANConfig:
    return replace(SAN_VIT_B16, side=replace(SAN_VIT_B16.side, queries=queries))


def cases(options: argparse.Namespace) -> Iterator[tuple[str, str, dict[int, Case]]]:
    """What grows, whether the axis is in steps of "sides" or of "times", and the case of each value."""
    square = (SIDE, SIDE)
    yield (
        "pixels a side of what the network sees",
        "sides",
        {side: Case(seen_as(side), (side, side), LABELS, "cpu") for side in options.sizes},
    )
    yield (
        "pixels a side of the photo, seen with 640",
        "sides",
        {side: Case(SAN_VIT_B16, (side, side), LABELS, "cpu") for side in options.photos},
    )
    yield "labels", "times", {labels: Case(SAN_VIT_B16, square, labels, "cpu") for labels in options.labels}
    yield (
        "queries",
        "times",
        {queries: Case(asking(queries), square, LABELS, "cpu") for queries in options.queries},
    )


class Subject:
    """One value's case, and the milliseconds of its stages."""

    def __init__(self, case: Case, san: SAN, texts: TextCache) -> None:
        self.case = case
        self.segmenter: Segmenter = case.segmenter(san, texts)
        self.segmenter.classifier(case.words())
        self.staged: dict[str, list[float]] = {stage: [] for stage in STAGES}

    @torch.inference_mode()
    def round(self) -> None:
        watch = Stopwatch(self.segmenter.device)
        walk(self.segmenter, self.case.photo(), self.case.words(), watch)
        for stage, ms in watch.ms.items():
            self.staged[stage].append(ms)


class Networks:
    """Of random weights, each made once: what picture it sees changes none of them."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.made: dict[int, SAN] = {}

    def of(self, case: Case) -> SAN:
        assert isinstance(case.model, SANConfig)
        queries = case.model.side.queries
        if queries not in self.made:
            self.made[queries] = case.network(self.dtype)
        san = copy(self.made[queries])
        san.config = case.model
        return san


def measure(
    some: dict[int, Case], networks: Networks, rounds: int, texts: TextCache
) -> dict[str, list[float]]:
    """Milliseconds of each stage, at each value."""
    subjects = [Subject(case, networks.of(case), texts) for case in some.values()]
    for _ in range(rounds):
        for subject in subjects:
            subject.round()
    return {stage: [min(one.staged[stage]) for one in subjects] for stage in STAGES}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[320, 480, 640, 800, 1024])
    parser.add_argument(
        "--photos", nargs="+", type=int, default=[640, 1024, 2048, 3456], help="pixels a side"
    )
    parser.add_argument("--labels", nargs="+", type=int, default=[2, 20, 171, 847])
    parser.add_argument("--queries", nargs="+", type=int, default=[25, 50, 100, 200])
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="a PNG")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts, networks = TextCache(cache_folder() / "text.sqlite"), Networks(DTYPES[options.dtype])
    console, panels = Console(), []
    for title, axis, some in cases(options):
        stages = measure(some, networks, options.rounds, texts)
        values = tuple(float(value) if axis == "sides" else math.log2(value) for value in some)
        panels.append(Growth(title, tuple(map(str, some)), values, stages))
        table = Table(title, *map(str, some))
        for stage, ms in stages.items():
            table.add_row(stage, *(f"{one:.0f}" for one in ms))
        table.add_section()
        table.add_row("ms", *(f"{sum(column):.0f}" for column in zip(*stages.values(), strict=True)))
        console.print(table)
    if options.json:
        told = {panel.title: {"values": panel.ticks, "stages_ms": panel.stages} for panel in panels}
        how = {"dtype": options.dtype, "rounds": options.rounds, "machine": machine("cpu")}
        options.json.write_text(json.dumps(how | {"growth": told}, indent=1) + "\n")
    if options.figure:
        title = f"ViT-B/16, {options.dtype}, {SIDE} x {SIDE} pixels, {LABELS} labels, 100 queries, but for what grows"
        write_bytes(options.figure, growth_figure(panels, title))


if __name__ == "__main__":
    main()
