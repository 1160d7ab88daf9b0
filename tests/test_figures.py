"""Figures show what they should, are the same each time, and stay legible whatever the labels are called."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from sanseg import figures
from sanseg.evaluate import Evaluation
from sanseg.figures import (
    LONGEST_NAME,
    PAGE_WIDTH,
    SERIES,
    Curve,
    Shown,
    curves_figure,
    evaluation_figure,
    legible_labels,
    reliability_figure,
    smoothed,
    smoothing,
    wide_range,
)
from sanseg.metrics import Bin, Metrics, Tally

LABELS = ("sky", "$tree$ \\frac", "<b>cow</b>" * 9)


def an_evaluation(pictures: int = 2, labels: tuple[str, ...] = LABELS) -> tuple[Evaluation, list[Shown]]:
    rng = np.random.default_rng(0)
    tally, shown = Tally.empty(len(labels)), []
    for number in range(pictures):
        truth = rng.integers(0, len(labels), (40, 60 + 10 * number)).astype(np.uint8)
        truth[:4] = 255
        prediction = np.where(rng.random(truth.shape) < 0.3, 0, truth).astype(np.uint8)
        tally.add(prediction, truth, rng.random(truth.shape).astype(np.float32))
        image = rng.integers(0, 256, (*truth.shape, 3), dtype=np.uint8)
        shown.append((image, truth, prediction, 50.0, f"$a_{number}"))
    evaluation = Evaluation("a $set_1$", Metrics.of(tally, labels), tally.counts, pictures, (), (), (), 1.0)
    return evaluation, shown


def falling(points: int, to: float = 1.0) -> Curve:
    x = np.arange(points, dtype=np.float64)
    noise = np.random.default_rng(0).normal(0, 0.02 * to, points)
    return Curve(x, to + 9 * to * np.exp(-8 * x / points) + noise)


SVG = "{http://www.w3.org/2000/svg}"


def places(path: ElementTree.Element, down: float = 0.0) -> list[tuple[float, float]]:
    found = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.get("d") or "")
    return [(float(x), float(y) + down) for x, y in found]


def drawn(svg: bytes, colour: str) -> list[list[tuple[float, float]]]:
    """The places (x, y) of each area, then of each line of this colour, y down the page."""
    root = ElementTree.fromstring(svg)
    named = {f"#{path.get('id')}": path for path in root.iter(f"{SVG}path")}
    areas = [
        places(named[str(use.get("{http://www.w3.org/1999/xlink}href"))], float(use.get("y") or 0))
        for use in root.iter(f"{SVG}use")
        if f"fill: {colour}; fill-opacity" in str(use.get("style"))
    ]
    lines = [
        places(path)
        for path in root.iter(f"{SVG}path")
        if path.get("clip-path") and f"stroke: {colour}" in str(path.get("style"))
    ]
    return [one for one in (*areas, *lines) if len(one) > 1]


def texts(svg: bytes) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_figure_of_an_evaluation() -> None:
    evaluation, shown = an_evaluation()
    figure = evaluation_figure(evaluation, shown, shown[:1])
    with Image.open(io.BytesIO(figure)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.mode == "RGB"
        assert picture.width == PAGE_WIDTH
        assert len(picture.getcolors(1 << 24) or []) > 500
        assert not picture.info.keys() & {"Software", "Creation Time"}
    assert figure == evaluation_figure(evaluation, shown, shown[:1])
    assert figure != evaluation_figure(evaluation, shown[:1], shown)


def test_a_figure_without_pictures() -> None:
    evaluation, shown = an_evaluation()
    heights = [
        Image.open(io.BytesIO(evaluation_figure(evaluation, worst, best))).height
        for worst, best in (([], []), (shown[:1], []), (shown, []), (shown, shown), (shown * 2, shown))
    ]
    assert heights[0] < heights[1] == heights[2] < heights[3] < heights[4], "two pictures a row"


@pytest.mark.parametrize(("height", "width"), [(900, 30), (30, 900), (1, 1)])
def test_pictures_of_any_shape_fit_the_page(height: int, width: int) -> None:
    evaluation, _ = an_evaluation()
    image = np.full((height, width, 3), (200, 30, 90), np.uint8)
    shown = [(image, np.zeros((height, width), np.uint8), np.ones((height, width), np.uint8), 0.0, "x" * 500)]
    with Image.open(io.BytesIO(evaluation_figure(evaluation, shown, shown))) as page:
        pixels = np.asarray(page)
    assert (pixels == (200, 30, 90)).all(axis=-1).any()
    assert (pixels[:, -4:] == 255).all()


def test_an_evaluation_with_nothing_wrong_and_no_confidence() -> None:
    evaluation, _ = an_evaluation()
    counts = np.zeros((4, 3), np.int64)
    counts[:3] = np.diag([5, 5, 0])
    tally = replace(Tally.empty(3, edges=False), counts=counts)
    perfect = replace(evaluation, metrics=Metrics.of(tally, LABELS), counts=counts)
    assert evaluation_figure(perfect, [], []).startswith(b"\x89PNG")


def test_no_label_overlaps_another_among_150(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    labels = tuple(f"{'a long name that has, commas and more ' * 3}{number}" for number in range(150))
    evaluation, _ = an_evaluation(3, labels)
    boxes = []
    draw = figures._draw_reliability

    def watch(axes: object, bins: object) -> None:
        draw(axes, bins)  # type: ignore[arg-type]
        figure = axes.figure  # type: ignore[attr-defined]
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        boxes.extend(label.get_window_extent(renderer) for label in figure.axes[0].get_yticklabels())
        boxes.extend(one.get_window_extent(renderer) for one in figure.axes)

    monkeypatch.setattr(figures, "_draw_reliability", watch)
    evaluation_figure(evaluation, [], [])
    assert len(boxes) == 10 + 2
    for number, box in enumerate(boxes):
        assert box.x0 >= 0
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_curves_show_every_value_and_their_mean() -> None:
    for points in (5, 100, 5_000):
        lines = drawn(curves_figure("a", [falling(points)], alt="x", unit="loss", noisy=True), SERIES[0][0])
        assert len(lines) == (1 if points == 5 else 2), "a short curve needs no smoothing"
        mean = lines[-1]
        assert [x for x, _ in mean] == sorted(x for x, _ in mean)
        rising = np.diff([y for _, y in mean])
        assert (rising > -1).all(), "the curve falls: down the page"
        if points == 5_000:
            band = np.array(lines[0])
            assert len(band) < 4 * figures.CURVE_POINTS
            assert band[:, 1].min() < mean[0][1] + 5
            assert band[:, 1].max() > mean[-1][1], "the extremes are kept"


def test_one_spike_of_sixty_thousand_is_seen() -> None:
    curve = falling(60_000)
    spiked = Curve(curve.x, np.where(curve.x == 30_001, 40.0, curve.y))
    svg = curves_figure("a", [spiked], alt="x", unit="loss", noisy=True)
    band = np.array(drawn(svg, SERIES[0][0])[0])
    top = band[band[:, 1].argmin()]
    assert abs((top[0] - band[:, 0].min()) / np.ptp(band[:, 0]) - 0.5) < 0.01
    assert len(svg) < 100_000


def test_smoothing_does_not_lag_and_keeps_the_mean() -> None:
    assert smoothing(59) == 1
    for points in (60, 200, 60_000):
        assert smoothing(points) % 2 == 1
    ramp = np.arange(400.0)
    reach = smoothing(400) // 2
    np.testing.assert_allclose(smoothed(ramp)[reach:-reach], ramp[reach:-reach])
    np.testing.assert_allclose(smoothed(np.full(400, 3.0)), 3.0)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 400)
    assert smoothed(noise).std() < 0.6 * noise.std()


def test_the_axis_is_logarithmic_where_that_shows_more() -> None:
    wide, narrow = falling(500), Curve(np.arange(5.0), np.array([5.0, 4, 3, 2, 1]))
    wide = replace(wide, y=wide.y**3)
    assert wide_range([wide])
    assert wide_range([narrow, Curve(narrow.x, narrow.y / 30)])
    assert not wide_range([narrow])
    assert not wide_range([Curve(narrow.x, narrow.y - 1)]), "no logarithm of 0"
    assert not wide_range([])

    def middle(svg: bytes) -> float:
        """How far up the page the middle of the curve is, 0 to 1."""
        line = np.array(drawn(svg, SERIES[0][0])[-1])
        return float((line[-1, 1] - line[len(line) // 2, 1]) / np.ptp(line[:, 1]))

    y = 1000.0 ** -np.linspace(0, 1, 51)
    curve = Curve(np.arange(51.0), y)
    assert abs(middle(curves_figure("a", [curve], alt="x", unit="u", noisy=True)) - 0.5) < 0.02
    assert middle(curves_figure("a", [curve], alt="x", unit="u")) < 0.1
    assert middle(curves_figure("a", [curve], alt="x", unit="u", noisy=True, zero=True)) < 0.1


def test_an_axis_may_begin_at_zero() -> None:
    curve = Curve(np.arange(4.0), np.array([97.0, 98, 99, 98]))
    assert "0" not in texts(curves_figure("a", [curve], alt="x", unit="u"))[5:]
    assert texts(curves_figure("a", [curve], alt="x", unit="u", zero=True)).count("0") == 2


@pytest.mark.parametrize(
    "values", [[], [1.0], [np.nan] * 3, [np.inf, 2.0, np.nan, 3.0], [7.0] * 9, [0.0, 0.0]]
)
def test_curves_of_little_are_drawn_without_complaint(values: list[float]) -> None:
    curve = Curve.of(list(enumerate(values)))
    assert len(curve.finite().x) == np.isfinite(values).sum()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = curves_figure("a", [curve, curve], alt="x", unit="loss", noisy=True, marks=True)
    assert "iterations" in texts(svg)
    assert b"nan" not in svg


def test_curves_differ_by_colour_and_shape() -> None:
    curves = [Curve(np.arange(3.0), np.arange(3.0) * number) for number in range(len(SERIES))]
    svg = curves_figure("a", curves, alt="x", unit="u", marks=True)
    assert all(drawn(svg, colour) for colour, _, _ in SERIES)
    for number in range(3):
        assert len({one[number] for one in SERIES}) == len(SERIES)


def test_colours_stand_out_from_light_and_dark_pages() -> None:
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for colour, _, _ in SERIES:
        for page in ("#ffffff", "#1b1e21"):
            dark, light = sorted((luminance(colour), luminance(page)))
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, page)


def test_an_svg_fits_into_any_page() -> None:
    alt = 'loss from "9" to <1> & less'
    svg = curves_figure("a", [falling(100)], alt=alt, unit="loss <b>", noisy=True)
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label") == alt
    assert "loss <b>" in texts(svg)
    text = svg.decode()
    assert "currentColor" in text, "text has the colour of the page"
    assert "#ffffff" not in text, "and nothing is behind it"
    for unwanted in ("<?xml", "<!DOCTYPE", "<metadata", "<style", "font-family", figures.INK, "date"):
        assert unwanted not in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', text)) == set(ids), "ids only where they are needed"


def test_figures_of_one_page_share_no_ids() -> None:
    found = [
        set(re.findall(r'\bid="([^"]*)"', curves_figure(name, [falling(9)], alt="x", unit="u").decode()))
        for name in ("loss", "speed")
    ]
    assert found[0]
    assert not found[0] & found[1]


def test_the_same_input_gives_the_same_bytes_in_any_process() -> None:
    program = (
        "import sys, matplotlib, numpy as np\n"
        "matplotlib.rcParams.update({'axes.labelsize': 30, 'svg.hashsalt': None})\n"
        "from sanseg.figures import Curve, curves_figure\n"
        "x = np.arange(9.0)\n"
        "sys.stdout.buffer.write(curves_figure('a', [Curve(x, x)], alt='x', unit='u'))\n"
        "assert matplotlib.rcParams['axes.labelsize'] == 30\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    x = np.arange(9.0)
    assert curves_figure("a", [Curve(x, x)], alt="x", unit="u") == told, (
        "whatever matplotlib is told elsewhere"
    )


def test_reliability_shows_a_dot_for_each_bin_that_has_pixels() -> None:
    nothing = Bin(0, float("nan"), float("nan"))
    bins = [nothing, Bin(10, 20.0, 10.0), Bin(1000, 60.0, 50.0), Bin(10, 95.0, 90.0)]
    svg = reliability_figure("a", bins, alt="x").decode()
    dots = re.findall(rf"<path[^>]*fill: {SERIES[0][0]}", svg)
    assert len(dots) == 3
    assert svg == reliability_figure("a", bins[1:], alt="x").decode()
    assert svg != reliability_figure("a", bins[2:], alt="x").decode()
    assert "nan" not in reliability_figure("a", [nothing], alt="x").decode()


def test_labels_are_legible_and_short() -> None:
    labels = (
        "sky",
        "café",
        "a\nb",
        "дом",
        "猫",
        "مرحبا",
        "\ud800",
        "$x$",
        "long " * 40 + "1",
        "long " * 40 + "2",
    )
    shown = legible_labels(labels)
    assert shown[:4] == ["sky", "café", "a b", "дом"]
    assert shown[4:8] == ["label 4", "label 5", "label 6", "$x$"]
    assert all(len(one) <= LONGEST_NAME for one in shown)
    assert shown[8] != shown[9], "both ends are kept"
