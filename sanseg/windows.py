"""Pictures of any size, by overlapping windows: each is a picture to the network, and where they overlap, class
scores are blended. What is kept are the masks and embeddings of a band of windows, never a score of every pixel.

Q queries, R classifier rows, H W pixels of the whole picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sanseg.draw import LabelMap
from sanseg.images import Geometry, ImageSource, read_image
from sanseg.labelmap import View, label_map, label_map_of_views
from sanseg.lanes import Lanes, open_lanes
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Other, Segmenter, Words
from sanseg.vocabulary import Vocabulary, other_id

SIZE = 1024  # of a window, in pixels: a photo's worth
OVERLAP = 0.25  # of neighbouring windows, as a share of their size
SMALLEST = 32  # pixels of a window: below, the network sees nothing

Place = tuple[int, int]
"""Of a window: which from the top, which from the left."""

Window = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]
"""Its pixels, uint8 (h, w, 3), RGB; and which of them the picture knows, bool (h, w), None for all."""


class WindowReader(Protocol):
    """A picture that can be read by windows, of height x width pixels."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def read(self, rows: slice, columns: slice) -> Window:
        """These pixels. Not asked by several threads at once."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """A picture in memory, read by windows. image: uint8 (H, W, 3), RGB."""

    image: NDArray[np.uint8]

    @property
    def height(self) -> int:
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        return int(self.image.shape[1])

    def read(self, rows: slice, columns: slice) -> tuple[NDArray[np.uint8], None]:
        return self.image[rows, columns], None


@dataclass(frozen=True)
class Layout:
    """Which windows cover a picture of height x width pixels.

    All windows have one size: `size` pixels, or the picture's side where that is shorter. Neighbours overlap by
    `overlap` of it; the last of each row and column is moved inwards to end with the picture, and overlaps more.

    Raises ValueError for a size below SMALLEST and an overlap outside 0..0.5.
    """

    height: int
    width: int
    size: int = SIZE
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        assert self.height > 0, self.height
        assert self.width > 0, self.width
        if self.size < SMALLEST:
            raise ValueError(f"windows of {self.size} pixels: wanted at least {SMALLEST}, as {SIZE}")
        if not 0 <= self.overlap <= 0.5:  # nor NaN
            raise ValueError(f"an overlap of {self.overlap}: wanted a share of a window, 0 to 0.5")

    @cached_property
    def rows(self) -> tuple[slice, ...]:
        """From which to which row of pixels the windows reach, from the top."""
        return _windows(self.height, self.size, self._shared)

    @cached_property
    def columns(self) -> tuple[slice, ...]:
        """As `rows`, from the left."""
        return _windows(self.width, self.size, self._shared)

    @cached_property
    def bands(self) -> tuple[slice, ...]:
        """The rows of pixels, cut wherever a window begins or ends: in each band the same windows answer."""
        return _cut(self.rows)

    @cached_property
    def weights(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How much each window counts at each row (windows, H) and column (windows, W): they sum to 1."""
        return _ramps(self.rows, self._shared), _ramps(self.columns, self._shared)

    @property
    def _shared(self) -> int:
        return round(self.size * self.overlap)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def _windows(length: int, size: int, shared: int) -> tuple[slice, ...]:
    size = min(size, length)
    starts = [*range(0, length - size, size - shared), length - size] if length > size else [0]
    return tuple(slice(start, start + size) for start in starts)


def _cut(spans: Sequence[slice]) -> tuple[slice, ...]:
    """What lies between any two ends of these spans that follow each other."""
    ends = sorted({end for span in spans for end in (span.start, span.stop)})
    return tuple(slice(*pair) for pair in pairwise(ends))


def _ramps(spans: Sequence[slice], shared: int) -> NDArray[np.float32]:
    """Each window counts less towards those ends beyond which the picture goes on, linearly."""
    places = np.arange(spans[-1].stop) + 0.5
    ramps = []
    for span in spans:
        inside = (span.start < places) & (places < span.stop)
        rise, fall = ((places - span.start), (span.stop - places))
        ramp = np.ones_like(places)
        if shared and span.start > 0:
            ramp = np.minimum(ramp, rise / shared)
        if shared and span.stop < spans[-1].stop:
            ramp = np.minimum(ramp, fall / shared)
        ramps.append(np.where(inside, ramp, 0))
    together = np.stack(ramps)
    normal: NDArray[np.float32] = (together / together.sum(axis=0)).astype(np.float32)
    return normal


@dataclass(frozen=True, eq=False)
class Seen:
    """What the network said of a window.

    mask_logits: (Q, h, w). probabilities: float32 (Q, R). geometry: of the window.
    known: bool, which pixels of the window the picture knows; None for all.
    """

    mask_logits: Tensor
    probabilities: Tensor
    geometry: Geometry
    known: NDArray[np.bool_] | None = None


_Cell = tuple[slice, Mapping[Place, Seen]]

Kept = MutableMapping[Place, Seen | None]
"""Windows at hand; None is a window of which the picture knows nothing."""


@dataclass(frozen=True, eq=False)
class Band:
    """Rows of the picture that are done.

    label_map: (h, W), as `Segmentation.label_map`, and `other_id` + 1 where the picture knows nothing.
    confidence: float32 (h, W), as `Segmentation.confidence`; 0 there.
    """

    rows: slice
    label_map: LabelMap
    confidence: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Windows:
    """A picture, seen by windows, and what it is asked.

    words: exactly these compete; see `Segmenter.resolve`.
    kept: the windows at hand are kept here, and taken from here where they are there already.
    """

    segmenter: Segmenter
    reader: WindowReader
    words: Vocabulary
    layout: Layout
    kept: Kept = field(default_factory=dict)

    def answer(self, first: int = 0, progress: Callable[[int], None] = lambda _: None) -> Iterator[Band]:
        """The label map, band by band, from the top. A window is dropped from `kept` once no band needs it.

        On a CPU windows and label maps are computed side by side, as the pictures of `Segmenter.segment_each`.

        A pixel that several windows see gets the mean of their scores, weighted by `Layout.weights`. Where one
        window is the whole picture, the answer is `Segmenter`'s to the bit.

        first: the row to begin with, where a band begins.
        progress: called with the number of windows done since its last call.
        Raises as `WindowReader.read`, and ValueError where the network fails.
        """
        row_label = self.segmenter.classifier(self.words).row_label
        rows, columns = self.layout.rows, range(len(self.layout.columns))
        places = [(i, j) for i, window in enumerate(rows) if window.stop > first for j in columns]
        missing = deque(place for place in places if place not in self.kept)
        # As many as for the whole picture: a run that goes on computes its windows with as many threads each.
        with closing(open_lanes(self.segmenter.device, len(self.layout))) as lanes:

            def look(window: Window) -> Seen | None:
                with lanes.turn:
                    return self._look(window)

            found = lanes.map(look, map(self._read, [*missing]))
            for band in self.layout.bands:
                if band.start < first:
                    continue
                for place in [place for place in self.kept if rows[place[0]].stop <= band.start]:
                    del self.kept[place]
                down = [i for i, window in enumerate(rows) if _meet(window, band)]
                while missing and missing[0][0] <= down[-1]:
                    self.kept[missing.popleft()] = next(found)
                    progress(1)
                yield self._band(band, down, row_label, lanes)

    def see(self, place: Place) -> Seen | None:
        """A window through the network; None where the picture knows nothing of it.

        Pixels that the picture does not know are shown in the network's mean colour, as padding is.
        """
        return self._look(self._read(place))

    def _read(self, place: Place) -> Window:
        return self.reader.read(self.layout.rows[place[0]], self.layout.columns[place[1]])

    @torch.inference_mode()
    def _look(self, window: Window) -> Seen | None:
        segmenter = self.segmenter
        image, known = window
        if known is not None and known.all():
            known = None
        if known is not None:
            if not known.any():
                return None
            mean = np.round(255 * np.array(segmenter.san.config.mean)).astype(np.uint8)
            image = np.where(known[..., None], image, mean)
        try:
            encoded = segmenter.encode(image)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"the network failed on a window of {self.layout.size} pixels ({reason}): use smaller windows,"
                " or another device"
            ) from error
        probabilities_QR = segmenter.classifier(self.words).probabilities(*encoded.proposals.regions())
        return Seen(encoded.proposals.mask_logits[0], probabilities_QR, encoded.geometry, known)

    def _band(self, rows: slice, down: Sequence[int], row_label: Sequence[int], lanes: Lanes) -> Band:
        """Rows that these windows see. Cells, each seen by the same windows all over, are scored side by side."""
        unknown = other_id(len(self.words.names)) + 1
        shape = rows.stop - rows.start, self.layout.width
        ids = np.full(shape, unknown, dtype=np.uint8 if unknown == 255 else np.uint16)
        confidence = np.zeros(shape, dtype=np.float32)

        def score(cell: _Cell) -> None:
            columns, seen = cell
            with lanes.turn:
                ids[:, columns], confidence[:, columns] = self._scored(rows, columns, seen, row_label)
                place, one = next(iter(seen.items()))
                if one.known is not None:
                    known = one.known[self._within(place, rows, columns)]
                    ids[:, columns][~known] = unknown
                    confidence[:, columns][~known] = 0

        for _ in lanes.map(score, self._cells(down)):
            pass
        return Band(rows, ids, confidence)

    def _cells(self, down: Sequence[int]) -> Iterator[_Cell]:
        """Columns between any two ends of windows that follow each other, and what is kept of these rows' windows.

        Not those that a window covers which knows nothing.
        """
        near: dict[Place, Seen | None] = {}  # each window is fetched once for all cells beside each other
        for columns in _cut(self.layout.columns):
            across = [j for j, window in enumerate(self.layout.columns) if _meet(window, columns)]
            near = {(i, j): near[i, j] if (i, j) in near else self.kept[i, j] for i in down for j in across}
            seen = {place: one for place, one in near.items() if one is not None}
            if len(seen) == len(near):
                yield columns, seen

    def _scored(
        self, rows: slice, columns: slice, seen: Mapping[Place, Seen], row_label: Sequence[int]
    ) -> tuple[LabelMap, NDArray[np.float32]]:
        return label_map_of_views(
            [self._view(place, one, rows, columns) for place, one in seen.items()],
            row_label,
            temperature=self.words.temperature,
            thresholds=self.words.thresholds,
        )

    def _within(self, place: Place, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Rows and columns of the picture, counted from a window's corner."""
        top, left = self.layout.rows[place[0]].start, self.layout.columns[place[1]].start
        return slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)

    def _view(self, place: Place, seen: Seen, rows: slice, columns: slice) -> View:
        down, across = self.layout.weights
        weights = down[place[0], rows], across[place[1], columns]
        weight = None
        if any((one != 1).any() for one in weights):
            device = seen.mask_logits.device
            weight = torch.from_numpy(weights[0]).to(device), torch.from_numpy(weights[1]).to(device)
        y, x = self._within(place, rows, columns)
        return View(seen.mask_logits, seen.probabilities, seen.geometry, rows=y, columns=x, weight=weight)

    def agreement(self) -> float:
        """The share of the pixels in overlaps at which two windows beside each other name the same, each by itself.

        Every window goes through the network. Pixels in several overlaps count in each; 1 where there are none.
        """
        row_label, same, pixels = self.segmenter.classifier(self.words).row_label, 0, 0
        before: list[LabelMap | None] = []
        for i in range(len(self.layout.rows)):
            beside: list[LabelMap | None] = []
            for j in range(len(self.layout.columns)):
                seen = self.see((i, j))
                own = None if seen is None else self._own(seen, row_label)
                for neighbour, at in ((before[j : j + 1], (i - 1, j)), (beside[-1:], (i, j - 1))):
                    if neighbour and neighbour[0] is not None and own is not None:
                        agreed = self._agreed(own, (i, j), neighbour[0], at)
                        same, pixels = same + int(np.count_nonzero(agreed)), pixels + agreed.size
                beside.append(own)
            before = beside
        return same / pixels if pixels else 1.0

    def _own(self, seen: Seen, row_label: Sequence[int]) -> LabelMap:
        return label_map(seen.mask_logits, seen.probabilities, row_label, seen.geometry)[0]

    def _agreed(self, one: LabelMap, at: Place, two: LabelMap, there: Place) -> NDArray[np.bool_]:
        spans = self.layout.rows, self.layout.columns
        rows, columns = (
            slice(max(span[a].start, span[b].start), min(span[a].stop, span[b].stop))
            for span, a, b in zip(spans, at, there, strict=True)
        )
        agreed: NDArray[np.bool_] = (
            one[self._within(at, rows, columns)] == two[self._within(there, rows, columns)]
        )
        return agreed


def _meet(one: slice, two: slice) -> bool:
    return bool(one.start < two.stop and two.start < one.stop)


def segment_by_windows(
    segmenter: Segmenter,
    image: ImageSource,
    vocabulary: Words,
    other: Other = "auto",
    *,
    size: int = SIZE,
    overlap: float = OVERLAP,
    max_pixels: int | None = None,
) -> Segmentation:
    """As `Segmenter.__call__`, of a picture in memory that is larger than the network should see at once.

    size: of a window, in pixels. overlap: of windows beside each other, as a share of their size, 0 to 0.5.
    max_pixels: as `images.read_image`. Raises ValueError for a size or an overlap that cannot be.
    """
    words = segmenter.resolve(vocabulary, other)
    reader = ArrayReader(read_image(image, max_pixels=max_pixels))
    layout = Layout(reader.height, reader.width, size, overlap)
    bands = list(Windows(segmenter, reader, words, layout).answer())
    return Segmentation(
        np.concatenate([band.label_map for band in bands]),
        np.concatenate([band.confidence for band in bands]),
        words,
        model=segmenter.san.config.name,
        templates=words.templates or segmenter.san.config.templates,
        image=reader.image,
    )


@dataclass(frozen=True)
class Steps:
    """The share of neighbouring pixels whose labels differ: across lines on which a window begins or ends, and
    across all others. Seams that cannot be seen have about the same share."""

    at_seams: float
    elsewhere: float


def steps(label_map: LabelMap, layout: Layout) -> Steps:
    """How often the label changes at seams, and elsewhere. label_map: (H, W), of a picture with this layout.

    Raises ValueError for a label map of another size, and for windows that have no seams.
    """
    if label_map.shape != (layout.height, layout.width):
        raise ValueError(
            f"the label map is {label_map.shape[1]}x{label_map.shape[0]}, the windows cover"
            f" {layout.width}x{layout.height}: pass the label map they gave"
        )
    if len(layout) == 1:
        raise ValueError("one window covers the picture: there are no seams")
    found: dict[bool, list[NDArray[np.float64]]] = {True: [], False: []}
    for ids, windows in ((label_map, layout.rows), (label_map.T, layout.columns)):
        share = np.mean(ids[1:] != ids[:-1], axis=1)  # between row y and y + 1
        at = np.isin(np.arange(1, len(ids)), [end for one in windows for end in (one.start, one.stop)])
        for seam in found:
            found[seam].append(share[at == seam])
    return Steps(*(float(np.mean(np.concatenate(found[seam]))) for seam in (True, False)))
