"""The memory that one photo takes, measured in a process of its own: a peak cannot be told from those before it."""

from __future__ import annotations

import ctypes
import gc
import re
import signal
from contextlib import nullcontext, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from sanseg.benchmark.case import Case
from sanseg.benchmark.road import plain
from sanseg.model.text_cache import TextCache

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux: proc(5)


def photo_bytes(case: Case, dtype: torch.dtype, texts: Path, *, by_plain: bool) -> int | None:
    """What the first photo takes at its peak beyond the loaded model; None where the system does not tell.

    On a CPU the resident memory of the process, code that is loaded at first use included; on a CUDA device the
    tensors there. texts: the file of a TextCache that knows the words. by_plain: the way of `road.plain`.
    Raises ValueError where that process fails or dies, as for want of memory.
    """
    device = torch.device(case.device)
    if not (device.type == "cuda" or (device.type == "cpu" and RESET.exists())):
        return None
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, case, dtype, texts, by_plain), daemon=True)
    process.start()
    sender.close()
    try:
        answer: int | str = receiver.recv()
    except EOFError:
        answer = "its process died"
    finally:
        process.terminate()
        process.join()
    if isinstance(answer, str):
        raise ValueError(f"memory cannot be measured ({answer}): choose a smaller size, or fewer labels")
    return answer


def _measure(sender: Connection, case: Case, dtype: torch.dtype, texts: Path, by_plain: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first one ends this one
    try:
        sender.send(_take(case, dtype, TextCache(texts), by_plain))
    except (RuntimeError, MemoryError, ValueError, OSError) as error:
        sender.send(str(error).partition("\n")[0])


def _take(case: Case, dtype: torch.dtype, texts: TextCache, by_plain: bool) -> int:
    segmenter = case.segmenter(case.network(dtype), texts)
    photo, words = case.photo(), case.words()
    segmenter.classifier(words)
    before = _start_peak(segmenter.device)
    if by_plain:
        with torch.inference_mode():
            plain(segmenter, photo, words, lambda stage: nullcontext())
    else:
        segmenter(photo, words, None)
    return _peak(segmenter.device) - before


def _start_peak(device: torch.device) -> int:
    """Bytes in use. The peak counts from here on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError, AttributeError):  # what loading freed goes back to the system, where that is glibc
        ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")  # the peak
    return _resident("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")


def _resident(what: str) -> int:
    found = re.search(rf"^{what}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
