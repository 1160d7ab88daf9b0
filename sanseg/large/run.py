"""Large pictures, from file to files, in bounded memory, and resumable: whatever stops a run, the same call goes on.

While a run lasts, all that it has done lies in a folder beside the results, STEM.part (`part.Part`). At the end the
results are made of it, renamed into place, and the folder is gone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanseg import geo, images
from sanseg.images import read_image
from sanseg.large import files
from sanseg.large.part import Part
from sanseg.large.results import ALWAYS, Results
from sanseg.model.checkpoint import fingerprint
from sanseg.segmenter import Segmenter
from sanseg.version import VERSION
from sanseg.vocabulary import Vocabulary
from sanseg.windows import OVERLAP, SIZE, ArrayReader, Layout, WindowReader, Windows


@dataclass(frozen=True)
class Options:
    """How a large picture is segmented, and what is written.

    window: in pixels. overlap: of neighbouring windows, as a share of their size.
    bands, stretch: of TIFF and JPEG 2000, see `geo.Raster.open`.
    max_pixels: of other formats, which are decoded whole; None is `images.MAX_PIXELS`.
    geojson, overlay, json: whether these are written beside the label map and the confidence.
    """

    window: int = SIZE
    overlap: float = OVERLAP
    bands: tuple[int, ...] | None = None
    stretch: geo.Stretch | None = None
    max_pixels: int | None = None
    geojson: bool = False
    overlay: bool = True
    json: bool = True

    @property
    def kinds(self) -> set[str]:
        """What is written: of `results.ENDINGS`."""
        wanted = {"geojson": self.geojson, "overlay": self.overlay, "json": self.json}
        return {*ALWAYS, *(kind for kind in wanted if wanted[kind])}


def goes_by_windows(path: Path, max_pixels: int | None = None) -> bool:
    """Whether a picture is too large for the plain road, and can be read by windows.

    max_pixels: of other formats than TIFF and JPEG 2000, as `Options`; None lets none of them go by windows.
    Not where it cannot be read, which the plain road tells.
    """
    try:
        if geo.readable_by_windows(path):
            height, width = geo.size(path)
            return height * width > images.MAX_PIXELS
        return max_pixels is not None and images.pixels_of(path) > images.MAX_PIXELS
    except (ValueError, OSError):
        return False


def segment_large(
    segmenter: Segmenter,
    source: str | os.PathLike[str],
    words: Vocabulary,
    out: str | os.PathLike[str],
    stem: str,
    options: Options | None = None,
    progress: Callable[[int, int], None] = lambda done, windows: None,
) -> dict[str, Path]:
    """Segments a picture file by windows into files STEM.* in the folder `out`; returns them by kind.

    STEM.index.tif is the label map, STEM.confidence.tif how sure it is (`large.files`), STEM.json the numbers,
    STEM.overlay.png a small painted picture, STEM.geojson polygons. All are whole or absent.

    words: exactly these compete; see `Segmenter.resolve`.
    progress: called with the number of windows that are done, and of all.

    A run that was stopped, by whatever, goes on with the same call, and its files are those of one that was not, byte
    for byte. Memory: grows with the width of the picture, not with its area; other formats than TIFF and JPEG 2000
    are decoded whole.

    Raises ValueError where STEM.part is of another run, for what cannot be read, a disk that is too full, and as
    `windows.Windows.answer`; OSError where the disk refuses.
    """
    options = options or Options()
    geo.rasterio()  # before any work, where it is missing
    out, source = Path(out), Path(source)
    with _open(source, options) as (reader, where, read_as):
        if options.geojson:
            files.check_polygons(where)
        layout = Layout(reader.height, reader.width, options.window, options.overlap)
        run = _identity(segmenter, source, words, options)
        part = Part.open(out / f"{stem}.part", run, layout, len(words.names), segmenter.device)
        windows = Windows(segmenter, reader, words, layout, part.windows)
        counted = len(layout) - part.left(layout)

        def advance(fresh: int) -> None:
            nonlocal counted
            counted += fresh
            progress(counted, len(layout))

        advance(0)
        for band in windows.answer(part.rows, advance):
            part.append(band)
        read_as |= {"size": options.window, "overlap": options.overlap}
        name = segmenter.san.config.name
        results = Results(part, words, name, run["templates"], reader, where, read_as)
        written = results.write(out, stem, options.kinds)
    part.remove()
    return written


@contextmanager
def _open(source: Path, options: Options) -> Iterator[tuple[WindowReader, geo.Georeference, dict[str, Any]]]:
    """A picture, where it lies, and how it is read."""
    if geo.readable_by_windows(source):
        with geo.Raster.open(source, bands=options.bands, stretch=options.stretch) as raster:
            stretch = None if raster.stretch is None else str(raster.stretch)
            yield raster, raster.georeference, {"bands": list(raster.bands), "stretch": stretch}
        return
    if options.bands or options.stretch:
        formats = " and ".join(sorted(geo.DRIVERS))
        raise ValueError(f"{source} has no bands to choose from or stretch: that is for {formats}")
    from rasterio.transform import Affine

    image = read_image(source, max_pixels=options.max_pixels)
    yield ArrayReader(image), geo.Georeference(None, Affine.identity()), {}


def _identity(segmenter: Segmenter, source: Path, words: Vocabulary, options: Options) -> dict[str, Any]:
    """All that the results depend on: a run goes on only where every one of these is the same."""
    with source.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "sanseg": VERSION,
        "picture": checksum,
        "vocabulary": words.hash,
        "model": f"{segmenter.san.config.name} {fingerprint(segmenter.san)}",
        "templates": words.templates or segmenter.san.config.templates,
        "resize": segmenter.resize,
        "computing": f"{segmenter.device.type} {segmenter.san.nothing.dtype}".replace("torch.", ""),
        "window": options.window,
        "overlap": options.overlap,
        "bands": None if options.bands is None else list(options.bands),
        "stretch": None if options.stretch is None else str(options.stretch),
    }
