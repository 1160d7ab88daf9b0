"""Pictures of a folder that are too large for the plain road: by windows, one by one, into the same manifest."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from sanseg.folders.manifest import Record
from sanseg.folders.plan import Job
from sanseg.folders.work import THUMBNAIL_SIDE, THUMBNAILS, Settings
from sanseg.images import read_image, write_bytes
from sanseg.large.part import AnotherRun
from sanseg.large.results import ENDINGS, OVERVIEW
from sanseg.large.run import Options, goes_by_windows, segment_large
from sanseg.model.download import sha256_of
from sanseg.run import Wish
from sanseg.segmenter import Segmenter


@dataclass(frozen=True)
class ByWindows:
    """Which pictures go by windows, and how.

    takes: whether a picture does. options: but for what is written, which the folder's formats say.
    told: called with a picture, and with how many of its windows are done, of all.
    """

    takes: Callable[[Path], bool] = goes_by_windows
    options: Options = field(default_factory=Options)
    told: Callable[[Job, int, int], None] = lambda job, done, windows: None

    def work(
        self, jobs: Iterable[Job], segmenter: Segmenter, settings: Settings, wish: Wish
    ) -> Iterator[Record]:
        """A record for each picture, until `wish` is to stop: then the windows that are done are kept for the next run.

        Of the formats asked for, those are written that can be by windows; label map, confidence and numbers always.
        """
        geojson, overlay = ("geojson" in settings.formats, "overlay" in settings.formats)
        options = replace(self.options, geojson=geojson, overlay=overlay, json=True)
        for job in jobs:
            try:
                yield self._segment(job, segmenter, settings, options, wish)
            except _Stopped:
                return
            except (OSError, ValueError) as error:
                yield Record(job.input, job.stem, error=" ".join(str(error).split()))

    def _segment(
        self, job: Job, segmenter: Segmenter, settings: Settings, options: Options, wish: Wish
    ) -> Record:
        began, target = time.perf_counter(), settings.out / job.stem

        def advance(done: int, windows: int) -> None:
            self.told(job, done, windows)
            if wish.asked and done < windows:
                raise _Stopped

        def segment() -> dict[str, Path]:
            words = settings.vocabulary
            return segment_large(segmenter, job.path, words, target.parent, target.name, options, advance)

        status = job.path.stat()
        sha256 = sha256_of(job.path)
        try:
            outputs = segment()
        except AnotherRun as error:  # of the picture as it was, or of other windows
            shutil.rmtree(error.folder)
            outputs = segment()
        numbers = json.loads(outputs["json"].read_bytes())
        if options.overlay and settings.thumbnails:
            outputs["thumbnail"] = settings.out / THUMBNAILS / f"{job.stem}.jpg"
            write_bytes(outputs["thumbnail"], _thumbnail(outputs["overlay"], numbers))
        areas = {region["label"]: region for region in numbers["regions"] if region["pixels"]}
        return Record(
            job.input,
            job.stem,
            status.st_size,
            status.st_mtime_ns,
            sha256,
            numbers["width"],
            numbers["height"],
            outputs={kind: path.relative_to(settings.out).as_posix() for kind, path in outputs.items()},
            mask_sha256=sha256_of(outputs["index"]),
            seconds=round(time.perf_counter() - began, 3),
            areas={label: region["share"] for label, region in areas.items()},
            confidence={label: region["mean_confidence"] for label, region in areas.items()},
            replaced=job.replaced,
            windows=numbers["windows"]
            | {"without": [kind for kind in settings.formats if kind not in ENDINGS]},
        )


class _Stopped(Exception):  # noqa: N818, nothing is wrong
    """The wish to stop came while a picture's windows were seen."""


def _thumbnail(overlay: Path, numbers: dict[str, Any]) -> bytes:
    """A JPEG of the overlay without its legend, at most THUMBNAIL_SIDE pixels wide and high."""
    width, height = numbers["width"], numbers["height"]
    scale = min(1.0, OVERVIEW / max(width, height))
    file = io.BytesIO()
    painted = read_image(overlay, max_pixels=4 * OVERVIEW**2)
    picture = Image.fromarray(painted[: round(height * scale) or 1, : round(width * scale) or 1])
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    picture.save(file, format="JPEG", quality=80)
    return file.getvalue()
