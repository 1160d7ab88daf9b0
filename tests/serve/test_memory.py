"""What pictures of ever other sizes leave of memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from sanseg.model.san import SAN
from sanseg.segmenter import Segmenter
from sanseg.serve import memory, service
from tests.serve.asking import WORDS, clients, eventually, picture, upload

# Blocks that the C library takes from its own heap, freed but for every hundredth: holes between what lives.
HOLES = """
import ctypes
import psutil
from sanseg.serve.memory import give_back

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
blocks = [libc.malloc(50_000) for _ in range(4_000)]
for block in blocks:
    ctypes.memset(block, 1, 50_000)
for number, block in enumerate(blocks):
    if number % 100 != 99:
        libc.free(block)
before = psutil.Process().memory_info().rss
give_back()
print((before - psutil.Process().memory_info().rss) // 10**6)
"""


@pytest.mark.skipif(memory._trim() is None, reason="this C library keeps what is free, whatever it is told")
def test_holes_are_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 150


def test_a_c_library_that_cannot_be_told_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    memory._trim.cache_clear()
    monkeypatch.setattr(sys, "platform", "win32")
    memory.give_back()
    assert memory._trim() is None
    memory._trim.cache_clear()


def test_a_service_gives_back_after_work_and_not_while_it_is_idle(
    tiny_san: SAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(service, "SWEEP", 0.01)
    monkeypatch.setattr(service, "give_back", lambda: given.append(1))

    async def ask() -> None:
        async with clients(Segmenter(tiny_san)) as (asker, _):
            await asyncio.sleep(0.1)
            assert not given
            for count in (1, 2):
                await asker.post("/v1/segment", files=upload(picture()), data=WORDS)
                await eventually(lambda: len(given) == count)  # noqa: B023
                await asyncio.sleep(0.1)
                assert len(given) == count

    asyncio.run(ask())
