"""The measuring: everything in turn, round after round, so that a busy machine is busy for all of it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from sanseg.benchmark.case import Case, vocabulary
from sanseg.benchmark.memory import photo_bytes
from sanseg.benchmark.products import Bound, flop, record
from sanseg.benchmark.report import Measured, Report, Stage, Times
from sanseg.benchmark.road import STAGES, Stopwatch, plain, walk
from sanseg.devices import DTYPES
from sanseg.model.text_cache import TextCache
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary

Progress = Callable[[str, int, int], None]
"""Called at the beginning of each piece of work: what it is, how many are done, how many there are."""


def measure(
    case: Case,
    dtypes: Sequence[str],
    rounds: int,
    *,
    with_plain: bool = True,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Measures each of `dtypes`, keys of `devices.DTYPES`, so many rounds long. All networks are in memory at once.

    Raises ValueError for unknown dtypes, for those that the device cannot compute in, and as `load_san`.
    """
    dtypes = tuple(dict.fromkeys(dtypes))
    unknown = [dtype for dtype in dtypes if dtype not in DTYPES]
    if unknown or not dtypes or rounds < 1:
        raise ValueError(
            f"{rounds} rounds of dtypes {', '.join(dtypes)}: give at least 1 round, and of {', '.join(DTYPES)}"
        )
    pieces = iter(range(total := len(dtypes) * (rounds + 3 + with_plain)))
    with TemporaryDirectory(prefix="sanseg-bench-") as folder:
        texts, subjects = Path(folder) / "text.sqlite", {}
        for dtype in dtypes:
            with failures_in_one_line():
                progress(f"{dtype}: words", next(pieces), total)
                subjects[dtype] = Subject(case, DTYPES[dtype], texts, rounds, with_plain)
                progress(f"{dtype}: products", next(pieces), total)
                subjects[dtype].get_ready()
        for number in range(1, rounds + 1):
            for dtype, subject in subjects.items():
                progress(f"{dtype}: round {number} of {rounds}", next(pieces), total)
                subject.round(number)
        measured = {}
        for dtype, subject in subjects.items():
            memory: dict[bool, int | None] = {True: None}
            for by_plain in (False, True) if with_plain else (False,):
                progress(f"{dtype}: memory", next(pieces), total)
                memory[by_plain] = photo_bytes(case, DTYPES[dtype], texts, by_plain=by_plain)
            measured[dtype] = subject.result(memory[False], memory[True])
    san = subject.segmenter.san
    return Report(
        case,
        san.config.name,
        subject.encoded.geometry.padded,
        sum(parameter.numel() for parameter in san.parameters()),
        sum(parameter.numel() for parameter in san.trained().values()),
        measured,
        machine(case.device),
    )


@contextmanager
def failures_in_one_line() -> Iterator[None]:
    """What torch cannot do, or has no memory for, is a ValueError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the network failed ({reason}): choose a smaller size, another dtype, or another device"
        ) from error


class Subject:
    """A network in one dtype, and what has been measured of it."""

    def __init__(self, case: Case, dtype: torch.dtype, texts: Path, rounds: int, with_plain: bool) -> None:
        self.case, self.with_plain = case, with_plain
        self.photo, self.words = case.photo(), case.words()
        san = case.network(dtype)
        self.text_first = text_ms(Segmenter(san, text_cache=TextCache(texts)), self.words)
        self.text_cached = text_ms(Segmenter(san, text_cache=TextCache(texts)), self.words)
        self.segmenter = case.segmenter(san, TextCache(texts))
        # Another with the same embeddings, so that new vocabularies do not push out the classifier of the whole.
        self.asked = Segmenter(san, proposer=self.segmenter.proposer, text_cache=self.segmenter.text_cache)
        self.asked.classifier(vocabulary(0, case.labels + rounds))
        self.times: dict[str, list[float]] = {}
        self.staged: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.bounds: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def get_ready(self) -> None:
        """Everything once, so that nothing that is timed is the first; and the stages give what the whole gives."""
        whole = self.segmenter(self.photo, self.words, None)
        with torch.inference_mode():
            ids, confidence = walk(self.segmenter, self.photo, self.words, lambda stage: nullcontext())
            assert np.array_equal(ids, whole.label_map)
            assert np.array_equal(confidence, whole.confidence)
            self.agreement = None
            if self.with_plain:
                ids, _ = plain(self.segmenter, self.photo, self.words, lambda stage: nullcontext())
                self.agreement = float((ids == whole.label_map).mean())
        self.products = record(self.segmenter, self.photo, self.words)
        self.bound = Bound(self.products, self.segmenter.device)
        self.bound.time()
        self.encoded = self.asked.encode(self.photo)

    def round(self, number: int) -> None:
        """Each measurement once."""
        self._time("whole", lambda: self.segmenter(self.photo, self.words, None))
        with torch.inference_mode():
            watch = Stopwatch(self.segmenter.device)
            walk(self.segmenter, self.photo, self.words, watch)
            if self.with_plain:
                self._time(
                    "plain", lambda: plain(self.segmenter, self.photo, self.words, lambda _: nullcontext())
                )
        for stage, ms in watch.ms.items():
            self.staged[stage].append(ms)
        for stage, ms in self.bound.time().items():
            self.bounds[stage].append(ms)
        words = self.case.words(number)
        self._time("vocabulary", lambda: self.encoded.segment(words, None))

    def _time(self, what: str, work: Callable[[], object]) -> None:
        """Of work that ends with its answer on the CPU."""
        start = time.perf_counter()
        work()
        self.times.setdefault(what, []).append(1000 * (time.perf_counter() - start))

    def result(self, memory: int | None, plain_memory: int | None) -> Measured:
        stages = {
            stage: Stage(
                Times(tuple(self.staged[stage])),
                Times(tuple(self.bounds[stage])),
                flop(self.products[stage]) / 1e9,
                sum(self.products[stage].values()),
            )
            for stage in STAGES
        }
        return Measured(
            stages,
            Times(tuple(self.times["whole"])),
            Times(tuple(map(sum, zip(*self.bounds.values(), strict=True)))),
            Times(tuple(self.times["plain"])) if self.with_plain else None,
            self.agreement,
            Times(tuple(self.times["vocabulary"])),
            self.text_first,
            self.text_cached,
            memory,
            plain_memory,
        )


def text_ms(segmenter: Segmenter, words: Vocabulary) -> float:
    """Milliseconds for the Classifier of words that this Segmenter has not seen, its tokenizer being ready."""
    segmenter.classifier(Vocabulary((("ready",),)))
    start = time.perf_counter()
    segmenter.classifier(words)
    return 1000 * (time.perf_counter() - start)


def machine(device: str) -> dict[str, str | int]:
    """What the times depend on."""
    kind = torch.device(device).type
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if kind == "cuda" else kind,
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            what, _, value = line.partition(":")
            if what.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
