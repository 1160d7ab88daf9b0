"""Figures for people who would rather look than read. matplotlib's object interface: no window, no global state.

H W pixels of a picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sanseg.draw import LabelMap, overlay
from sanseg.evaluate import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#888888"  # of Okabe and Ito: told apart by every eye
LONGEST_NAME = 24  # characters of a label on an axis

Shown = tuple[NDArray[np.uint8], LabelMap, LabelMap, float, str]
"""A picture uint8 (H, W, 3), its truth and its prediction (H, W), its mIoU in percent, its name."""


def evaluation_figure(evaluation: Evaluation, worst: Sequence[Shown], best: Sequence[Shown]) -> bytes:
    """The worst and the best pictures, the largest confusions, and how far confidence can be trusted: a PNG.

    The same input gives the same bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(len(worst), len(best), 1)
    figure = Figure(figsize=(14, 5 + 1.9 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    metrics = evaluation.metrics
    figure.suptitle(
        _plain(
            f"{evaluation.name}: mIoU {metrics.miou_present:.1f} (classes present),"
            f" {metrics.miou_union:.1f} (present or predicted), {evaluation.pictures} pictures"
        )
    )
    parts: Any = figure.subfigures(2, 1, height_ratios=(4.5, 1.9 * rows))
    charts, sheets = parts
    left, right = charts.subplots(1, 2, width_ratios=(3, 2))
    _draw_confusions(left, evaluation)
    _draw_reliability(right, evaluation)
    cells = sheets.subplots(rows, 2, squeeze=False)
    for column, (what, shown) in enumerate((("worst", worst), ("best", best))):
        for row in range(rows):
            cells[row, column].axis("off")
            if row < len(shown):
                image, truth, prediction, miou, name = shown[row]
                cells[row, column].imshow(_side_by_side(image, truth, prediction, metrics.labels))
                cells[row, column].set_title(_plain(f"{what}: {name}, mIoU {miou:.1f}"), fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_confusions(axes: Axes, evaluation: Evaluation) -> None:
    """Bars of the largest confusions, in shares of the pixels of what is there."""
    found = evaluation.confusions(10)[::-1]
    names = [_plain(f"{_short(one.truth)} taken for {_short(one.predicted)}") for one in found]
    axes.barh(range(len(found)), [one.share for one in found], color=ORANGE)
    axes.set_yticks(range(len(found)), names, fontsize=8)
    axes.set_xlabel("% of the pixels of the first")
    axes.set_title("The largest confusions", fontsize=10)


def _draw_reliability(axes: Axes, evaluation: Evaluation) -> None:
    """How often each confidence is right; the area of a dot follows the number of its pixels."""
    bins = [one for one in evaluation.metrics.reliability if one.pixels]
    most = max((one.pixels for one in bins), default=1)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--")
    axes.scatter(
        [one.confidence for one in bins],
        [one.accuracy for one in bins],
        s=[10 + 190 * one.pixels / most for one in bins],
        color=BLUE,
        alpha=0.7,
    )
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="right, %")
    error = evaluation.metrics.calibration_error
    axes.set_title(f"Confidence and truth: {error:.1f} % apart on average", fontsize=10)


def _side_by_side(
    image: NDArray[np.uint8], truth: LabelMap, prediction: LabelMap, labels: Sequence[str]
) -> NDArray[Any]:
    """The picture, its truth and its prediction, 300 pixels high."""
    painted = [overlay(image, ids, labels, legend=False, opacity=0.6) for ids in (truth, prediction)]
    width = max(1, round(300 * image.shape[1] / image.shape[0]))
    gap = np.full((300, 6, 3), 255, np.uint8)
    pieces = [np.asarray(one.resize((width, 300))) for one in (Image.fromarray(image), *painted)]
    return np.concatenate([pieces[0], gap, pieces[1], gap, pieces[2]], axis=1)


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_NAME else label[: LONGEST_NAME - 3] + "..."


def _plain(text: str) -> str:
    """As it is: matplotlib reads what stands between two dollars as a formula."""
    return text.replace("$", r"\$")
