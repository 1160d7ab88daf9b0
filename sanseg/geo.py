"""Rasters by windows: TIFF, GeoTIFF and JPEG 2000 through rasterio (extra `geo`), and where they lie on the map.

C bands, H W pixels of the raster, h w of a window.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sanseg.extras import need
from sanseg.images import MAX_PIXELS

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

# What is read by windows, and by which of GDAL's drivers. It has many more, and some of them read other files, or the
# network, on the word of an untrusted one.
DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".jp2": "JP2OpenJPEG"}

CACHE_BYTES = 256 << 20  # of decoded blocks: rasterio takes bytes; the default is a share of the memory
SAMPLE = 1024  # pixels, the longer side of what a stretch is measured on

GROUND_LEVEL = (
    "{name} has map coordinates. sanseg's models learned from photos taken on the ground: from the air, their answer"
    " is a guess, unless you trained yours on such pictures"
)


def rasterio() -> ModuleType:
    """The package, imported when it is needed. Raises ValueError where it is not installed."""
    modules = ("rasterio", "rasterio.features", "rasterio.windows")
    package, *_ = (need(module, "geo", "reading and writing large TIFFs by windows") for module in modules)
    assert isinstance(package, ModuleType)
    return package


@contextmanager
def gdal() -> Iterator[ModuleType]:
    """With a bounded cache; a raster without map coordinates is nothing to warn of."""
    package = rasterio()
    with warnings.catch_warnings(), package.Env(GDAL_CACHEMAX=CACHE_BYTES):
        warnings.simplefilter("ignore", package.errors.NotGeoreferencedWarning)
        yield package


@dataclass(frozen=True)
class Stretch:
    """What becomes black and what becomes white: numbers of the raster, or percentiles of each band, in percent."""

    low: float
    high: float
    percent: bool

    @classmethod
    def parse(cls, text: str) -> Stretch:
        """From "2%,98%" or "0,3000". Raises ValueError for anything else, and where low is not below high."""
        parts = [part.strip() for part in text.split(",")]
        percent = all(part.endswith("%") for part in parts)
        try:
            low, high = (float(part.removesuffix("%") if percent else part) for part in parts)
        except ValueError:
            raise ValueError(
                f"a stretch cannot be {text!r}: give percentiles, as 2%,98%, or numbers, as 0,3000"
            ) from None
        if not -np.inf < low < high < np.inf or (percent and not 0 <= low < high <= 100):
            raise ValueError(f"a stretch from {parts[0]} to {parts[1]}: the first must be the smaller")
        return cls(low, high, percent)

    def __str__(self) -> str:
        sign = "%" if self.percent else ""
        return f"{self.low:g}{sign},{self.high:g}{sign}"


PERCENTILES = Stretch(2, 98, percent=True)  # of rasters that are not 8 bits deep


@dataclass(frozen=True)
class Georeference:
    """Where a raster lies on the map. crs: None where it has none; transform: from (column, row) to map coordinates."""

    crs: Any
    transform: Any
    gcps: tuple[Any, ...] = ()
    gcps_crs: Any = None

    @classmethod
    def of(cls, dataset: DatasetReader) -> Georeference:
        gcps, gcps_crs = dataset.gcps
        return cls(dataset.crs, dataset.transform, tuple(gcps), gcps_crs)

    @property
    def found(self) -> bool:
        """Whether the raster has map coordinates."""
        return bool(self.crs) or bool(self.gcps)

    def profile(self) -> dict[str, Any]:
        """As `rasterio.open` takes it to write a raster in the same place."""
        if self.gcps:
            return {"gcps": list(self.gcps), "crs": self.gcps_crs}
        if not self.found and self.transform.is_identity:
            return {}
        return {"crs": self.crs, "transform": self.transform}


def readable_by_windows(path: str | PathLike[str]) -> bool:
    """Whether a file's name says that it is TIFF or JPEG 2000."""
    return Path(path).suffix.lower() in DRIVERS


def size(path: str | PathLike[str]) -> tuple[int, int]:
    """Height and width of a raster, in pixels, from its header. Raises as `Raster.open`."""
    with _opened(path) as dataset:
        return int(dataset.height), int(dataset.width)


def on_the_map(path: str | PathLike[str]) -> bool:
    """Whether a raster has map coordinates. Raises as `Raster.open`."""
    with _opened(path) as dataset:
        return Georeference.of(dataset).found


@contextmanager
def _opened(path: str | PathLike[str]) -> Iterator[DatasetReader]:
    path = Path(path)
    if not path.is_file():  # also what rasterio would take for an address on the network
        raise FileNotFoundError(f"there is no file {path}: check the path")
    with gdal() as package:
        try:
            dataset = package.open(path.resolve(), driver=DRIVERS[path.suffix.lower()])
        except package.errors.RasterioIOError as error:
            raise ValueError(_unreadable(path, error)) from error
        with dataset:
            yield dataset


class Raster:
    """A raster file, read by windows as 8-bit RGB: a `windows.WindowReader`. Use `open`."""

    def __init__(
        self, dataset: DatasetReader, name: str, bands: Sequence[int] | None, stretch: Stretch | None
    ) -> None:
        self._dataset = dataset
        self._name = name
        self.height, self.width = int(dataset.height), int(dataset.width)
        self._palette = _palette(dataset) if bands is None else None
        self.bands = (1,) if self._palette is not None else _bands(dataset, name, bands)
        self.georeference = Georeference.of(dataset)
        self._all_known = np.dtype(dataset.dtypes[0]).kind in "ui" and all(
            [flag.name for flag in flags] == ["all_valid"] for flags in dataset.mask_flag_enums
        )
        self._check(dataset)
        if stretch is None and np.dtype(dataset.dtypes[0]) != np.uint8:
            stretch = PERCENTILES
        self.stretch = None if self._palette is not None else stretch
        self._limits = self._measure()

    @classmethod
    @contextmanager
    def open(
        cls,
        path: str | PathLike[str],
        *,
        bands: Sequence[int] | None = None,
        stretch: Stretch | None = None,
    ) -> Iterator[Raster]:
        """Opens a file for the time of a `with`.

        bands: which are red, green and blue, counted from 1; or one, shown grey. None: those that the file calls
            so, else the first three, or the only one; a palette is applied.
        stretch: what becomes black and white. None: 8 bits stay as they are, all else from its 2nd to its 98th
            percentile, each band by itself.

        Pixels of no data, transparent ones, and numbers that are not finite are what the raster does not know.
        Raises ValueError for a file that cannot be read so, bands that it does not have, blocks too large to be
        decoded in bounded memory, and where rasterio is missing; OSError where there is no file.
        """
        with _opened(path) as dataset:
            yield cls(dataset, str(path), bands, stretch)

    def read(self, rows: slice, columns: slice) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """As `windows.WindowReader.read`. Raises ValueError where the file is damaged there."""
        window = rasterio().windows.Window.from_slices(rows, columns)
        values_Chw, known = self._values(window=window)
        return self._rgb(values_Chw), known

    def overview(self, side: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """As `read`, all of it, so that the longer side has at most so many pixels: every n-th is taken."""
        values_Chw, known = self._values(shape=self._within(side))
        return self._rgb(values_Chw), known

    def _within(self, side: int) -> tuple[int, int]:
        scale = min(1.0, side / max(self.height, self.width))
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))

    def _values(
        self, *, window: Any = None, shape: tuple[int, int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        try:
            values = self._dataset.read(
                self.bands, window=window, out_shape=None if shape is None else (len(self.bands), *shape)
            )
            known = None
            if not self._all_known:
                known = self._dataset.dataset_mask(window=window, out_shape=shape) > 0
        except rasterio().errors.RasterioIOError as error:
            raise ValueError(_unreadable(self._name, error)) from error
        if known is not None and values.dtype.kind == "f":
            known &= np.isfinite(values).all(axis=0)
        return values, known

    def _rgb(self, values_Chw: NDArray[Any]) -> NDArray[np.uint8]:
        if self._palette is not None:
            coloured: NDArray[np.uint8] = self._palette[values_Chw[0]]
            return coloured
        if self._limits is not None:
            low, high = (limit[:, None, None] for limit in self._limits)
            share = np.nan_to_num((values_Chw.astype(np.float32) - low) / (high - low)).clip(0, 1)
            values_Chw = (255 * share + 0.5).astype(np.uint8)
        return np.ascontiguousarray(
            np.broadcast_to(values_Chw, (3, *values_Chw.shape[1:])).transpose(1, 2, 0)
        )

    def _measure(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """What becomes black and white in each band, (C,) each."""
        if self.stretch is None:
            return None
        low, high = (
            np.full(len(self.bands), value, np.float32) for value in (self.stretch.low, self.stretch.high)
        )
        if self.stretch.percent:
            values_Chw, known = self._values(shape=self._within(SAMPLE))
            sample_Cn = values_Chw.reshape(len(values_Chw), -1) if known is None else values_Chw[:, known]
            if sample_Cn.size:
                ends = np.percentile(sample_Cn, (self.stretch.low, self.stretch.high), axis=1)
                low, high = ends.astype(np.float32)
        return low, np.maximum(high, np.nextafter(low, np.float32(np.inf)))  # a band of one value is black

    def _check(self, dataset: DatasetReader) -> None:
        deep = np.dtype(dataset.dtypes[0])
        if deep.kind not in "uif":
            raise ValueError(f"{self._name} holds numbers of kind {deep}: convert it to real ones")
        tall, wide = max(dataset.block_shapes, key=lambda block: block[0] * block[1])
        if tall * wide > MAX_PIXELS:
            raise ValueError(
                f"{self._name} is stored in blocks of {wide}x{tall} pixels, which cannot be read by windows: convert"
                " it, as with gdal_translate -co TILED=YES"
            )


def _unreadable(name: str | Path, error: Exception) -> str:
    reason = " ".join(str(error.__cause__ or error).split())
    return f"{name} cannot be read by windows ({reason}): wanted TIFF or JPEG 2000; get the file again, or convert it"


def _palette(dataset: DatasetReader) -> NDArray[np.uint8] | None:
    """The colours of a raster of one band that has a palette, uint8 (N, 3)."""
    if dataset.colorinterp[0].name != "palette" or dataset.dtypes[0] not in ("uint8", "uint16"):
        return None
    table = np.zeros((2 ** (8 * np.dtype(dataset.dtypes[0]).itemsize), 3), dtype=np.uint8)
    for number, colour in dataset.colormap(1).items():
        table[number] = colour[:3]
    return table


def _bands(dataset: DatasetReader, name: str, wanted: Sequence[int] | None) -> tuple[int, ...]:
    if wanted is not None:
        if len(wanted) not in (1, 3) or not all(1 <= band <= dataset.count for band in wanted):
            raise ValueError(
                f"bands {','.join(map(str, wanted))} of {name}, which has {dataset.count}: give three for red, green"
                " and blue, or one, counted from 1"
            )
        return tuple(wanted)
    called = {colour.name: number for number, colour in enumerate(dataset.colorinterp, 1)}
    if "cyan" in called:
        raise ValueError(f"{name} has colours of kind CMYK: convert it to RGB")
    if {"red", "green", "blue"} <= set(called):
        return called["red"], called["green"], called["blue"]
    return (1, 2, 3) if dataset.count >= 3 else (1,)
