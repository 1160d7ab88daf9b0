"""A folder of pictures from beginning to end: plan, work, manifest, page. What is told of it is the caller's."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from sanseg.devices import name_dtype
from sanseg.folders.by_windows import ByWindows
from sanseg.folders.manifest import Asked, Manifest, Record, locked, remove
from sanseg.folders.page import write_index
from sanseg.folders.plan import Job, Plan, plan
from sanseg.folders.sets import write_sets
from sanseg.folders.walk import Found
from sanseg.folders.work import Hand, Settings, in_lanes, in_processes
from sanseg.lanes import LANES, open_lanes
from sanseg.model.checkpoint import fingerprint
from sanseg.run import Wish, stopping
from sanseg.segmenter import Segmenter

GUARDED = "its label map was changed by hand: move that away to have the picture segmented again"


@dataclass(frozen=True)
class Crew:
    """Who does the work. workers: 1 is this process and its segmenter; more are processes that each `load` one."""

    segmenter: Segmenter
    load: Callable[[], Segmenter]
    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"{self.workers} workers cannot do anything: give 1 or more")

    def work(
        self, jobs: Sequence[Job], settings: Settings, wish: Wish, lanes: int
    ) -> Generator[Record, None, None]:
        """A record for each picture as soon as it is done, until `wish` is to stop; see `work`.

        lanes: no more than these share torch's threads.
        """
        if self.workers == 1 or len(jobs) < 2:
            opened = open_lanes(self.segmenter.device, lanes)
            return in_lanes(opened, Hand(self.segmenter, settings, opened.turn), jobs, wish)
        return in_processes(self.load, settings, min(self.workers, len(jobs)), jobs, wish)


@dataclass(frozen=True)
class Outcome:
    """records: of all pictures that were segmented or failed, in a folder also of earlier runs. failed: (path, why)
    of this run, sorted. stopped: whether it was asked to stop. left: how many pictures were not begun therefore.
    index: the page of a folder. by_windows: how many more went by windows, and how many of them
    failed.
    """

    records: list[Record]
    failed: list[tuple[str, str]]
    stopped: bool
    left: int
    index: Path | None = None
    by_windows: tuple[int, int] = (0, 0)

    def and_by_windows(self, pictures: int, failed: list[tuple[str, str]]) -> Outcome:
        """With so many pictures more, and those of them that failed."""
        return replace(self, failed=[*self.failed, *failed], by_windows=(pictures, len(failed)))


def segment_files(
    stem_of: Mapping[Path, str],
    crew: Crew,
    settings: Settings,
    *,
    each: Callable[[Record], None] = lambda _: None,
) -> Outcome:
    """Segments pictures into `settings.out` itself, whatever is there, without a manifest.

    stem_of: what the files of each are called, without their endings.
    each: called with what became of each picture, whose `input` is its path as given.
    A first SIGINT or SIGTERM finishes what is begun. Raises OSError where a worker process dies.
    """
    jobs = [Job(path, str(path), stem) for path, stem in stem_of.items()]
    if settings.encoded is not None:
        settings = _complete(settings, crew)
    records = []
    with stopping() as wish, closing(crew.work(jobs, settings, wish, len(jobs))) as done:
        for record in done:
            records.append(record)
            each(record)
    return Outcome(records, _failed(records), wish.asked, len(jobs) - len(records))


def segment_folder(
    found: Found,
    crew: Crew,
    settings: Settings,
    *,
    overwrite: bool = False,
    by_windows: ByWindows | None = None,
    planned: Callable[[Plan], None] = lambda _: None,
    each: Callable[[Record], None] = lambda _: None,
) -> Outcome:
    """Segments what is not done yet of a folder, into `settings.out`, and writes its manifest and its page.

    overwrite: whether what the manifest lists is removed first, and all is done again.
    by_windows: which pictures are too large for the plain road, and how they are segmented: after the others, in this
        process. None is by the limit on decoded size.
    planned, each: called with what will be done, and with what became of each picture.
    A first SIGINT or SIGTERM finishes what is begun; whatever ends a run, calling this again goes on with the rest.

    Raises ValueError where `out` holds results of other words, models or pictures, where another process is at work
    in it, and where `overwrite` would lose label maps that were changed by hand; OSError where the disk refuses.
    """
    with locked(settings.out):
        manifest = Manifest(settings.out)
        settings = replace(_complete(settings, crew), thumbnails=True)
        if "index" not in settings.formats:  # what makes a data set of the folder
            settings = replace(settings, formats=("index", *settings.formats))
        asked = _asked(found, crew.segmenter, settings)
        if overwrite:
            manifest.empty()
        else:
            manifest.check_same(asked)
        todo = plan(found, manifest, settings.formats)
        planned(todo)
        manifest.rewrite(asked)
        records = []
        windows = by_windows or ByWindows()
        large = [job for job in todo.jobs if windows.takes(job.path)]
        small = [job for job in todo.jobs if job not in large] if large else todo.jobs
        # However many are left: answers are rounded by the number of threads, and a run that stopped gives the same.
        with stopping() as wish, closing(crew.work(small, settings, wish, LANES)) as done:
            for record in chain(done, windows.work(large, crew.segmenter, settings, wish)):
                records.append(record)
                _take(manifest, record)
                each(record)
        manifest.rewrite(asked)
        everything = list(manifest.records.values())
        write_sets(settings.out, asked, everything)
        index = write_index(settings.out, asked, everything)
    failed = sorted([*_failed(records), *((name, GUARDED) for name in todo.guarded)])
    return Outcome(everything, failed, wish.asked, len(todo.jobs) - len(records), index)


def _complete(settings: Settings, crew: Crew) -> Settings:
    """With what names the network's weights."""
    return replace(settings, network=fingerprint(crew.segmenter.san))


def _failed(records: Sequence[Record]) -> list[tuple[str, str]]:
    return sorted((record.input, record.error) for record in records if record.error is not None)


def _take(manifest: Manifest, record: Record) -> None:
    """Into the manifest. Files of an earlier result give way to a new one's; where there is none, both are known."""
    former = manifest.records.get(record.input)
    if former is not None and record.error is not None:
        record = replace(former, error=record.error)
    elif former is not None:
        for name in set(former.outputs.values()) - set(record.outputs.values()):
            remove(manifest.out / name)
    manifest.add(record)


def _asked(found: Found, segmenter: Segmenter, settings: Settings) -> Asked:
    words, config = settings.vocabulary, segmenter.san.config
    try:
        folder = Path(os.path.relpath(found.root.resolve(), settings.out.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        folder = found.root.resolve().as_posix()
    return Asked(
        folder,
        config.name,
        settings.network,
        name_dtype(segmenter.san.nothing.dtype),
        segmenter.resize,
        words.templates or config.templates,
        words.hash,
        tuple(" | ".join(names) for names in words.names),
        words.other,
        settings.formats,
        words.settings(),
        words.colours,
        settings.simplify,
    )
