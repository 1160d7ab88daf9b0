"""Masks that lie in PNG files, a value for each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sanseg.data.files import IndexMap, Picture, check_size, map_type
from sanseg.images import DECODER_ERRORS, MAX_PIXELS, QUIET
from sanseg.vocabulary import other_id

ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B")


def read_png(path: str | Path, modes: tuple[str, ...], wanted: str) -> NDArray[Any]:
    """The values of a PNG, (H, W) or (H, W, C), as they are stored: palettes are not applied.

    modes: of Pillow, those allowed; `wanted` says them in words.
    Raises ValueError for another mode, another format, damage, and more than MAX_PIXELS, which are refused
    before they are decoded; OSError for a file that cannot be opened.
    """
    with Path(path).open("rb") as file:
        try:
            with QUIET, Image.open(file, formats=("PNG",)) as png:
                if png.width * png.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{png.width}x{png.height} pixels")
                if png.mode in modes:
                    return np.asarray(png)
                mode = png.mode
        except UnidentifiedImageError as error:
            raise ValueError(f"{path} cannot be read as a mask (it is no PNG): save it as PNG") from error
        except Image.DecompressionBombError as error:
            reason = f"{error}, the limit is {MAX_PIXELS // 10**6} megapixels"
            raise ValueError(f"{path} is too large a mask ({reason}): make it smaller") from error
        except DECODER_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path} cannot be read as a mask ({reason}): save it as PNG again") from error
    raise ValueError(f"{path} is a mask of mode {mode}: save it with {wanted}")


@dataclass(frozen=True)
class IndexMasks:
    """A PNG of one channel for each picture; what each value means is one look into a table.

    narrow: int32 (256,), wide: int32 (65536,): the id of each value of an 8-bit and of a 16-bit file, in the
    convention of `Sample`; -1 for values that mean nothing.
    wanted: the values allowed, in words.
    """

    labels: int
    narrow: NDArray[np.int32]
    wide: NDArray[np.int32]
    wanted: str

    @classmethod
    def of(
        cls, labels: int, special: Mapping[int, int], *, first: int = 0, doubtful: tuple[int, ...] = ()
    ) -> IndexMasks:
        """Labels from the value `first` on, and values with a meaning of their own: {value: id}.

        65535 is always unknown, and 65534 other where another value is: nothing else has room there.
        doubtful: values that mean nothing in an 8-bit file, where they might be a label or mean unknown.
        """
        other = other_id(labels)
        special = {65_535: other + 1, **({65_534: other} if other in special.values() else {}), **special}
        wide = np.full(65_536, -1, np.int32)
        wide[first : first + labels] = np.arange(labels)
        wide[list(special)] = list(special.values())
        narrow = wide[:256].copy()
        narrow[list(doubtful)] = -1
        small = {value: id_ for value, id_ in special.items() if labels > 254 or value < 65_534}
        meanings = {other: "other", other + 1: "unknown"}
        named = [f"{value} for {meanings[id_]}" for value, id_ in sorted(small.items(), reverse=True)]
        indices = f"indices below {labels}" if first == 0 else f"{first} to {first + labels - 1}"
        return cls(labels, narrow, wide, " and ".join([", ".join([indices, *named[:-1]]), named[-1]]))

    def read(self, picture: Picture, size: tuple[int, int]) -> IndexMap:
        path = str(picture.mask)
        stored = read_png(path, ONE_CHANNEL, "one channel of indices, without colours")
        check_size(path, stored.shape, size)
        eight_bits = stored.dtype.itemsize == 1
        ids = (self.narrow if eight_bits else self.wide)[stored.astype(np.int64)]
        if ids.min() < 0:
            value = int(stored[ids < 0].max())
            if eight_bits and self.wide[value] >= 0:
                raise ValueError(
                    f"{path} has 8 bits and holds {value}, which may be a label or mean unknown in a set of"
                    f" {self.labels} labels: save the masks of such a set with 16 bits"
                )
            raise ValueError(
                f"{path} holds the value {value}, the set has {self.labels} labels: use {self.wanted}"
            )
        return ids.astype(map_type(self.labels))
