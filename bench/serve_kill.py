"""kill -9 while the service works and writes: the next one starts with the same cache, and answers."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table
from serve_load import photo
from serve_process import Served, serving

from tests.serve.torn import WORDS as TORN
from tests.serve.torn import look_into

WORDS = "cup, spoon, table, saucer"


def run(console: Console, model: str, rounds: int) -> dict[str, Any]:
    """At moments by chance, and as many times halfway through a write of words."""
    found = []
    table = Table(
        "kill -9",
        "answers until then",
        "within a write",
        "the file without its journal",
        "words in the cache",
        "its check",
        "temporary files",
        "the service after it",
    )
    with TemporaryDirectory(prefix="sanseg-kill-") as name:
        cache, drawn = Path(name) / "cache", random.Random(0)
        with serving(model=model, cache=cache) as served:
            expected = _answer(served)
        for number in range(2 * rounds):
            torn = number % 2 == 1
            with serving(model=model, cache=cache, module="tests.serve.torn" if torn else "sanseg") as served:
                _answer(served)
                before, _ = look_into(cache)
                seconds = drawn.uniform(0.05, 3.0)
                answered = 0
                if torn:
                    _killed_halfway(served)
                else:
                    answered = _busy_until_killed(served, seconds, number)
                left = sorted(str(path.relative_to(served.temporary)) for path in served.temporary.rglob("*"))
            within = (cache / "text.sqlite-journal").exists()
            _, without = look_into(cache, without_journal=True) if within else (0, "")
            with serving(model=model, cache=cache) as served:
                same = _answer(served) == expected
                rows, check = look_into(cache)
            found.append(
                {
                    "seconds": None if torn else seconds,
                    "answered": answered,
                    "within_a_write": within,
                    "check_without_journal": without,
                    "words_before": before,
                    "words": rows,
                    "check": check,
                    "temporary_files": left,
                    "answers_as_before": same,
                }
            )
            table.add_row(
                "halfway through a write" if torn else f"after {seconds:.2f} s",
                str(answered),
                "yes" if within else "no",
                without.partition("\n")[0][:40],
                f"{before}, then {rows}",
                check,
                ", ".join(left) or "none",
                "the same answer" if same else "ANOTHER ANSWER",
            )
    console.print(table)
    return {"rounds": found}


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


def _killed_halfway(served: Served) -> None:
    """Half of a question's words are written when it is killed."""
    response = httpx2.post(f"{served.url}/v1/images", files={"image": ("a.jpg", photo())}, timeout=120)
    path = f"{served.url}/v1/images/{response.json()['id']}/segment"
    assert served.process.stdout is not None
    with ThreadPoolExecutor(1) as hands:
        asking = hands.submit(httpx2.post, path, json={"labels": TORN, "other": None}, timeout=600)
        assert served.process.stdout.readline() == "writing\n"
        served.process.kill()
        served.process.wait()
        assert isinstance(asking.exception(), httpx2.TransportError)
