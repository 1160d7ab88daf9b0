"""Pictures in and files out: the only module that decodes untrusted bytes.

A picture is uint8 (H, W, 3), RGB. H W pixels of the picture, h w of the resized one.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from sanseg.model.config import SANConfig

ImageSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Tensor
MAX_SCANS = 40  # of a JPEG: encoders make about ten, and each costs a walk over all pixels
MAX_PIXELS = 100_000_000  # of files and bytes: more are refused before they are decoded (300 MB as RGB)

# The formats whose decoders see untrusted bytes, with the suffixes that folders are searched for. Pillow has
# many more, and some start other programs (EPS starts Ghostscript).
FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm"),
    "JPEG2000": (".jp2",),
    "AVIF": (".avif",),  # Pillow 11.3 and later
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# What Pillow's decoders raise on damaged bytes, found by feeding them damaged bytes.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation: what undoes it


def read_image(source: ImageSource, *, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Any picture as uint8 (H, W, 3), RGB, in memory of its own.

    source: a path; the bytes of a file; a PIL picture (its current frame); a numpy array (H, W) or (H, W, C);
        a tensor (H, W), (C, H, W) or (H, W, C). C is 1 (grey), 3 (RGB) or 4 (RGB and alpha). Numbers are
        uint8, uint16 over 0..65535, floats over 0..1, or bool.

    EXIF orientation is applied, unless it cannot be read. Alpha is composited on white. Animations give their
    first frame. 16 bits are scaled to 8. Colour profiles are ignored.

    max_pixels: what a file or bytes may decode to at most; None is MAX_PIXELS. Raise it for files you trust.

    Raises OSError for a file that cannot be opened (FileNotFoundError where there is none), and ValueError,
    in one line, for all else that is wrong: empty, damaged or truncated, no picture, more than max_pixels (of
    files and bytes only: the others are decoded already), numbers out of range, another shape.
    """
    if isinstance(source, bytes):
        return _read_encoded(io.BytesIO(source), f"this picture of {len(source)} bytes", max_pixels)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"there is no file {path}: check the path, which starts at {Path.cwd()} if it is relative"
            ) from error
        with file:
            return _read_encoded(file, str(path), max_pixels)
    if isinstance(source, Image.Image):
        with _decoding("this PIL picture"):
            source.load()
        return _from_pil(source)
    if isinstance(source, Tensor):
        return _from_array(_tensor_to_array(source))
    if isinstance(source, np.ndarray):
        return _from_array(np.asarray(source))
    raise ValueError(
        f"a picture cannot be read from {type(source).__name__}: "
        "pass a path, bytes, a PIL picture, a numpy array or a tensor"
    )


def _read_encoded(
    file: io.BufferedReader | io.BytesIO, name: str, max_pixels: int | None
) -> NDArray[np.uint8]:
    most = MAX_PIXELS if max_pixels is None else max_pixels
    with _open_encoded(file, name, most) as image:
        if image.width * image.height > most:
            raise ValueError(_too_large(f"{name} is {image.width}x{image.height} pixels", most))
        if image.format in ("JPEG", "MPO"):
            _check_scans(file, name)
        with _decoding(name, most):
            image.load()
        return _from_pil(image)


def _check_scans(file: io.BufferedReader | io.BytesIO, name: str) -> None:
    """Raises ValueError for a JPEG that sends its decoder over the pixels again and again, which takes few bytes."""
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    # Few marks are few scans; many may lie in what comes with the picture.
    if data.count(_SCAN) > MAX_SCANS and (scans := _count_scans(data)) > MAX_SCANS:
        raise ValueError(
            f"{name} is drawn in {scans} scans, at most {MAX_SCANS} are taken: save it again, as a JPEG that is not"
            " progressive"
        )


_SCAN, _END, _ALONE = b"\xff\xda", b"\xff\xd9", b"\xff\x01"  # of JPEG's marks; the last has no length
_MARK = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # else it is data, filling, or a restart


def _count_scans(data: bytes) -> int:
    at, scans = 2, 0
    while (mark := _MARK.search(data, at)) is not None and mark[0] != _END:
        scans += mark[0] == _SCAN
        at = mark.end() + (
            0 if mark[0] == _ALONE else int.from_bytes(data[mark.end() : mark.end() + 2], "big")
        )
    return scans


def _open_encoded(file: io.BufferedReader | io.BytesIO, name: str, most: int) -> Image.Image:
    """A picture whose header was read. Raises as `read_image`."""
    if not file.read(1):
        raise ValueError(f"{name} is empty: get the file again")
    file.seek(0)
    Image.init()
    with _decoding(name, most), _pillow_allows(most):
        return Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN])


def pixels_of(source: str | os.PathLike[str] | bytes) -> int:
    """How many a picture's file has, by its header, without a limit. Raises as `read_image`."""
    if isinstance(source, bytes):
        return _pixels(io.BytesIO(source), f"this picture of {len(source)} bytes")
    with Path(source).open("rb") as file:
        return _pixels(file, str(source))


def _pixels(file: io.BufferedReader | io.BytesIO, name: str) -> int:
    with _open_encoded(file, name, 2**64) as image:
        return image.width * image.height


@contextmanager
def _pillow_allows(pixels: int) -> Iterator[None]:
    """Pillow's own limit is the whole process's: raised while a larger file is opened, whose size is checked next."""
    if pixels <= MAX_PIXELS:
        yield
        return
    with _PILLOWS_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


_PILLOWS_LIMIT = threading.Lock()


class _Quiet:
    """Ignores Pillow's warnings, and rasterio's of arrays that lie nowhere, while any thread is inside.

    `warnings.catch_warnings` belongs to the process: each thread entering and leaving its own would undo its
    neighbours', and one lock around it all would decode one picture at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                warnings.filterwarnings("ignore", "Dataset has no geotransform|The given matrix is equal to")
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(kind, error, trace)


QUIET = _Quiet()


@contextmanager
def _decoding(name: str, most: int = MAX_PIXELS) -> Iterator[None]:
    """Turns what Pillow raises into one line, and keeps its warnings to itself."""
    try:
        with QUIET:
            yield
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is no picture, or is damaged at its beginning, or in a format other than "
            f"{', '.join(FORMATS)}: convert it to JPEG or PNG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(f"{name} is too large", most)) from error
    except DECODER_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} is damaged or truncated ({reason}): get the file again") from error


def _too_large(what: str, most: int) -> str:
    return (
        f"{what}, the limit is {most // 10**6} megapixels: make it smaller, raise the limit (max_pixels,"
        " --max-megapixels), pass it as an array, or as a TIFF by windows (docs/LARGE.md)"
    )


def _from_pil(image: Image.Image) -> NDArray[np.uint8]:
    """From a picture that is loaded. It stays as it was."""
    if 0 in image.size:
        raise ValueError(f"the picture is {image.width}x{image.height}: it needs at least one pixel")
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode == "F":
        return _from_array(np.asarray(image))
    if image.mode.startswith("I"):
        # Mode I has 32 bits, but is what some versions of Pillow decode 16 bits to.
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ValueError(f"the picture spans {low}..{high}, wanted 0..65535: scale it to 16 bits")
        return _from_array(values.astype(np.uint16))
    try:
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return np.array(image.convert("RGB"))
    except ValueError as error:
        raise ValueError(f"the picture has colours of kind {image.mode}: convert it to RGB") from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where there is none or it cannot be read: the picture is whole."""
    try:
        with QUIET:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DECODER_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _tensor_to_array(tensor: Tensor) -> NDArray[Any]:
    """To (H, W) or (H, W, C), whichever way round the channels are."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    array: NDArray[Any] = tensor.numpy()
    if array.ndim != 3:
        return array
    first, last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 3, 4)
    if first and last:
        raise ValueError(
            f"a tensor of shape {array.shape} may be (C, H, W) or (H, W, C): "
            "pass a numpy array, which is read as (H, W, C)"
        )
    return array.transpose(1, 2, 0) if first else array


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(
            f"an array of shape {array.shape} is no picture: pass one picture as (H, W), (H, W, 1), "
            "(H, W, 3) or (H, W, 4); a tensor may also be (C, H, W)"
        )
    if 0 in array.shape:
        raise ValueError(f"an array of shape {array.shape} has no pixels: pass at least one")
    pixels = _to_uint8(array).reshape(*array.shape[:2], channels)
    if channels == 4:
        return _from_pil(Image.fromarray(pixels))
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), order="C")  # a copy, always


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # either order of bytes
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 to 255, rounded
    if array.dtype.kind != "f":
        raise ValueError(
            f"an array of {array.dtype} is no picture: pass uint8, uint16, floats over 0..1, or bool"
        )
    if not np.isfinite(array).all():
        raise ValueError("the picture holds NaN or infinite numbers: replace them, wanted 0..1")
    low, high = float(array.min()), float(array.max())
    if low < -1e-4 or high > 1 + 1e-4:  # interpolation oversteps by rounding
        raise ValueError(
            f"the picture's floats span {low:.4g}..{high:.4g}, wanted 0..1: scale them, or pass uint8"
        )
    return (array.astype(np.float32) * 255 + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class Geometry:
    """The sizes of a picture on its way into the network, each (height, width) in pixels.

    original: as it came. content: resized. padded: with what was added right and below.
    """

    original: tuple[int, int]
    content: tuple[int, int]
    padded: tuple[int, int]


def _evaluation_sides(shorter: int, longer: int, short_side: int, long_side: int) -> tuple[int, int]:
    """detectron2 v0.6, ResizeShortestEdge: both sides rounded."""
    new_shorter, new_longer = float(short_side), short_side / shorter * longer
    if new_longer > long_side:
        scale = long_side / new_longer
        new_shorter, new_longer = new_shorter * scale, new_longer * scale
    return int(new_shorter + 0.5), int(new_longer + 0.5)


def _demo_sides(shorter: int, longer: int, short_side: int, long_side: int) -> tuple[int, int]:
    """The demo of the official SAN: the longer side cut to an integer. It has no cap, this has."""
    new_longer = int(longer * short_side / shorter)
    if new_longer > long_side:
        return int(shorter * long_side / longer), long_side
    return short_side, new_longer


# The two ways of the official SAN: the new shorter and longer side, and PIL's interpolation.
RESIZES: dict[str, tuple[Callable[[int, int, int, int], tuple[int, int]], Image.Resampling]] = {
    "evaluation": (_evaluation_sides, Image.Resampling.BILINEAR),
    "demo": (_demo_sides, Image.Resampling.BICUBIC),
}


def resize(
    image: NDArray[np.uint8], short_side: int, long_side: int, how: str = "evaluation"
) -> NDArray[np.uint8]:
    """To a short side of `short_side` pixels, the aspect kept; uint8 (H, W, 3) to uint8 (h, w, 3).

    Where the long side would exceed `long_side`, that cap wins: the short side becomes shorter, down to 1
    pixel (1x5000 becomes 1x2560). how: a key of RESIZES.

    Raises ValueError for an unknown `how`.
    """
    if how not in RESIZES:
        raise ValueError(f"there is no way of resizing called {how!r}: choose from {', '.join(RESIZES)}")
    new_sides, resampling = RESIZES[how]
    height, width = image.shape[:2]
    shorter, longer = new_sides(min(height, width), max(height, width), short_side, long_side)
    shorter = max(1, shorter)
    size = (longer, shorter) if height < width else (shorter, longer)  # PIL's order: width, height
    return np.array(Image.fromarray(image).resize(size, resampling))


def prepare(image: NDArray[np.uint8], config: SANConfig, how: str = "evaluation") -> tuple[Tensor, Geometry]:
    """What the network sees: the picture resized, normalised, and padded right and below with zeros.

    image: uint8 (H, W, 3), RGB. how: a key of RESIZES.
    Returns float32 (3, Hp, Wp), sides that are multiples of `config.divisor`, and the sizes on the way.

    Raises ValueError for an unknown `how`.
    """
    resized = resize(image, config.short_side, config.long_side, how)
    height, width = resized.shape[:2]
    padded_height, padded_width = (-(-side // config.divisor) * config.divisor for side in (height, width))
    mean = torch.tensor([255 * value for value in config.mean]).view(3, 1, 1)
    std = torch.tensor([255 * value for value in config.std]).view(3, 1, 1)
    padded = torch.zeros(3, padded_height, padded_width)
    padded[:, :height, :width] = (torch.from_numpy(resized).permute(2, 0, 1) - mean) / std
    geometry = Geometry((image.shape[0], image.shape[1]), (height, width), (padded_height, padded_width))
    return padded, geometry


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes the whole file or nothing; as `writing`."""
    with writing(path) as file:
        file.write(data)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that is there whole or not at all: a temporary one beside it, then renamed over it.

    Folders that are missing are made. Raises OSError where the disk refuses, and leaves no temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:  # not tempfile, whose files nobody else may read
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Plain values as UTF-8 JSON, indented, in the order they have; as `write_bytes`.

    Raises ValueError for NaN and infinite numbers, which JSON has no words for.
    """
    write_bytes(path, encode_json(value))


def encode_json(value: Any, indent: int | None = 2) -> bytes:
    """What `write_json` writes. indent: None puts all on one line, for long lists of numbers."""
    separators = None if indent else (",", ":")
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def write_png(
    path: str | os.PathLike[str],
    image: Image.Image | NDArray[np.uint8] | NDArray[np.uint16],
    palette: NDArray[np.uint8] | None = None,
) -> None:
    """A PNG; as `write_bytes`. The same pixels give the same bytes.

    image: a PIL picture; uint8 (H, W, 3) or (H, W); or uint16 (H, W), written with 16 bits.
    palette: uint8 (256, 3), RGB; the picture is then uint8 (H, W), and its numbers index the palette.
    """
    write_bytes(path, encode_png(image, palette))


def encode_png(
    image: Image.Image | NDArray[np.uint8] | NDArray[np.uint16],
    palette: NDArray[np.uint8] | None = None,
    text: Mapping[str, str] | None = None,
) -> bytes:
    """What `write_png` writes. text: what its text chunks say, by keyword (Latin, at most 79 characters)."""
    picture = image.copy() if isinstance(image, Image.Image) else Image.fromarray(image)
    if palette is not None:
        assert picture.mode == "L", picture.mode
        assert palette.shape == (256, 3), palette.shape
        picture.putpalette(palette.tobytes())
    chunks = PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_text(keyword, value)
    data = io.BytesIO()
    # Looking for repetitions is most of the work. Photos hardly repeat themselves, label maps mostly within a row.
    strategy = {"compress_type": zlib.Z_RLE} if picture.mode in ("RGB", "P") else {}
    picture.save(data, format="PNG", pnginfo=chunks, **strategy)
    return data.getvalue()
