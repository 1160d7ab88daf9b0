"""From the raw downloads of the benchmarks to folders of pictures and index masks.

Torch is not needed and not loaded: worker processes start with the imports of this module.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from sanseg.data.benchmarks import BENCHMARKS, Benchmark
from sanseg.data.labelsets import read_labelset
from sanseg.data.prepare_picture import SHRINKS, Job, Outcome, prepare_picture, write
from sanseg.data.raw import SPLITS
from sanseg.data.releases import RELEASES, Found
from sanseg.version import VERSION

__all__ = ["BENCHMARKS", "SHRINKS", "BadFilesError", "Prepared", "prepare"]

MARKER = "unfinished.json"  # lies in OUT from the first moment to the last
BATCH = 16  # pictures that a worker process is given at once
MOST_PROBLEMS = 20  # after so many bad files the rest is likely to be bad too


class BadFilesError(ValueError):
    """Files of a release that cannot be used. problems: a line for each; the other pictures are done."""

    def __init__(self, problems: Sequence[str], out: Path) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} files are bad" if len(problems) > 1 else "a file is bad"
        rest = "the rest was left alone" if len(problems) == MOST_PROBLEMS else "the rest is done"
        self.summary = f"{count}, {rest}; {out} is unfinished: put the files right, then run again to go on"
        super().__init__("; ".join((self.summary, *self.problems)))


@dataclass(frozen=True)
class Prepared:
    """What a finished run did.

    pictures, expected: how many each split has, and has in the whole release. made, kept: masks that were
    written, and that an earlier run had left whole. unlabelled: masks in which every pixel is unknown.
    labels: how many there are. seen: how many of them occur. notes: what a user should know.
    """

    out: Path
    pictures: Mapping[str, int]
    expected: Mapping[str, int]
    made: int
    kept: int
    unlabelled: int
    labels: int
    seen: int
    notes: tuple[str, ...]


def prepare(
    benchmark: str,
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    jobs: int | None = None,
    partial: bool = False,
    shrink: str = "longer",
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Writes a benchmark as images/, masks/ and dataset.json, which `SegmentationSet.open` reads.

    benchmark: a key of BENCHMARKS, which says how its download lies in `raw`.
    out: a new folder, or one that an earlier run of the same benchmark has begun: masks that are whole are
        kept. dataset.json comes last, and until then unfinished.json is there.
    jobs: worker processes, by default one for each processor. They import the main module: a script calls
        this under `if __name__ == "__main__"`.
    partial: a part of the release will do; else missing files and wrong counts are errors.
    shrink: which side of a picture a benchmark's `limit` is for, a key of SHRINKS.
    progress: called with the pictures done and their number.

    Masks are PNG: the class, or 255 where it is unknown; 16 bits and 65535 for more than 254 classes. Pictures
    are hard links to the raw ones (copies where the file system has no such links), or JPEGs where shrunk.

    Raises ValueError for wrong arguments and an incomplete release, BadFilesError for files in it that cannot be
    used, OSError where the disk refuses. What is done stays: run again to go on.
    """
    spec = _specification(benchmark, shrink)
    raw, out = Path(raw), Path(out)
    if not raw.is_dir():
        raise ValueError(f"{raw} is not a folder: give the folder that the downloads are unpacked in")
    jobs = _processors() if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"{jobs} jobs cannot do anything: give 1 or more")
    found = RELEASES[benchmark].find(raw, spec, partial)
    notes = found.notes + _check_counts(found, raw, spec, partial)
    _claim(out, benchmark)
    todo = [Job(benchmark, entry, out, shrink) for entries in found.splits.values() for entry in entries]
    made = unlabelled = 0
    seen: set[int] = set()
    problems: list[str] = []
    with closing(_run(todo, jobs)) as outcomes:  # whatever ends this early also ends the processes
        for number, outcome in enumerate(outcomes, start=1):
            made += outcome.made
            unlabelled += not outcome.seen and not outcome.problem
            seen.update(outcome.seen)
            problems += [outcome.problem] if outcome.problem else []
            if len(problems) == MOST_PROBLEMS:
                break
            if progress is not None:
                progress(number, len(todo))
    if problems:
        raise BadFilesError(problems, out)
    labels = read_labelset(spec.labelset)
    _describe(out, benchmark, labels, found)
    pictures = {split: len(entries) for split, entries in found.splits.items()}
    kept = len(todo) - made
    return Prepared(out, pictures, found.expected, made, kept, unlabelled, len(labels), len(seen), notes)


def _specification(benchmark: str, shrink: str) -> Benchmark:
    if benchmark not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {benchmark!r}: choose from {', '.join(BENCHMARKS)}")
    if shrink not in SHRINKS:
        raise ValueError(f"pictures cannot be shrunk by their {shrink!r} side: choose {' or '.join(SHRINKS)}")
    spec = BENCHMARKS[benchmark]
    if spec.limit is None and shrink != "longer":
        raise ValueError(f"pictures of {benchmark} are never shrunk: leave out {shrink!r}")
    return spec


def _processors() -> int:
    """How many this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _check_counts(found: Found, raw: Path, spec: Benchmark, partial: bool) -> tuple[str, ...]:
    """Raises ValueError where a count is surely wrong; else tells of those that differ."""
    notes = []
    for split, expected in found.expected.items():
        count = len(found.splits.get(split, ()))
        if count == expected:
            continue
        note = f"{raw} has {count:,} {split} pictures of {spec.title}, the release {expected:,}"
        if split in spec.surely and not partial:
            raise ValueError(f"{note}: unpack all of it, or use --partial")
        notes.append(note)
    return tuple(notes)


def _claim(out: Path, benchmark: str) -> None:
    """Makes OUT ours: marked as unfinished, with its folders, without what a killed run left half-written.

    Raises ValueError if it holds anything but a run of this benchmark.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder to write to")
    if out.is_dir() and any(out.iterdir()):
        owners = [owner for name in (MARKER, "dataset.json") if (owner := _owner(out / name)) is not None]
        if owners[:1] != [benchmark]:
            held = owners[0] if owners else "other files"
            raise ValueError(f"{out} holds {held}, not {benchmark}: give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write(out / MARKER, _json({"benchmark": benchmark, "sanseg": VERSION}))
    for folder in (out / "images", out / "masks"):
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()


def _owner(path: Path) -> str | None:
    """The benchmark that a file of ours names."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))["benchmark"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return owner if isinstance(owner, str) else None


def _describe(out: Path, benchmark: str, labels: Sequence[str], found: Found) -> None:
    """dataset.json: the set is whole."""
    spec = BENCHMARKS[benchmark]
    described = {
        "benchmark": benchmark,
        "source": f"{spec.title}{', ' * bool(found.source)}{found.source}, prepared by sanseg {VERSION}",
        "terms": spec.terms,
        "labels": labels,
        "other": None,
        "ignore": spec.unknown,
        "splits": {split: [entry.stem for entry in found.splits.get(split, ())] for split in SPLITS},
    }
    write(out / "dataset.json", _json(described))
    (out / MARKER).unlink()


def _run(todo: Sequence[Job], jobs: int) -> Generator[Outcome, None, None]:
    """Does all, in any order. Whatever ends it early, pictures that are begun are finished first."""
    batches = [todo[start : start + BATCH] for start in range(0, len(todo), BATCH)]
    if jobs == 1 or len(batches) == 1:
        yield from map(prepare_picture, todo)
        return
    # Processes are started afresh, not forked: a fork copies the locks that other threads hold.
    with ProcessPoolExecutor(
        min(jobs, len(batches)), mp_context=get_context("spawn"), initializer=_ignore_interrupts
    ) as pool:
        try:
            for future in as_completed([pool.submit(_prepare_batch, batch) for batch in batches]):
                yield from future.result()
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process died, perhaps for lack of memory: run again with fewer --jobs to go on"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal: the main one sees to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _prepare_batch(batch: Sequence[Job]) -> list[Outcome]:
    return [prepare_picture(job) for job in batch]


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
