"""The page: figures, tables and pictures of a run, put into the template.

What a run's folder holds is not trusted: all text is escaped, and pictures are decoded and written anew.
"""

from __future__ import annotations

import base64
import io
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sanseg.figures import SERIES, Curve, curves_figure, reliability_figure, smoothing
from sanseg.images import read_image, write_bytes
from sanseg.report.history import LOSSES, SUMMARY, Run, read_run
from sanseg.version import VERSION

if TYPE_CHECKING:
    from markupsafe import Markup

REPORT = "report.html"
TEMPLATE = Path(__file__).with_name("page.html.jinja")
# A report stays small enough to be mailed: how many pictures, how wide, how well compressed.
LAST_PICTURES, LAST_WIDTH, LAST_QUALITY = 24, 1456, 85
EARLIER, EARLIER_PICTURES, EARLIER_WIDTH, EARLIER_QUALITY = 5, 8, 1000, 75
DEEPEST = 6  # levels of settings that are told apart
MOST_CURVES = len(SERIES) - 1  # sets drawn one by one; of more only their mean is


@dataclass(frozen=True)
class Chart:
    """A figure with its caption, and its legend as (colour, shape, name)."""

    title: str
    caption: str
    svg: Markup
    legend: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Picture:
    """uri: the picture itself."""

    name: str
    alt: str
    uri: str


def write_report(run: Path) -> Path:
    """Writes report.html into the folder of a training run, from what it holds so far; its path.

    The same folder gives the same bytes. Raises ValueError where the folder holds no run and where a package is
    missing, OSError where it cannot be read or written to.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError as error:
        raise ValueError("a report needs jinja2: pip install 'sanseg[train]'") from error
    found = read_run(run)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "count": "{:,}".format, "counted": counted}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    pictures, notices = _embed(found.pictures)
    page = template.render(
        run=found,
        notices=(*found.notices, *notices),
        facts=_facts(found),
        numbers=_numbers(found),
        state=_state(found),
        command=_command(found.described.get("command")),
        data=[
            (role, one)
            for role, key in (("training", "sets"), ("evaluation", "val"))
            for one in _described_sets(found.described.get(key))
        ],
        charts=_charts(found),
        summary=_summary(found),
        reliability=_reliability(found),
        pictures=pictures,
        settings=flat(found.described.get("config")),
        model=flat(found.described.get("model")),
        version=VERSION,
    )
    path = Path(run) / REPORT
    write_bytes(path, page.encode("utf-8", "replace"))
    return path


def _embed(
    found: Sequence[tuple[int, tuple[Path, ...]]],
) -> tuple[list[tuple[int, int, list[Picture]]], list[str]]:
    """(iterations done, how many pictures there are, those that are shown) of the last evaluation and some earlier
    ones, the last first; and a notice for each picture that cannot be read."""
    found = [one for one in found if one[1]]
    earlier = found[:-1]
    spread = range(len(earlier)) if len(earlier) <= EARLIER else _spread(len(earlier), EARLIER)
    chosen = [*(earlier[place] for place in spread), *found[-1:]][::-1]
    embedded, notices = [], []
    for rank, (done, paths) in enumerate(chosen):
        most, width, quality = (
            (LAST_PICTURES, LAST_WIDTH, LAST_QUALITY)
            if rank == 0
            else (EARLIER_PICTURES, EARLIER_WIDTH, EARLIER_QUALITY)
        )
        shown = []
        for path in paths[:most]:
            try:
                uri = data_uri(path, width, quality)
            except (OSError, ValueError):
                notices.append(f"{path.parent.name}/{path.name} could not be read as a picture.")
                continue
            alt = f"{path.stem} after {counted(done, 'iteration')}: photo, truth and prediction beside each other"
            shown.append(Picture(path.stem, alt, uri))
        embedded.append((done, len(paths), shown))
    return embedded, notices


def _spread(count: int, most: int) -> list[int]:
    """So many places of a list, from its first to its last."""
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def data_uri(path: Path, width: int, quality: int) -> str:
    """A picture as JPEG, at most so many pixels wide. Raises ValueError and OSError as `images.read_image`."""
    picture = Image.fromarray(read_image(path))
    picture.thumbnail((width, 8 * width))
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=quality, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _charts(run: Run) -> list[Chart]:
    """The curves of a run: those that there is something to draw of."""
    iterations = len(run.log)
    over = smoothing(iterations)
    mean = f"The line is the mean over {over} iterations around each point." if over > 1 else ""
    parts = [name for name in LOSSES if any(values[name] > 0 for _, values in run.log)]
    wanted = [
        ("Loss", "loss", mean, [("loss", _curve(run, "loss"))], {"noisy": True}),
        (
            "Parts of the loss",
            "loss",
            f"Of the answer's reading, before weighting. {mean}",
            [(name, _curve(run, name)) for name in parts],
            {"noisy": True},
        ),
        ("mIoU", "mIoU, %", "Labels present in the truth.", _miou_curves(run), {"zero": True, "marks": True}),
        ("Learning rate", "learning rate", "", [("learning rate", _curve(run, "lr"))], {"zero": True}),
        (
            "Speed",
            "images per second",
            mean,
            [("images per second", _curve(run, "images_per_second"))],
            {"noisy": True, "zero": True},
        ),
    ]
    charts = []
    for title, unit, caption, curves, how in wanted:
        curves = [(name, curve) for name, curve in curves if len(curve.finite().x)]
        if curves:
            charts.append(_chart(title, unit, caption, curves, how))
    return charts


def _curve(run: Run, column: str) -> Curve:
    return Curve.of([(iteration, values[column]) for iteration, values in run.log])


def _miou_curves(run: Run) -> list[tuple[str, Curve]]:
    """The mean, and each set where these are few."""
    names = list(dict.fromkeys(one.name for evaluated in run.evaluations for one in evaluated.sets))
    mean = Curve.of([(one.iteration, one.miou) for one in run.evaluations])
    if not 1 < len(names) <= MOST_CURVES:
        return [(names[0] if len(names) == 1 else "mean", mean)]
    each = [
        (
            name,
            Curve.of(
                [
                    (evaluated.iteration, one.summary["miou_present"])
                    for evaluated in run.evaluations
                    for one in evaluated.sets
                    if one.name == name
                ]
            ),
        )
        for name in names
    ]
    return [("mean", mean), *each]


def _chart(
    title: str, unit: str, caption: str, curves: Sequence[tuple[str, Curve]], how: dict[str, bool]
) -> Chart:
    from markupsafe import Markup

    finite = [(name, curve.finite()) for name, curve in curves]
    told = "; ".join(
        f"{name} from {curve.y[0]:.4g} to {curve.y[-1]:.4g}, between {curve.y.min():.4g} and {curve.y.max():.4g}"
        for name, curve in finite
    )
    svg = curves_figure(title, [curve for _, curve in finite], alt=f"{title}: {told}", unit=unit, **how)
    legend = tuple(
        (colour, shape, name) for (colour, _, shape), (name, _) in zip(SERIES, finite, strict=False)
    )
    return Chart(title, caption.strip(), Markup(svg.decode()), legend if len(legend) > 1 else ())


def _summary(run: Run) -> dict[str, str]:
    """The figures that any set of the last evaluation has."""
    last = run.evaluations[-1].sets if run.evaluations else ()
    return {
        key: name for key, name in SUMMARY.items() if any(not math.isnan(one.summary[key]) for one in last)
    }


def _reliability(run: Run) -> dict[str, Markup]:
    """Of each set of the last evaluation whose confidence is known."""
    from markupsafe import Markup

    figures = {}
    for place, one in enumerate(run.evaluations[-1].sets if run.evaluations else ()):
        bins = [bin_ for bin_ in one.bins if bin_.pixels and not math.isnan(bin_.accuracy + bin_.confidence)]
        if bins:
            told = ", ".join(f"{bin_.accuracy:.0f} % at {bin_.confidence:.0f} %" for bin_ in bins)
            alt = f"How often each confidence is right: {told}"
            figures[one.name] = Markup(reliability_figure(f"reliability-{place}", bins, alt=alt).decode())
    return figures


def _state(run: Run) -> str:
    """How far a run has come, in words; empty where it is through."""
    done, planned = _done(run), _planned(run)
    if done == 0:
        return "No iteration has been written down yet."
    if planned and done < planned:
        return (
            f"Not finished: {done:,} of {planned:,} iterations are done."
            " The same command goes on from the last state."
        )
    return ""


def _done(run: Run) -> int:
    return run.log[-1][0] + 1 if run.log else 0


def _planned(run: Run) -> int | None:
    config = run.described.get("config")
    planned = config.get("iterations") if isinstance(config, dict) else None
    return planned if type(planned) is int else None


def _numbers(run: Run) -> list[tuple[str, str, str]]:
    """The key numbers: (number, what it is, more about it)."""
    found = []
    scored = [one for one in run.evaluations if not math.isnan(one.miou)]
    if scored:
        best = max(scored, key=lambda one: one.miou)
        found.append((percent(best.miou), "best mIoU, %", f"after {counted(best.iteration, 'iteration')}"))
        if best is not scored[-1]:
            after = f"after {counted(scored[-1].iteration, 'iteration')}"
            found.append((percent(scored[-1].miou), "last mIoU, %", after))
    planned = _planned(run)
    found.append((f"{_done(run):,}", "iterations", f"of {planned:,}" if planned else ""))
    seconds = [values["seconds"] for _, values in run.log if values["seconds"] >= 0]
    if seconds:
        found.append((duration(sum(seconds)), "training time", "evaluations not counted"))
    speeds = sorted(values["images_per_second"] for _, values in run.log if values["images_per_second"] >= 0)
    if speeds:
        found.append((f"{speeds[len(speeds) // 2]:.3g}", "images per second", "median"))
    losses = [values["loss"] for _, values in run.log if not math.isnan(values["loss"])]
    if losses:
        tail = losses[-min(50, len(losses)) :]
        found.append(
            (f"{sum(tail) / len(tail):.4g}", "loss", f"mean of the last {counted(len(tail), 'iteration')}")
        )
    return found


def _facts(run: Run) -> list[tuple[str, str]]:
    """What was run where, as far as it is known."""
    described = run.described
    model = described.get("model")
    config = described.get("config")
    facts = {
        "model": model.get("name") if isinstance(model, dict) else model,
        "device": described.get("device"),
        "precision": config.get("dtype") if isinstance(config, dict) else None,
        "processes": described.get("processes"),
        "started": _moment(described.get("started")),
        "sanseg": described.get("sanseg"),
    }
    return [(name, str(value)) for name, value in facts.items() if isinstance(value, str | int)]


def _moment(text: Any) -> str | None:
    """ "2026-01-02T03:04:05+00:00" to "2026-01-02 03:04 UTC"; anything else as it is."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}".strip()
    except (TypeError, ValueError):
        return text if isinstance(text, str) else None


def _command(words: Any) -> str:
    return shlex.join(map(str, words)) if isinstance(words, list) else ""


def _described_sets(sets: Any) -> list[dict[str, Any]]:
    """The sets of run.json, each with what the page shows of it."""
    found = []
    for one in sets if isinstance(sets, list) else ():
        if isinstance(one, dict):
            labels, pictures = one.get("labels"), one.get("pictures")
            found.append(
                {
                    "name": str(one.get("name", "")),
                    "form": str(one.get("form", "")),
                    "pictures": pictures if type(pictures) is int else 0,
                    "labels": [str(label) for label in labels] if isinstance(labels, list) else [],
                }
            )
    return found


def flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (name, value), names joined by dots."""
    if not isinstance(values, dict):
        return []
    found = []
    for name, value in values.items():
        if isinstance(value, dict) and value and prefix.count(".") < DEEPEST:
            found += flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return found


def counted(number: int, what: str) -> str:
    """1 and "label" to "1 label", 1234 to "1,234 labels"."""
    return f"{number:,} {what}" + "s" * (number != 1)


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def duration(seconds: float) -> str:
    """3725 to "1 h 2 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    hours = minutes // 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {left} s"
