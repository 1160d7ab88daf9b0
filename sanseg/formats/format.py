"""What a format is, and what it may be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sanseg.segmentation import Segmentation

Content = bytes | Mapping[str, bytes]
"""A file, or the files of a folder by name."""


@dataclass(frozen=True)
class Options:
    """picture: what a file that names its picture calls it. simplify: of polygons, in pixels; 0 is exact."""

    picture: str
    simplify: float = 0.0

    @property
    def simplified(self) -> dict[str, float]:
        """What a file with polygons says of them, beside who made it: nothing where they are exact."""
        return {"simplify": self.simplify} if self.simplify else {}


@dataclass(frozen=True)
class Format:
    """A form in which a Segmentation is saved.

    ending: what follows the stem in the name of the file, or of the folder.
    what: it is, in one line.
    make: the bytes of the file, or the files of the folder. Raises ValueError where the result lacks what it needs.
    queries: whether the result must have kept its queries (`Segmenter(..., proposals=True)`).
    image: whether it shows the picture.
    may_be_empty: whether a picture may have a file without any bytes.
    needs: the packages of the extra `formats` that it is made with.
    """

    ending: str
    what: str
    make: Callable[[Segmentation, Options], Content]
    queries: bool = False
    image: bool = False
    may_be_empty: bool = False
    needs: tuple[str, ...] = ()
