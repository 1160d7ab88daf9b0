"""Large pictures, from file to files, in bounded memory, and resumable: whatever stops a run, the same call goes on.

While a run lasts, all that it has done lies in a folder beside the results, STEM.part: what the network said of the
windows that are still needed, the rows of the label map that are done, and which run it is. At the end the results
are made of the rows, renamed into place, and the folder is gone.

H W pixels of the picture.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from sanseg import draw, geo
from sanseg.images import Geometry, read_image, write_bytes, write_json, write_png
from sanseg.model.checkpoint import fingerprint
from sanseg.segmentation import Region
from sanseg.segmenter import Segmenter
from sanseg.version import VERSION
from sanseg.vocabulary import Vocabulary, other_id
from sanseg.windows import OVERLAP, SIZE, ArrayReader, Band, Layout, Place, Seen, WindowReader, Windows

RUN = "run.json"  # in the folder of an unfinished run: which it is, and how many rows are done
OVERVIEW = 2048  # pixels, the longer side of the overlay
RESULTS = {  # what is written, by kind: the ending of its name; the last is there only when all are
    "index": ".index.tif",
    "confidence": ".confidence.tif",
    "geojson": ".geojson",
    "overlay": ".overlay.png",
    "json": ".json",
}


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

    STEM.index.tif is the label map (`geo.write_index`), STEM.confidence.tif how sure it is (`geo.write_confidence`),
    STEM.json the numbers, STEM.overlay.png a small painted picture, STEM.geojson polygons. All are whole or absent.

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
    with _open(source, options) as (reader, where, raster):
        layout = Layout(reader.height, reader.width, options.window, options.overlap)
        run = _identity(segmenter, source, words, options)
        part = _Part.open(out / f"{stem}.part", run, layout, words)
        windows = Windows(segmenter, reader, words, layout, part.windows)
        counted = len(layout) - _left(layout, part)

        def advance(fresh: int) -> None:
            nonlocal counted
            counted += fresh
            progress(counted, len(layout))

        advance(0)
        for band in windows.answer(part.rows, advance):
            part.append(band)
        return _finish(part, out, stem, segmenter, words, options, run, reader, where, raster)


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


def _left(layout: Layout, part: _Part) -> int:
    """How many windows are still to be seen."""
    needed = [i for i, window in enumerate(layout.rows) if window.stop > part.rows]
    at_hand = sum(place[0] in needed for place in part.windows)
    return len(needed) * len(layout.columns) - at_hand


class _Part:
    """The folder of a run that is not finished: run.json, windows/, and the rows of pixels that are done.

    rows: how many are done. A row counts once run.json says so, which is written after its pixels.
    """

    def __init__(
        self, folder: Path, run: dict[str, Any], rows: int, layout: Layout, words: Vocabulary
    ) -> None:
        self.folder, self.run, self.rows = folder, run, rows
        self.shape = layout.height, layout.width
        self.unknown = geo.unknown_id(len(words.names))
        self.windows = _WindowFiles(folder / "windows")
        ids = np.dtype(np.uint8 if self.unknown == 255 else np.uint16)
        self._files = {"labels": ids, "confidence": np.dtype(np.uint16)}

    @classmethod
    def open(cls, folder: Path, run: dict[str, Any], layout: Layout, words: Vocabulary) -> _Part:
        """A new run, or one that goes on. Raises ValueError where the folder is of another one."""
        file = folder / RUN
        begun = file.is_file()
        rows = _rows_done(file, run) if begun else 0
        part = cls(folder, run, rows, layout, words)
        bytes_left = (
            sum(dtype.itemsize for dtype in part._files.values()) * (layout.height - rows) * layout.width
        )
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if 2 * bytes_left > free:  # the rows, and the results made of them
            raise ValueError(
                f"{folder.parent} has {free / 1e9:.1f} GB left, this picture needs up to {2 * bytes_left / 1e9:.1f}:"
                " make room, or choose another --out"
            )
        if not begun:
            for place in [*part.windows]:  # of a run whose folder was being removed
                del part.windows[place]
        for name, dtype in part._files.items():
            with (folder / name).open("ab") as pixels:
                done = rows * layout.width * dtype.itemsize
                if pixels.tell() < done:
                    raise ValueError(f"{folder / name} is damaged: remove {folder} to start afresh")
                pixels.truncate(done)  # what was written after run.json is done again
        part._save()
        return part

    def append(self, band: Band) -> None:
        """Writes rows that are done, then says so.

        Raises ValueError where another process is at work in the same folder.
        """
        assert band.rows.start == self.rows, (band.rows, self.rows)
        steps = np.round(band.confidence * geo.CONFIDENCE_STEPS).astype(np.uint16)
        steps[band.label_map == self.unknown] = geo.NO_CONFIDENCE
        for (name, dtype), pixels in zip(self._files.items(), (band.label_map, steps), strict=True):
            with (self.folder / name).open("ab") as file:
                if file.tell() != self.rows * self.shape[1] * dtype.itemsize:
                    raise ValueError(
                        f"another process is at work in {self.folder}: let one of them end, and start again"
                    )
                file.write(np.ascontiguousarray(pixels, dtype=dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())
        self.rows = band.rows.stop
        self._save()

    def stripes(self, name: str, high: int) -> Iterator[tuple[slice, NDArray[Any]]]:
        """The pixels "labels" or "confidence" from top to bottom, so many rows at a time."""
        dtype, (height, width) = self._files[name], self.shape
        with (self.folder / name).open("rb") as file:
            for top in range(0, height, high):
                rows = slice(top, min(top + high, height))
                pixels = np.fromfile(file, dtype, (rows.stop - top) * width)
                yield rows, pixels.reshape(rows.stop - top, width)

    def labels_at(self, rows: Sequence[int], columns: NDArray[np.intp]) -> draw.LabelMap:
        """The label map at these rows and columns, each picked."""
        dtype, width, picked = self._files["labels"], self.shape[1], []
        with (self.folder / "labels").open("rb") as file:
            for row in rows:
                file.seek(row * width * dtype.itemsize)
                picked.append(np.fromfile(file, dtype, width)[columns])
        return np.stack(picked)

    def _save(self) -> None:
        write_json(self.folder / RUN, {"run": self.run, "rows": self.rows})


def _rows_done(file: Path, run: dict[str, Any]) -> int:
    """Of an unfinished run. Raises ValueError where it is another run than this."""
    remedy = f"give the same command as then, another --out, or remove {file.parent} to start afresh"
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        before, rows = dict(state["run"]), int(state["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: remove {file.parent} to start afresh") from error
    changed = [name for name in run if before.get(name) != run[name]]
    if changed:
        raise ValueError(
            f"{file.parent} is a run that was not finished, with another {' and '.join(changed)}: {remedy}"
        )
    return rows


class _WindowFiles(MutableMapping[Place, Seen | None]):
    """What the network said of windows, each in a file of its own that is whole or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setitem__(self, place: Place, seen: Seen | None) -> None:
        tensors = {}
        if seen is not None:
            geometry = seen.geometry
            tensors = {
                "mask_logits": seen.mask_logits.cpu().contiguous(),
                "probabilities": seen.probabilities.cpu().contiguous(),
                "geometry": torch.tensor([geometry.original, geometry.content, geometry.padded]),
            }
            if seen.known is not None:
                tensors["known"] = torch.from_numpy(np.ascontiguousarray(seen.known))
        write_bytes(self._file(place), save(tensors))

    def __getitem__(self, place: Place) -> Seen | None:
        file = self._file(place)
        if not file.is_file():
            raise KeyError(place)
        try:
            tensors = load_file(file)
            if not tensors:
                return None
            original, content, padded = tensors["geometry"].tolist()
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{file} is damaged: remove it, and give the command again") from error
        return Seen(
            tensors["mask_logits"],
            tensors["probabilities"],
            Geometry(tuple(original), tuple(content), tuple(padded)),
            tensors["known"].numpy() if "known" in tensors else None,
        )

    def __delitem__(self, place: Place) -> None:
        self._file(place).unlink()

    def __iter__(self) -> Iterator[Place]:
        for file in self.folder.glob("*.safetensors"):
            row, _, column = file.stem.partition("-")
            yield int(row), int(column)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, place: object) -> bool:
        return isinstance(place, tuple) and self._file(place).is_file()

    def _file(self, place: Place) -> Path:
        return self.folder / f"{place[0]}-{place[1]}.safetensors"


def _finish(
    part: _Part,
    out: Path,
    stem: str,
    segmenter: Segmenter,
    words: Vocabulary,
    options: Options,
    run: dict[str, Any],
    reader: WindowReader,
    where: geo.Georeference,
    read_as: dict[str, Any],
) -> dict[str, Path]:
    """Makes the results of the rows, renames them into place, and removes the folder of the run."""
    other = _other_name(words)
    names = {**dict(enumerate(words.labels)), other_id(len(words.names)): other}
    tags = {"SANSEG": VERSION, "MODEL": segmenter.san.config.name, "VOCABULARY": words.hash}
    made = {kind: part.folder / f"result{ending}" for kind, ending in RESULTS.items()}
    geo.write_index(
        made["index"], part.stripes("labels", geo.BLOCK), part.shape, words.labels, other, where, tags
    )
    geo.write_confidence(made["confidence"], part.stripes("confidence", geo.BLOCK), part.shape, where, tags)
    if options.geojson:
        geo.write_geojson(made["geojson"], part.stripes("labels", geo.POLYGON_BLOCK), names, where)
    if options.overlay:
        write_png(made["overlay"], _overlay(part, reader, words, other))
    if options.json:
        write_json(made["json"], _numbers(part, words, names, options, run, where, read_as))
    written = {}
    for kind, ending in RESULTS.items():
        written[kind] = out / f"{stem}{ending}"
        if made[kind].is_file():
            made[kind].replace(written[kind])
        else:
            written[kind].unlink(missing_ok=True)  # of an earlier run, which had other options
            del written[kind]
    (part.folder / RUN).unlink()  # first: without it, what is left is no run
    shutil.rmtree(part.folder)
    return written


def _numbers(
    part: _Part,
    words: Vocabulary,
    names: dict[int, str],
    options: Options,
    run: dict[str, Any],
    where: geo.Georeference,
    read_as: dict[str, Any],
) -> dict[str, Any]:
    """All but the pixels, as `Segmentation.to_dict`, and what windows and maps add to it."""
    regions, unknown = _regions(part, names)
    other = other_id(len(words.names))
    return {
        "sanseg": VERSION,
        "model": run["model"].split()[0],
        "width": part.shape[1],
        "height": part.shape[0],
        "regions": [
            {
                key: round(value, 6) if isinstance(value, float) else value
                for key, value in asdict(one).items()
            }
            for one in regions
        ],
        "unknown": {"id": part.unknown, "pixels": unknown},
        "other": {"id": other, "name": names[other], "words": list(words.other)},
        "labels": [
            {"id": id_, "label": synonyms[0], "synonyms": list(synonyms[1:])}
            for id_, synonyms in enumerate(words.names)
        ],
        "templates": run["templates"],
        "vocabulary": words.hash,
        "windows": {"size": options.window, "overlap": options.overlap, **read_as},
        "crs": None if not where.crs else where.crs.to_string(),
        "transform": None if not where.crs else list(where.transform)[:6],
    }


def _other_name(words: Vocabulary) -> str:
    name = "other"
    while any(name in names for names in words.names):
        name = f"({name})"
    return name


def _overlay(part: _Part, reader: WindowReader, words: Vocabulary, other: str) -> Any:
    """The whole picture painted, small: every n-th pixel."""
    height, width = part.shape
    if isinstance(reader, geo.Raster):
        image, _ = reader.overview(OVERVIEW)
        h, w = image.shape[:2]
    else:
        scale = min(1.0, OVERVIEW / max(height, width))
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
    rows, columns = (
        ((np.arange(small) + 0.5) * side / small).astype(np.intp) for small, side in ((h, height), (w, width))
    )
    if isinstance(reader, ArrayReader):
        image = reader.image[np.ix_(rows, columns)]
    return draw.overlay(image, part.labels_at(rows.tolist(), columns), words.labels, other)


def _regions(part: _Part, names: dict[int, str]) -> tuple[list[Region], int]:
    """The labels that occur, the largest first, as `Segmentation.regions`; and how many pixels are unknown.

    A share is of the pixels that are known.
    """
    pixels = np.zeros(part.unknown + 1, dtype=np.int64)
    steps = np.zeros(part.unknown + 1)
    both = zip(part.stripes("labels", geo.BLOCK), part.stripes("confidence", geo.BLOCK), strict=True)
    for (_, ids), (_, confidence) in both:
        pixels += np.bincount(ids.ravel(), minlength=len(pixels))
        steps += np.bincount(ids.ravel(), weights=confidence.ravel(), minlength=len(pixels))
    unknown = int(pixels[-1])
    known = max(1, int(pixels.sum()) - unknown)
    pixels[-1] = 0
    order = np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)].tolist()
    return [
        Region(
            id_, names[id_], n := int(pixels[id_]), n / known, float(steps[id_]) / geo.CONFIDENCE_STEPS / n
        )
        for id_ in order
    ], unknown
