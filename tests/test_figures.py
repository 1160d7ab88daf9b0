"""Figures are whole pictures, the same each time, whatever the labels are called."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sanseg.evaluate import Evaluation
from sanseg.figures import evaluation_figure
from sanseg.metrics import Metrics, Tally

LABELS = ("sky", "$tree$ \\frac", "<b>cow</b>" * 9)


def an_evaluation(
    pictures: int = 2,
) -> tuple[Evaluation, list[tuple[np.ndarray, np.ndarray, np.ndarray, float, str]]]:
    rng = np.random.default_rng(0)
    tally, shown = Tally.empty(3), []
    for number in range(pictures):
        truth = rng.integers(0, 3, (40, 60 + 10 * number)).astype(np.uint8)
        truth[:4] = 255
        prediction = np.where(rng.random(truth.shape) < 0.3, 0, truth).astype(np.uint8)
        tally.add(prediction, truth, rng.random(truth.shape).astype(np.float32))
        image = rng.integers(0, 256, (*truth.shape, 3), dtype=np.uint8)
        shown.append((image, truth, prediction, 50.0, f"$a_{number}"))
    evaluation = Evaluation("a $set_1$", Metrics.of(tally, LABELS), tally.counts, pictures, (), (), (), 1.0)
    return evaluation, shown


def test_the_figure_of_an_evaluation() -> None:
    evaluation, shown = an_evaluation()
    figure = evaluation_figure(evaluation, shown, shown[:1])
    again = evaluation_figure(evaluation, shown, shown[:1])
    assert figure == again
    with Image.open(io.BytesIO(figure)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width == 1400
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 500
    assert figure != evaluation_figure(evaluation, shown[:1], shown)


def test_a_figure_without_pictures() -> None:
    evaluation, _ = an_evaluation()
    assert evaluation_figure(evaluation, [], []).startswith(b"\x89PNG")
