"""`sanseg segment` of pictures that go by windows: the options, which pictures they are, and the road."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sanseg.cli.shell import complain

if TYPE_CHECKING:
    from sanseg.folders.by_windows import ByWindows
    from sanseg.folders.plan import Job
    from sanseg.large.run import Options
    from sanseg.segmenter import Segmenter
    from sanseg.vocabulary import Vocabulary

PANEL = "Large pictures (docs/LARGE.md)"

Window = Annotated[
    int | None,
    typer.Option(
        help="Segment by windows of so many pixels, into TIFFs. Larger pictures than the limit do so by themselves,"
        " in windows of 1024.",
        rich_help_panel=PANEL,
    ),
]
Overlap = Annotated[
    float | None,
    typer.Option(
        help="Of windows beside each other, as a share: 0 to 0.5; else 0.25.", rich_help_panel=PANEL
    ),
]
Bands = Annotated[
    str,
    typer.Option(help="Of a TIFF: which are red, green and blue, '4,3,2', or one.", rich_help_panel=PANEL),
]
Stretch = Annotated[
    str,
    typer.Option(
        help="What becomes black and white: '0,3000', or percentiles, '2%,98%'. Else 8 bits stay as they are, and"
        " more are stretched from 2% to 98%.",
        rich_help_panel=PANEL,
    ),
]
MaxMegapixels = Annotated[
    int | None,
    typer.Option(
        help="Of pictures that cannot be read by windows (JPEG, PNG, ...): what they may decode to, in memory;"
        " else 100.",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True)
class Large:
    """What the options say. `window` None: only pictures above the limit go by windows."""

    window: int | None
    overlap: float | None
    bands: str
    stretch: str
    max_megapixels: int | None

    @property
    def asked(self) -> bool:
        """Whether every picture goes by windows: an option was given that only means something there."""
        return bool(self.bands or self.stretch) or (self.window, self.overlap) != (None, None)

    @property
    def max_pixels(self) -> int | None:
        return None if self.max_megapixels is None else self.max_megapixels * 10**6

    def options(self, formats: Sequence[str], simplify: float = 0.0) -> Options:
        """Raises ValueError for options that cannot be, for formats not written by windows, and without rasterio."""
        from sanseg import geo
        from sanseg.large.results import ENDINGS

        unknown = [name for name in formats if name not in ENDINGS]
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)} cannot be written by windows: choose from {', '.join(ENDINGS)} (--format)"
            )
        if simplify:
            raise ValueError("polygons of pictures that go by windows are exact: leave --simplify out")
        geo.rasterio()
        geojson, overlay, json = (kind in formats for kind in ("geojson", "overlay", "json"))
        return replace(self._how(), geojson=geojson, overlay=overlay, json=json)

    def of_a_folder(self, told: Callable[[Job, int, int], None]) -> ByWindows:
        """As `options`, but for formats: those are written that can be.

        told: as `ByWindows` has it; a picture on the map is told of once.
        """
        from sanseg import geo
        from sanseg.folders.by_windows import ByWindows

        told_of_maps: list[Path] = []

        def told_all(job: Job, done: int, windows: int) -> None:
            if not told_of_maps and geo.readable_by_windows(job.path) and geo.on_the_map(job.path):
                told_of_maps.append(job.path)
                complain(f"note: {geo.GROUND_LEVEL.format(name=job.input)}")
            told(job, done, windows)

        if self.asked:
            geo.rasterio()
        return ByWindows(self._takes_of_a_folder, self._how(), told_all)

    def _takes_of_a_folder(self, path: Path) -> bool:
        """Most of a folder may be photos: only what is too large goes by windows, and what bands are asked of."""
        from sanseg import geo
        from sanseg.large.run import goes_by_windows

        rasters = bool(self.bands or self.stretch) and geo.readable_by_windows(path)
        return rasters or goes_by_windows(path, self.max_pixels)

    def _how(self) -> Options:
        from sanseg import geo
        from sanseg.large.run import Options
        from sanseg.windows import OVERLAP, SIZE, Layout

        options = Options(
            window=SIZE if self.window is None else self.window,
            overlap=OVERLAP if self.overlap is None else self.overlap,
            bands=_numbers(self.bands) if self.bands else None,
            stretch=geo.Stretch.parse(self.stretch) if self.stretch else None,
            max_pixels=self.max_pixels,
        )
        Layout(1, 1, options.window, options.overlap)
        return options

    def takes(self, path: Path) -> bool:
        """Whether a picture by itself goes by windows; not where it cannot be read, which the plain road tells."""
        if self.asked:
            return True
        from sanseg.large.run import goes_by_windows

        return goes_by_windows(path, self.max_pixels)


def _numbers(bands: str) -> tuple[int, ...]:
    try:
        return tuple(int(band) for band in bands.split(","))
    except ValueError:
        raise ValueError(f"bands cannot be {bands!r}: give numbers, as 4,3,2, counted from 1") from None


def segment_by_windows(
    segmenter: Segmenter,
    words: Vocabulary,
    stem_of: Mapping[Path, str],
    out: Path,
    options: Options,
    console: Console,
) -> list[tuple[str, str]]:
    """Segments each picture of `stem_of`, one after the other. Returns what failed, and why."""
    from sanseg import geo
    from sanseg.large.run import segment_large

    failed, told = [], False
    for path, stem in stem_of.items():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        try:
            if not told and geo.readable_by_windows(path) and geo.on_the_map(path):
                complain(f"note: {geo.GROUND_LEVEL.format(name=path)}")
                told = True
            with bar:
                task = bar.add_task(f"windows of {escape(path.name)}")
                files = segment_large(
                    segmenter,
                    path,
                    words,
                    out,
                    stem,
                    options,
                    lambda done, of, bar=bar, task=task: bar.update(task, completed=done, total=of),  # type: ignore[misc]
                )
        except (ValueError, OSError) as error:
            failed.append((str(path), str(error)))
        except KeyboardInterrupt:
            complain(f"{path}: what is done is kept, the same command goes on")
            raise
        else:
            shown = ", ".join(str(file) for file in files.values())
            console.print(f"\n{escape(str(path))} -> {escape(shown)}", soft_wrap=True)
    return failed
