"""What is done of each picture, and by whom: lanes in this process, or several processes of one picture each."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from multiprocessing import parent_process
from pathlib import Path

import torch

from sanseg import draw
from sanseg.folders.keep import KeptPictures, rounded
from sanseg.folders.manifest import Record
from sanseg.folders.plan import Job
from sanseg.folders.start import context
from sanseg.formats import FORMATS
from sanseg.images import read_image, write_bytes
from sanseg.lanes import Lanes
from sanseg.model.download import sha256_of
from sanseg.run import Wish
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Encoded, Segmenter
from sanseg.vocabulary import Vocabulary

THUMBNAILS = "index_files"  # beside index.html, which shows them
THUMBNAIL_SIDE = 320  # pixels, at most


@dataclass(frozen=True)
class Settings:
    """What is done of every picture. formats: as `Segmentation.save` has them.

    encoded: where encoded pictures are kept; None keeps none. network: the fingerprint of the model's weights.
    thumbnails: whether a small painted picture is written for index.html. simplify: of polygons, in pixels.
    """

    out: Path
    vocabulary: Vocabulary
    formats: tuple[str, ...]
    encoded: Path | None = None
    network: str = ""
    thumbnails: bool = False
    simplify: float = 0.0


class Hand:
    """Segments one picture after the other and writes what is asked for. Several threads may use one.

    turn: what it holds while it computes, if anything.
    """

    def __init__(
        self, segmenter: Segmenter, settings: Settings, turn: AbstractContextManager[object] | None = None
    ) -> None:
        self.segmenter = segmenter
        self.settings = settings
        self.turn = turn or nullcontext()
        self.kept = (
            None if settings.encoded is None else KeptPictures(settings.encoded, settings.network, segmenter)
        )

    def __call__(self, job: Job) -> Record:
        """What became of a picture; where it cannot be read, segmented or written, its error."""
        began = time.perf_counter()
        try:
            status = job.path.stat()
            sha256 = sha256_of(job.path)
            result, waited = self._segment(job.path, sha256)
            outputs = self._write(result, job.stem, job.path.name)
            mask = outputs.get("index")
            regions = result.regions()
            return Record(
                job.input,
                job.stem,
                status.st_size,
                status.st_mtime_ns,
                sha256,
                result.label_map.shape[1],
                result.label_map.shape[0],
                outputs={
                    kind: path.relative_to(self.settings.out).as_posix() for kind, path in outputs.items()
                },
                mask_sha256=sha256_of(mask) if mask else "",
                seconds=round(time.perf_counter() - began - waited, 3),
                areas={region.label: round(region.share, 6) for region in regions},
                confidence={region.label: round(region.mean_confidence, 6) for region in regions},
                replaced=job.replaced,
            )
        except (OSError, ValueError) as error:
            return Record(job.input, job.stem, error=" ".join(str(error).split()))

    def _segment(self, path: Path, sha256: str) -> tuple[Segmentation, float]:
        """The answer, and the seconds that it waited for others."""
        known = self.kept.get(sha256) if self.kept else None
        if known is not None:
            image = read_image(path) if self._looked_at else None
            if image is None or image.shape[:2] == known[1].original:
                with self._waited() as waited:
                    return self._answer(Encoded(*known, image, self.segmenter)), waited
        picture = self.segmenter.read(path)
        with self._waited() as waited:
            encoded = self.segmenter.encode_picture(picture)
            if self.kept:
                encoded = rounded(encoded)
            result = self._answer(encoded)
        if self.kept:
            self.kept.put(sha256, encoded)
        return result, waited

    @contextmanager
    def _waited(self) -> Iterator[float]:
        """Its turn, and the seconds until it came."""
        asked = time.perf_counter()
        with self.turn:
            yield time.perf_counter() - asked

    def _answer(self, encoded: Encoded) -> Segmentation:
        queries = any(FORMATS[name].queries for name in self.settings.formats)
        return self.segmenter.answer(encoded, self.settings.vocabulary, proposals=queries)

    @property
    def _looked_at(self) -> bool:
        """Whether anything that is written shows the picture."""
        return self.settings.thumbnails or any(FORMATS[name].image for name in self.settings.formats)

    def _write(self, result: Segmentation, stem: str, picture: str) -> dict[str, Path]:
        target = self.settings.out / stem
        formats, simplify = self.settings.formats, self.settings.simplify
        outputs = result.save(target.parent, target.name, formats, picture=picture, simplify=simplify)
        if self.settings.thumbnails and result.image is not None:
            path = self.settings.out / THUMBNAILS / f"{stem}.jpg"
            write_bytes(path, thumbnail(result))
            outputs["thumbnail"] = path
        return outputs


def thumbnail(result: Segmentation) -> bytes:
    """A JPEG of the painted picture without a legend, at most THUMBNAIL_SIDE pixels wide and high."""
    assert result.image is not None
    image, label_map = draw.shrink(result.image, result.label_map, THUMBNAIL_SIDE)
    colours = result.vocabulary.colours
    painted = draw.overlay(image, label_map, result.labels, result.other_name, legend=False, colours=colours)
    file = io.BytesIO()
    painted.save(file, format="JPEG", quality=80)
    return file.getvalue()


def in_lanes(
    lanes: Lanes, hand: Callable[[Job], Record], jobs: Iterable[Job], wish: Wish
) -> Generator[Record, None, None]:
    """Each picture's record as soon as it is done, in threads of this process.

    Once `wish` is to stop, nothing is begun any more, and what is begun is finished.
    """
    with closing(lanes):
        yield from _as_done(lanes.pool, hand, jobs, 2 * lanes.number, wish)


def in_processes(
    load: Callable[[], Segmenter], settings: Settings, workers: int, jobs: Iterable[Job], wish: Wish
) -> Generator[Record, None, None]:
    """As `in_lanes`, in processes of their own; each loads a model and holds one picture at a time.

    load: picklable. Torch's threads are divided among the processes; they end with this one, even if it is killed.
    Raises OSError where one of them dies.
    """
    threads = max(1, torch.get_num_threads() // workers)
    pool = ProcessPoolExecutor(workers, context(), _begin, (load, settings, threads))
    with pool:
        try:
            yield from _as_done(pool, _work, jobs, 2 * workers, wish)
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process died, perhaps for lack of memory: run again with fewer --workers to go on"
            ) from error


def _as_done(
    pool: Executor, work: Callable[[Job], Record], jobs: Iterable[Job], at_once: int, wish: Wish
) -> Generator[Record, None, None]:
    """At most so many pictures are handed over and not yet taken back, so that `jobs` may be endless."""
    left = iter(jobs)
    begun: set[Future[Record]] = set()
    try:
        while True:
            if wish.asked:
                begun = {future for future in begun if not future.cancel()}
            else:
                begun |= {pool.submit(work, job) for job in islice(left, at_once - len(begun))}
            if not begun:
                return
            done, begun = wait(begun, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_hands: list[Hand] = []  # the one of a worker process


def _begin(load: Callable[[], Segmenter], settings: Settings, threads: int) -> None:
    """In a new worker process. Ctrl-C reaches every process of the terminal: the main one sees to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _hands[:] = [Hand(load(), settings)]


def _end_with_parent() -> None:
    """A killed process ends nothing: its workers would write on while the next run has begun."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(job: Job) -> Record:
    return _hands[0](job)
