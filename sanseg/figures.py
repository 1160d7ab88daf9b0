"""Figures for people who would rather look than read: curves as SVG, the page of an evaluation as PNG.

The same input gives the same bytes. matplotlib's object interface: no window, no global figure, and the settings
of whoever imports this are left out. Where matplotlib is missing, ValueError says what to install.

H W pixels of a picture.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sanseg.draw import LabelMap, heading, triptych
from sanseg.extras import need
from sanseg.metrics import Bin, Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sanseg.evaluate import Evaluation

Shown = tuple[NDArray[np.uint8], LabelMap, LabelMap, float, str]
"""A picture uint8 (H, W, 3), its truth and its prediction (H, W), its mIoU in percent, its name."""

# Colours after Okabe and Ito, told apart by every eye, here as dark or as light as it takes to stand out (3 to 1)
# from both white and black pages; the shape says it again.
SERIES = (
    ("#0072b2", "o", "●"),
    ("#d55e00", "s", "■"),
    ("#1c8a6b", "^", "▲"),
    ("#b85c93", "D", "◆"),
    ("#8a6d00", "v", "▼"),
    ("#7a7a7a", "P", "✚"),
)
INK = "#010203"  # axes and text; in SVG it becomes the colour of the page's text
CURVE_POINTS = 600  # a curve of more points is drawn as the range it runs through
SMOOTHED_FROM = 60  # points
WIDE = 20.0  # a highest value so many times the lowest is drawn on a logarithmic axis
LONGEST_NAME = 26  # characters of a label on an axis
MOST_WORDS = 60  # of a picture of cosines
PAGE_WIDTH = 1760  # pixels
CHART_DPI = 110
PANEL_SIDE = 300  # pixels, of each of the three parts of a picture on the page

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same on every machine
    "font.size": 9.5,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "svg.fonttype": "none",  # text stays text
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a label begins no formula
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Curve:
    """What is drawn as one line: x ascending, y, both (N,). What is not finite is left out."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> Curve:
        x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
        return cls(x, y)

    def finite(self) -> Curve:
        there = np.isfinite(self.x) & np.isfinite(self.y)
        return Curve(self.x[there], self.y[there])


def wide_range(curves: Sequence[Curve]) -> bool:
    """Whether a logarithmic axis shows more: all values are above 0, and the smoothed ones differ widely."""
    values = np.concatenate([smoothed(curve.finite().y) for curve in curves] or [np.empty(0)])
    return len(values) > 0 and float(values.min()) > 0 and float(values.max() / values.min()) > WIDE


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over a fortieth of the run around each point, (N,): it does not lag behind as a running mean does."""
    reach = smoothing(len(values)) // 2
    if reach == 0:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    mean: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return mean


def smoothing(points: int) -> int:
    """Over how many points a curve of so many is smoothed: an odd number, 1 for a short one."""
    return 1 if points < SMOOTHED_FROM else points // 40 // 2 * 2 + 1


def curves_figure(
    name: str,
    curves: Sequence[Curve],
    *,
    alt: str,
    unit: str,
    noisy: bool = False,
    zero: bool = False,
    marks: bool = False,
) -> bytes:
    """Curves over the iterations of a run, in the colours and shapes of SERIES: an SVG for inside a page.

    name: tells the figures of one page apart. alt: what it shows, for who cannot see it. unit: of y, beside
    the axis. noisy: curves are smoothed, and drawn faintly as they are; the axis is logarithmic where
    `wide_range`. zero: the axis begins at 0 instead. marks: each point is marked.
    A legend is the page's to write, by SERIES.
    """
    with drawing(name, (4.9, 2.7)) as figure:
        from matplotlib.ticker import FuncFormatter, LogFormatter

        axes = figure.subplots()
        for curve, (colour, marker, _) in zip(curves, _series(len(curves)), strict=True):
            _draw_curve(axes, curve.finite(), colour, marker if marks else "", noisy)
        if noisy and not zero and wide_range(curves):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        else:
            axes.yaxis.set_major_formatter(FuncFormatter(_number))
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
        axes.locator_params(axis="x", nbins=5, integer=True)
        last = max((float(curve.x.max()) for curve in curves if len(curve.x)), default=0.0)
        axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
        if zero:  # with room for marks at the top
            highest = max((float(curve.finite().y.max(initial=0)) for curve in curves), default=0.0)
            axes.set_ylim(0, 1.07 * highest or 1)
        axes.set(xlabel="iterations", ylabel=unit)
        return _svg(figure, alt)


def _series(count: int) -> list[tuple[str, str, str]]:
    return [SERIES[number % len(SERIES)] for number in range(count)]


def _draw_curve(axes: Axes, curve: Curve, colour: str, marker: str, noisy: bool) -> None:
    x, y = curve.x, curve.y
    points = len(x)
    starts = np.linspace(0, points, min(points, CURVE_POINTS), endpoint=False).astype(int)
    line = smoothed(y) if noisy else y
    if points <= CURVE_POINTS:
        if noisy and smoothing(points) > 1:
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.35)
    elif noisy:
        low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
        axes.fill_between(x[starts], low, high, color=colour, alpha=0.25, linewidth=0)
    kept = np.union1d(starts, [points - 1]) if points else starts
    lonely = "o" if points == 1 else ""
    axes.plot(x[kept], line[kept], color=colour, linewidth=1.6, marker=marker or lonely, markersize=4.5)


def reliability_figure(name: str, bins: Sequence[Bin], *, alt: str) -> bytes:
    """How often each confidence is right: an SVG for inside a page. name, alt: as for `curves_figure`."""
    with drawing(name, (3.4, 2.9)) as figure:
        _draw_reliability(figure.subplots(), bins)
        return _svg(figure, alt)


def evaluation_figure(evaluation: Evaluation, worst: Sequence[Shown], best: Sequence[Shown]) -> bytes:
    """One page about one set: the largest confusions, how far confidence can be trusted, and the worst and the
    best pictures, each as photo, truth and prediction: a PNG, PAGE_WIDTH pixels wide.
    """
    sections = [_charts(evaluation)]
    for title, shown in (("Worst pictures", worst), ("Best pictures", best)):
        if shown:
            explained = f"{title}: photo, truth, prediction; labels with their shares of both"
            sections += [heading(explained, PAGE_WIDTH), _sheet(evaluation, shown)]
    page = Image.new("RGB", (PAGE_WIDTH, sum(one.height for one in sections)), (255, 255, 255))
    top = 0
    for one in sections:
        page.paste(one, (0, top))
        top += one.height
    file = io.BytesIO()
    page.save(file, format="PNG")
    return file.getvalue()


def _charts(evaluation: Evaluation) -> Image.Image:
    metrics = evaluation.metrics
    name = legible_labels([evaluation.name])[0]
    with drawing("", (PAGE_WIDTH / CHART_DPI, 4.6)) as figure:
        figure.suptitle(
            f"{name}: mIoU {metrics.miou_present:.1f} (labels present), {metrics.miou_union:.1f}"
            f" (present or predicted), {evaluation.pictures} pictures",
            fontsize=13,
        )
        left, right = figure.subplots(1, 2, width_ratios=(3, 1))
        _draw_confusions(left, evaluation)
        _draw_reliability(right, metrics.reliability)
        error = metrics.calibration_error
        right.set_title("confidence is not known" if np.isnan(error) else f"calibration error {error:.1f} %")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=CHART_DPI, facecolor="white")
    return Image.open(file).convert("RGB")


def _sheet(evaluation: Evaluation, shown: Sequence[Shown]) -> Image.Image:
    """Two pictures a row."""
    labels, gap = evaluation.metrics.labels, 20
    half = (PAGE_WIDTH - 3 * gap) // 2
    tiles = []
    for image, truth, prediction, miou, name in shown:
        tile = triptych(image, truth, prediction, labels, side=PANEL_SIDE)
        caption = heading(f"{name}  mIoU {miou:.1f}", half, size=15)
        tile.thumbnail((half, 2 * half))
        framed = Image.new("RGB", (half, caption.height + tile.height + gap), (255, 255, 255))
        framed.paste(caption)
        framed.paste(tile, (0, caption.height))
        tiles.append(framed)
    rows = [tiles[number : number + 2] for number in range(0, len(tiles), 2)]
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("RGB", (PAGE_WIDTH, sum(heights)), (255, 255, 255))
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            sheet.paste(tile, (gap + column * (half + gap), sum(heights[:number])))
    return sheet


def _draw_confusions(axes: Axes, evaluation: Evaluation) -> None:
    """Bars of the largest confusions, largest first, as shares of the pixels of what is there."""
    found = evaluation.confusions(10)
    labels = evaluation.metrics.labels
    names = dict(zip(labels, legible_labels(labels), strict=True)) | {"other": "other"}
    texts = [f"{names[one.truth]} → {names[one.predicted]}" for one in found]
    places = np.arange(len(found))
    axes.barh(places, [one.share for one in found], color=SERIES[1][0], height=0.7)
    for place, one in zip(places, found, strict=True):
        axes.annotate(
            f"{one.share:.1f} %", (one.share, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(places, texts)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlim(0, 1.15 * max((one.share for one in found), default=1.0))
    axes.set_xlabel("share of the truth's pixels, %")
    axes.set_title("Largest confusions by pixels: truth → prediction" if found else "Nothing is confused")


def _draw_reliability(axes: Axes, bins: Sequence[Bin]) -> None:
    """A dot for each range of confidence; its area follows the number of its pixels."""
    filled = [one for one in bins if one.pixels]
    most = max((one.pixels for one in filled), default=1)
    axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle="--", alpha=0.5)
    confidence, accuracy = [one.confidence for one in filled], [one.accuracy for one in filled]
    axes.plot(confidence, accuracy, color=SERIES[0][0], linewidth=1.2, alpha=0.6)
    axes.scatter(
        confidence,
        accuracy,
        s=[6 + 114 * one.pixels / most for one in filled],
        color=SERIES[0][0],
        zorder=3,
        clip_on=False,
    )
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="right, %")
    axes.set_aspect("equal")


def calibration_figure(before: Metrics, after: Metrics, temperature: float) -> bytes:
    """How often each confidence is right, before and after it got a temperature, beside each other: a PNG."""
    with drawing("", (8.2, 4.2)) as figure:
        titles = ("before", f"after, temperature {temperature:.2f}")
        for axes, metrics, title in zip(figure.subplots(1, 2), (before, after), titles, strict=True):
            _draw_reliability(axes, metrics.reliability)
            axes.set_title(f"{title}: calibration error {metrics.calibration_error:.1f} %")
        return _png(figure)


def cosines_figure(words: Sequence[str], cosines: NDArray[np.float32]) -> bytes:
    """How alike words are to a text tower, each with each: a PNG.

    cosines: float32 (K, K). Colours run from the least of them to 1. Raises ValueError for no words, and for more than
    MOST_WORDS.
    """
    if not 1 <= len(words) <= MOST_WORDS:
        raise ValueError(f"{len(words)} words do not fit a picture: draw 1 to {MOST_WORDS}")
    names = legible_labels(words)
    side = 2.4 + 0.5 * len(words)
    with drawing("", (side, side)) as figure:
        axes = figure.subplots()
        axes.imshow(cosines, cmap="Blues", vmin=float(cosines.min()), vmax=1.0)
        middle = (1 + float(cosines.min())) / 2
        for i, row in enumerate(cosines.tolist()):
            for j, cosine in enumerate(row):
                colour = "white" if cosine > middle else INK
                axes.text(j, i, f"{cosine:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="left", rotation_mode="anchor")
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return _png(figure)


def legible_labels(labels: Sequence[str]) -> list[str]:
    """Labels in what matplotlib's own font can write, each at most LONGEST_NAME characters; "label 3", counted
    from 0, for one in another script."""
    fonts = need("matplotlib.font_manager", "plot", "a figure")
    known = fonts.get_font(fonts.findfont("DejaVu Sans")).get_charmap()
    return [_legible(label, number, known) for number, label in enumerate(labels)]


def _legible(label: str, number: int, known: Container[int]) -> str:
    label = label if len(label) <= 400 else label[:200] + label[-200:]
    letters = unicodedata.normalize("NFC", " ".join(label.split()))
    text = "".join(
        letter if letter.isprintable() and ord(letter) in known and ord(letter) < 0x590 else "?"
        for letter in letters
    )  # the scripts from Hebrew on need shaping
    if not any(letter.isalnum() for letter in text):
        return f"label {number}"
    half = LONGEST_NAME // 2 - 1  # both ends are kept: benchmark names often differ in one of them only
    return text if len(text) <= LONGEST_NAME else f"{text[:half]}…{text[-half:]}"


def _number(value: float, place: int) -> str:
    return f"{value:,.6g}"


@contextmanager
def drawing(name: str, size: tuple[float, float]) -> Iterator[Figure]:
    """An empty figure of so many inches. name: salts the ids of an SVG."""
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ValueError("figures need matplotlib: pip install 'sanseg[train]'") from error

    with matplotlib.style.context(["default", {**_STYLE, "svg.hashsalt": f"sanseg-{name}"}]):
        yield Figure(figsize=size, layout="constrained")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    # Without the name of the software that wrote it: its version would change the bytes.
    figure.savefig(file, format="png", dpi=CHART_DPI, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def _svg(figure: Figure, alt: str) -> bytes:
    """What stands inside a page: no prologue, ids only where something refers to them, the page's own colour and
    font for text."""
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    text = file.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = text.replace(INK, "currentColor")
    label = escape(alt, quote=True)
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}" style="stroke-linejoin: round"', 1)
    return text.encode()
