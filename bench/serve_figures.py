"""What bench/serve.py measured, as PNGs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sanseg.figures import INK, SERIES, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


def load_figure(sweep: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> bytes:
    """Throughput and latency over clients, a column for each way of asking."""
    with drawing("", (4.6 * len(sweep), 5.0)) as figure:
        panels = figure.subplots(2, len(sweep), squeeze=False, sharex=True)
        for (rate, latency), (name, levels) in zip(panels.T, sweep.items(), strict=True):
            clients = [one["clients"] for one in levels]
            places = np.arange(len(clients))
            per_second = [one["per_second"] for one in levels]
            rate.plot(places, per_second, color=SERIES[0][0], marker=SERIES[0][1])
            rate.set(title=name, ylabel="answers a second", ylim=(0, 1.25 * max(per_second)))
            for share, label, (colour, mark, _) in zip(
                ("p50", "p90", "p99"), ("median", "90 %", "99 %"), SERIES[1:], strict=False
            ):
                latency.plot(
                    places,
                    [one["ms"][share] / 1000 for one in levels],
                    color=colour,
                    marker=mark,
                    label=label,
                )
            latency.set(xlabel="clients", ylabel="seconds", yscale="log")
            latency.yaxis.set_major_formatter("{x:g}")  # powers would be set as mathematics, which is off
            latency.set_xticks(places, [str(one) for one in clients])
            latency.legend(frameon=False)
        figure.suptitle(title, fontsize=10)
        return _png(figure)


def soak_figure(told: Mapping[str, Any]) -> bytes:
    """Resident memory over minutes, and the line through it after the warm-up."""
    seconds, megabytes = (np.array(told["samples"][name]) for name in ("seconds", "megabytes"))
    with drawing("", (7.2, 3.2)) as figure:
        axes = figure.subplots()
        axes.plot(seconds / 60, megabytes, color=SERIES[0][0], linewidth=1.2, label="resident memory")
        warm = seconds > told["warm_seconds"]
        middle = megabytes[warm].mean() + told["slope"] * (seconds[warm] - seconds[warm].mean()) / 3600
        label = f"{told['slope']:+.1f} MB an hour (95 %: {told['low']:+.1f} to {told['high']:+.1f})"
        axes.plot(seconds[warm] / 60, middle, color=SERIES[1][0], label=label)
        axes.axvline(told["warm_seconds"] / 60, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlabel="minutes", ylabel="MB", ylim=(0, 1.25 * megabytes.max()))
        axes.legend(frameon=False, loc="lower right")
        return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return file.getvalue()
