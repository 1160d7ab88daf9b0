"""What a file of a raw release says: the annotations of the six benchmarks, in the formats they come in.

Everything is untrusted. Nothing here needs torch: the worker processes of `prepare` start with these imports.
A raw map is an integer array (H, W) of the release's own values (raw_ids.py).
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

RawMap = NDArray[np.integer[Any]]
MAX_PIXELS = 100_000_000  # of one file, as in images.py: more is no picture of these releases
SPLITS = ("train", "val")

# What Pillow and scipy raise on damaged bytes.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,  # NotImplementedError too
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Region:
    """A region of trainval_merged.json: its category, and COCO's compressed run lengths."""

    category: int
    counts: bytes


@dataclass(frozen=True)
class Regions:
    """All regions of a picture, in the order they are painted. size: (height, width). path: of the JSON."""

    path: Path
    stem: str
    size: tuple[int, int]
    regions: tuple[Region, ...]

    def __str__(self) -> str:
        return f"{self.path}, picture {self.stem},"


Annotation = Path | Regions


def check_plain(name: str, path: Path) -> str:
    """The name of a picture that a file gives. Names become paths below OUT, so they may not lead out of it."""
    if Path(name).name != name or "\\" in name or not name.isprintable():
        raise ValueError(f"{path} names the picture {name[:80]!r}: wanted a plain name without folders")
    return name


def read_detail(path: Path, with_regions: bool) -> tuple[dict[str, list[str]], dict[str, Regions]]:
    """trainval_merged.json of PASCAL in Detail: the stems of each split, and the regions of each picture.

    `images` have image_id, file_name, phase (train, val or test), height and width; `annos_segmentation` have
    image_id, category_id, and in segmentation the size and run lengths of COCO. The rest is not needed.
    """
    try:
        with path.open(encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON that can be read ({_line(error)}): download it again") from error
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    pictures: dict[int, tuple[str, tuple[int, int]]] = {}
    painted: dict[int, list[Region]] = {}
    try:
        for image in document["images"]:
            if image["phase"] not in SPLITS:
                continue
            stem = Path(check_plain(image["file_name"], path)).stem
            splits[image["phase"]].append(stem)
            pictures[_whole(image["image_id"])] = (stem, (_whole(image["height"]), _whole(image["width"])))
        for segment in document["annos_segmentation"] if with_regions else ():
            number, mask = segment["image_id"], segment["segmentation"]
            if number not in pictures:  # of the test set
                continue
            if tuple(mask["size"]) != pictures[number][1]:
                raise TypeError(f"a region of {pictures[number][0]} of another size")
            region = Region(_whole(segment["category_id"]), mask["counts"].encode("ascii"))
            painted.setdefault(number, []).append(region)
    except (KeyError, TypeError, AttributeError, UnicodeError) as error:
        raise ValueError(
            f"{path} is not trainval_merged.json as it was released ({error!r}): download it again"
        ) from error
    regions = {
        stem: Regions(path, stem, size, tuple(painted.get(number, ())))
        for number, (stem, size) in pictures.items()
    }
    return splits, regions if with_regions else {}


def _whole(value: Any) -> int:
    """An id, a side or a category of a JSON, in the range that any of them has."""
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise TypeError(f"{value!r} where a whole number belongs")
    return value


def decode_runs(counts: bytes) -> NDArray[np.int64]:
    """COCO's compressed run lengths: how many pixels off, on, off, ... column by column.

    Each character holds 5 bits, lowest first, and whether more follow; from the fourth on, a number is the
    difference to the one two before it. Raises ValueError for what is no such text.
    """
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("run lengths that do not decode")
    last = np.flatnonzero(codes & 32 == 0)  # of each number
    first = np.concatenate(([0], last[:-1] + 1))
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if place.max() > 6:
        raise ValueError("a run length of more than 35 bits")
    numbers = np.add.reduceat((codes & 31) << 5 * place, first)
    numbers -= np.where(codes[last] & 16, 1 << 5 * (place[last] + 1), 0)  # the sign
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def read_regions(annotation: Regions) -> RawMap:
    """Paints the regions of the JSON, the later over the earlier; 0 where there is none."""
    height, width = annotation.size
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"{annotation} is said to be {width}x{height}: download it again")
    columns = np.zeros(width * height, np.int32)
    for region in annotation.regions:
        try:
            runs = decode_runs(region.counts)
            if runs.min() < 0 or runs.sum() != columns.size:
                raise ValueError(f"run lengths that do not add up to {width}x{height} pixels")
        except ValueError as error:
            raise ValueError(f"{annotation} has {error}: download it again") from error
        columns[np.repeat(np.arange(len(runs)) % 2 == 1, runs)] = region.category
    return columns.reshape(width, height).T


def read_label_map(path: Path) -> RawMap:
    """The LabelMap of a .mat file of Pascal Context."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        label_map = loadmat(path, variable_names=("LabelMap",))["LabelMap"]
    except KeyError as error:
        raise ValueError(f"{path} has no LabelMap: unpack the release again") from error
    except (*DECODER_ERRORS, MatReadError) as error:
        raise ValueError(f"{path} cannot be read as .mat ({_line(error)}): unpack it again") from error
    if not isinstance(label_map, np.ndarray) or label_map.ndim != 2 or label_map.dtype.kind not in "ui":
        raise ValueError(f"{path} has a LabelMap that is no matrix of integers: unpack the release again")
    return label_map


def read_context(annotation: Annotation) -> RawMap:
    return read_regions(annotation) if isinstance(annotation, Regions) else read_label_map(annotation)


def read_indices(path: Annotation) -> RawMap:
    """A PNG whose pixels are numbers, with a palette or without."""
    assert isinstance(path, Path)
    return _read_png(path, ("P", "L"), "one channel of class numbers, as in the release")


def read_objects(path: Annotation) -> RawMap:
    """A *_seg.png of the full ADE20K: red over 10, times 256, plus green, is the number of the object."""
    assert isinstance(path, Path)
    red, green, _ = np.moveaxis(_read_png(path, ("RGB",), "the release's RGB"), 2, 0).astype(np.int32)
    number: RawMap = red // 10 * 256 + green
    return number


def _read_png(path: Path, modes: tuple[str, ...], wanted: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=("PNG",)) as png:
            if png.mode in modes and png.width * png.height <= MAX_PIXELS:
                return np.asarray(png)
            found = f"{png.mode}, {png.width}x{png.height}"
    except DECODER_ERRORS as error:
        raise ValueError(f"{path} cannot be read as PNG ({_line(error)}): unpack it again") from error
    raise ValueError(f"{path} is {found}: wanted {wanted}, of at most {MAX_PIXELS // 10**6} megapixels")


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) as `read_image` gives it: EXIF may turn the picture. Its pixels are not decoded."""
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            width, height = picture.size
    except DECODER_ERRORS as error:
        raise ValueError(f"{path} cannot be read as a picture ({_line(error)}): unpack it again") from error
    return (width, height) if turned else (height, width)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
