"""kill -9 while the service works and writes: the next one starts with the same cache, and answers."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table
from serve_load import photo
from serve_process import Served, serving

WORDS = "cup, spoon, table, saucer"


def run(console: Console, model: str, rounds: int) -> dict[str, Any]:
    found, expected = [], None
    table = Table(
        "kill -9 after",
        "answers until then",
        "within a write",
        "rows in the cache",
        "its check",
        "temporary files",
        "the service before it",
    )
    with TemporaryDirectory(prefix="sanseg-kill-") as name:
        cache, drawn = Path(name) / "cache", random.Random(0)
        for number in range(rounds):
            with serving(model=model, cache=cache) as served:
                answer = _answer(served)
                expected = expected or answer
                seconds = drawn.uniform(0.05, 3.0)
                answered = _busy_until_killed(served, seconds, number)
                left = sorted(str(path.relative_to(served.temporary)) for path in served.temporary.rglob("*"))
            others = sorted(path.name for path in cache.iterdir())
            rows, check = _look_into(cache)
            found.append(
                {
                    "seconds": seconds,
                    "answered": answered,
                    "rows": rows,
                    "check": check,
                    "temporary_files": left,
                    "cache_files": others,
                    "answers_as_before": answer == expected,
                }
            )
            table.add_row(
                f"{seconds:.2f} s",
                str(answered),
                "yes" if "text.sqlite-journal" in others else "no",
                str(rows),
                check,
                ", ".join(left) or "none",
                "gave the same answer" if answer == expected else "GAVE ANOTHER ANSWER",
            )
        with serving(model=model, cache=cache) as served:
            last = _answer(served) == expected
    console.print(table)
    console.print(f"The service after the last: {'the same answer' if last else 'ANOTHER ANSWER'}")
    return {"rounds": found, "last_answers_as_before": last}


def _answer(served: Served) -> bytes:
    files = {"image": ("a.jpg", photo())}
    response = httpx2.post(
        f"{served.url}/v1/segment", files=files, data={"labels": WORDS, "format": "index"}, timeout=120
    )
    assert response.status_code == 200, response.text
    return response.content


def _busy_until_killed(served: Served, seconds: float, number: int) -> int:
    """Uploads, and words that were never seen, whose embeddings are written; how many were answered."""
    over, answered = threading.Event(), list[int]()
    response = httpx2.post(f"{served.url}/v1/images", files={"image": ("a.jpg", photo())}, timeout=120)
    path = f"{served.url}/v1/images/{response.json()['id']}/segment"

    def ask(hand: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            words = {"labels": [f"thing {number} {hand} {count}"], "other": None}
            try:
                httpx2.post(path, json=words, timeout=60).raise_for_status()
                answered.append(count)
            except httpx2.TransportError:
                return

    def send() -> None:
        big = {"image": ("a.jpg", photo() + bytes(20_000_000))}  # on its way for a while
        while not over.is_set():
            try:
                httpx2.post(f"{served.url}/v1/images", files=big, timeout=60)
            except httpx2.TransportError:
                return

    with ThreadPoolExecutor(4) as hands:
        for hand in range(3):
            hands.submit(ask, hand)
        hands.submit(send)
        time.sleep(seconds)
        served.process.kill()
        served.process.wait()
        over.set()
    return len(answered)


def _look_into(cache: Path) -> tuple[int, str]:
    """A copy: what a write under way left behind is for the next service to put right."""
    with TemporaryDirectory(prefix="sanseg-kill-") as name:
        copy = shutil.copytree(cache, Path(name) / "cache")
        with closing(sqlite3.connect(copy / "text.sqlite")) as disk:
            check = disk.execute("PRAGMA integrity_check").fetchone()[0]
            return disk.execute("SELECT count(*) FROM rows").fetchone()[0], check
