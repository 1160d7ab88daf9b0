"""One picture of a benchmark on its way into the folder form: linked or shrunk, its mask written and checked.

This runs in worker processes, so nothing here loads torch.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sanseg.data.benchmarks import BENCHMARKS, Benchmark
from sanseg.data.raw import DECODER_ERRORS, RawMap, picture_size
from sanseg.data.releases import RELEASES, Entry

IndexMap = NDArray[np.unsignedinteger[Any]]
PNG_END = b"IEND\xaeB`\x82"
QUALITY = 75  # of shrunk JPEGs: what the published preparation of ADE20K-847 wrote, as Pillow's default

# Which side of a picture a benchmark's `limit` is for.
SHRINKS: dict[str, Callable[[int, int], int]] = {"longer": max, "shorter": min}


@dataclass(frozen=True)
class Job:
    """One picture: what a worker process is sent."""

    benchmark: str
    entry: Entry
    out: Path
    shrink: str


@dataclass(frozen=True)
class Outcome:
    """What became of a Job. seen: the classes in the mask. problem: what is wrong with its files, if any is."""

    made: bool = False
    seen: tuple[int, ...] = ()
    problem: str = ""


def prepare_picture(job: Job) -> Outcome:
    """One picture and its mask; both are left alone where they are whole."""
    spec, entry = BENCHMARKS[job.benchmark], job.entry
    image = job.out / "images" / f"{entry.stem}{entry.picture.suffix}"
    mask = job.out / "masks" / f"{entry.stem}.png"
    try:
        full = picture_size(entry.picture)
        size = _shrunk(full, spec.limit, job.shrink)
        index_map = _kept(mask, size, spec)
        made = index_map is None
        if index_map is None:
            raw_map = RELEASES[job.benchmark].read(entry.annotation)
            index_map = _shrink_map(_to_classes(raw_map, full, job), size)
        picture = None if size == full or _has_size(image, size) else _shrink_picture(entry.picture, size)
    except ValueError as error:
        return Outcome(problem=str(error))
    if picture is not None:
        write(image, picture)
    elif size == full:
        _link(entry.picture, image)
    if made:
        write(mask, _png(index_map))
    classes = np.flatnonzero(np.bincount(index_map.ravel(), minlength=len(spec.raw_ids)))
    return Outcome(made, tuple(int(number) for number in classes if number != spec.unknown))


def _to_classes(raw_map: RawMap, size: tuple[int, int], job: Job) -> IndexMap:
    """The release's values (H, W) to class ids, uint8 or uint16, and the id of unknown."""
    spec, where = BENCHMARKS[job.benchmark], job.entry.annotation
    if raw_map.shape != size:
        (h, w), (height, width) = raw_map.shape, size
        raise ValueError(
            f"{where} is {w}x{h}, its picture {job.entry.picture} {width}x{height}: unpack both again"
        )
    table = _table(job.benchmark)
    known = (raw_map >= 0) & (raw_map < len(table))
    classes = np.where(known, table[np.where(known, raw_map, 0).astype(np.int64)], -1)
    if (classes < 0).any():
        value = int(raw_map[classes < 0][0])
        void = f" and {', '.join(map(str, spec.void))}" * bool(spec.void)
        raise ValueError(
            f"{where} holds the value {value}, {spec.title} has 0 to {spec.largest}{void}: unpack it again"
        )
    return classes.astype(np.uint8 if spec.unknown == 255 else np.uint16)


@cache
def _table(benchmark: str) -> NDArray[np.int32]:
    """The class of each raw value; -1 where the release has no such value."""
    spec = BENCHMARKS[benchmark]
    table = np.full(max((spec.largest, *spec.void)) + 1, -1, np.int32)
    table[[*range(spec.largest + 1), *spec.void]] = spec.unknown
    table[list(spec.raw_ids)] = np.arange(len(spec.raw_ids))
    return table


def _kept(path: Path, size: tuple[int, int], spec: Benchmark) -> IndexMap | None:
    """The mask that an earlier run wrote, if it is whole: it decodes to its end, has the size, holds classes."""
    modes = ("L",) if spec.unknown == 255 else ("I;16", "I")  # Pillow before 11 opens 16 bits as I
    try:
        with Image.open(path, formats=("PNG",)) as png:
            if png.mode not in modes or png.size != size[::-1]:
                return None
            index_map: IndexMap = np.asarray(png).astype(np.uint16)
        if not path.read_bytes().endswith(PNG_END):  # the pixels may be there without it
            return None
    except DECODER_ERRORS:
        return None
    right = (index_map < len(spec.raw_ids)) | (index_map == spec.unknown)
    return index_map if right.all() else None


def _shrunk(size: tuple[int, int], limit: int | None, shrink: str) -> tuple[int, int]:
    """(height, width) of a picture whose side is at most `limit`, the aspect kept."""
    height, width = size
    side = SHRINKS[shrink](height, width)
    if limit is None or side <= limit:
        return size
    return max(1, round(height * limit / side)), max(1, round(width * limit / side))


def _shrink_map(index_map: IndexMap, size: tuple[int, int]) -> IndexMap:
    """To the nearest pixel as OpenCV finds it, which the published preparation used: rounded down."""
    (height, width), (h, w) = index_map.shape, size
    shrunk: IndexMap = index_map[np.arange(h)[:, None] * height // h, np.arange(w) * width // w]
    return shrunk


def _shrink_picture(path: Path, size: tuple[int, int]) -> bytes:
    """A JPEG of the picture, bilinear as in OpenCV: between the nearest pixels, without antialiasing."""
    h, w = size
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except DECODER_ERRORS as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a picture ({reason}): unpack it again") from error
    steps = (picture.width / w, 0, 0, 0, picture.height / h, 0)
    shrunk = picture.transform((w, h), Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR)
    data = io.BytesIO()
    shrunk.save(data, format="JPEG", quality=QUALITY)
    return data.getvalue()


def _has_size(path: Path, size: tuple[int, int]) -> bool:
    """Whether this picture is there already. Files of ours are whole or absent."""
    try:
        return picture_size(path) == size
    except ValueError:
        return False


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none. The picture's bytes are never written again."""
    if target.exists() and (target.samefile(source) or target.stat().st_size == source.stat().st_size):
        return
    with _replacing(target) as temporary:
        try:
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _png(index_map: IndexMap) -> bytes:
    data = io.BytesIO()
    Image.fromarray(index_map).save(data, format="PNG")
    return data.getvalue()


def write(path: Path, data: bytes) -> None:
    # As images.write_bytes, whose module loads torch.
    with _replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` at the end, or vanishes."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}): make room or rights, then run again to go on"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
