"""What was measured, as figures: PNGs on white, for pages that show pictures and nothing else."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sanseg.benchmark.claims import Claims
from sanseg.figures import INK, SERIES, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
TITLES = {"san": "SAN", "simseg": "SimSeg", "maskclip": "MaskCLIP"}


def claims_figure(claims: Claims) -> bytes:
    """Bars of seconds, operations and, where it was measured, accuracy, a row for each method."""
    found = claims.methods
    seconds = {name: one.time.median / 1000 for name, one in found.items()}
    panels = {
        "seconds for a photo": {
            name: (one, f"{one:.2f} s" + ("" if name == "san" else f", {claims.ratio(name):.1f} times SAN"))
            for name, one in seconds.items()
        },
        "GFLOP, picture to masks and embeddings": {
            name: (one.gflop, f"{one.gflop:,.0f}") for name, one in found.items()
        },
    }
    scored = {name: (one.miou, f"{one.miou:.1f}") for name, one in found.items() if one.miou is not None}
    if scored:
        panels[f"mIoU on {claims.pictures} pictures of {claims.dataset}, %"] = scored
    with drawing("", (4 * len(panels), 1.9)) as figure:
        for axes, (title, bars) in zip(
            figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True
        ):
            _draw_bars(axes, title, bars)
        size = " x ".join(map(str, claims.case.size))
        figure.suptitle(
            f"{claims.network}, {size} pixels, {claims.case.labels} labels, {claims.dtype}", fontsize=10
        )
        return _png(figure)


def _draw_bars(axes: Axes, title: str, bars: Mapping[str, tuple[float, str]]) -> None:
    places = np.arange(len(bars))
    colours = [SERIES[number][0] for number in range(len(bars))]
    axes.barh(places, [value for value, _ in bars.values()], color=colours, height=0.62)
    for place, (value, text) in enumerate(bars.values()):
        axes.annotate(text, (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(places, [TITLES[name] for name in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1.7 * max(value for value, _ in bars.values()))
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, fontsize=9.5, loc="left")


@dataclass(frozen=True)
class Growth:
    """How stages grow with one thing. title: the thing. ticks: what its values are called. stages: ms at each value."""

    title: str
    ticks: tuple[str, ...]
    values: tuple[float, ...]
    stages: Mapping[str, Sequence[float]]


def growth_figure(panels: Sequence[Growth], title: str) -> bytes:
    """Stages stacked over what they grow with, two panels a row."""
    names = list(panels[0].stages)
    colours = [SERIES[number % len(SERIES)][0] for number in range(len(names))]
    rows = -(-len(panels) // 2)
    with drawing("", (9.6, 2.9 * rows + 0.6)) as figure:
        for axes, panel in zip(np.ravel(figure.subplots(rows, 2)), panels, strict=False):
            stacked = np.array([panel.stages[name] for name in names]) / 1000
            axes.stackplot(panel.values, stacked, labels=names, colors=colours, linewidth=0, alpha=0.85)
            total = stacked.sum(0)
            axes.plot(panel.values, total, color=INK, linewidth=1, marker="o", markersize=4, clip_on=False)
            for value, seconds in zip(panel.values, total, strict=True):
                inward = {panel.values[0]: "left", panel.values[-1]: "right"}.get(value, "center")
                text = f"{seconds:.2f}"
                axes.annotate(
                    text, (value, seconds), (0, 6), textcoords="offset points", ha=inward, fontsize=8
                )
            axes.set_xticks(panel.values, panel.ticks)
            axes.margins(x=0)
            axes.set_ylim(0, 1.18 * float(total.max()))
            axes.set(xlabel=panel.title, ylabel="seconds")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper center", ncols=len(names), frameon=False, title=title
        )
        return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    return file.getvalue()
