"""The corpus of hostile requests against the service's process: what each gets, and what memory it leaves."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table
from serve_process import Served, serving

from tests.serve.hostile import CLOSED, PNG, Case, Outcome, cases, converse

GROUPS = ("pictures", "forms", "JSON", "labels", "fields", "heads", "lines")
IDLE = 300  # connections that say nothing


def run(console: Console, model: str, passes: int) -> dict[str, Any]:
    with serving(model=model) as served:
        kept = keep(served)
        some = cases(kept, heavy=True)
        before = normal(served)
        first = [(case, converse(served.address, case)) for case in some if not case.slow]
        console.print(outcomes(first))
        slow = in_the_meantime(served, [case for case in some if case.slow])
        console.print(outcomes(slow, "Those that take the service's patience, all at once"))
        wrong = [(case, got) for case, got in first + slow if not right(case, got)]
        memory = [served.megabytes]
        usual = [case for case in cases(kept) if not case.slow]
        for _ in range(passes):
            for case in usual:
                got = converse(served.address, case)
                if not right(case, got):
                    wrong.append((case, got))
            memory.append(served.megabytes)
            console.print(f"pass {len(memory) - 1}: {memory[-1]:.0f} MB", highlight=False)
        after = normal(served)
        log = served.log.read_text()
    table = Table("resident memory", *(f"after pass {number}" for number in range(0, passes + 1, 5)))
    table.add_row("MB", *(f"{memory[number]:.0f}" for number in range(0, passes + 1, 5)))
    console.print(table)
    console.print(f"{len(first) + len(slow)} cases, {len(wrong)} wrong; a normal request answers", end=" ")
    console.print("as before" if after == before else "OTHERWISE THAN BEFORE")
    console.print(f"Tracebacks in the service's log: {log.count('Traceback')}")
    for case, got in wrong:
        console.print(f"WRONG: {case.group}, {case.name}: {got}", markup=False)
    return {
        "cases": [
            {
                "group": case.group,
                "name": case.name,
                "status": got.status,
                "detail": got.detail,
                "ms": 1000 * got.seconds,
            }
            for case, got in first + slow
        ],
        "wrong": len(wrong),
        "tracebacks": log.count("Traceback"),
        "memory_megabytes": memory,
        "answers_as_before": after == before,
    }


def right(case: Case, got: Outcome) -> bool:
    """Heads and lines may be refused below the application, in plain text."""
    told = got.has_problem or got.status < 400 or case.group in ("heads", "lines")
    return got.status in case.wanted and told


def keep(served: Served) -> str:
    response = httpx2.post(f"{served.url}/v1/images", files={"image": ("a.png", PNG)}, timeout=60)
    return str(response.json()["id"])


def normal(served: Served) -> bytes:
    """What a usual request is answered."""
    response = httpx2.post(
        f"{served.url}/v1/segment",
        files={"image": ("a.png", PNG)},
        data={"labels": "cat, sofa", "format": "index"},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    return response.content


def in_the_meantime(served: Served, slow: list[Case]) -> list[tuple[Case, Outcome]]:
    """All slow cases at once, beside idle connections and somebody who asks each second and has to be answered."""
    over, times = threading.Event(), list[float]()

    def ask() -> None:
        while not over.is_set():
            begun = time.monotonic()
            normal(served)
            times.append(time.monotonic() - begun)
            over.wait(1)

    idle = Case("lines", f"one of {IDLE} that say nothing", (), frozenset({CLOSED, 408}))
    with ThreadPoolExecutor(len(slow) + IDLE + 1) as hands:
        asking = hands.submit(ask)
        silent = [hands.submit(converse, served.address, idle) for _ in range(IDLE)]
        got = [hands.submit(converse, served.address, case) for case in slow]
        found = []
        for case, future in [*zip(slow, got, strict=True), *((idle, one) for one in silent)]:
            outcome = future.result()
            if case is not idle or not found or found[-1][0] is not idle:
                found.append((case, outcome))
        over.set()
        asking.result()
    someone = Case("lines", "meanwhile: usual requests, the slowest", (), frozenset({200}))
    return [*found, (someone, Outcome(200, "", f"{len(times)} answered", max(times)))]


def outcomes(found: list[tuple[Case, Outcome]], title: str = "") -> Table:
    table = Table("", "sent", "status", "told", "ms", title=title or None)
    for case, got in found:
        status = "closed" if got.status == CLOSED else str(got.status)
        flag = "" if right(case, got) else " WRONG"
        table.add_row(
            case.group,
            case.name,
            status + flag,
            got.detail[:110] if got.status != 200 else "",
            f"{1000 * got.seconds:.0f}",
        )
    return table


def summary(found: list[dict[str, Any]]) -> Table:
    """By groups, for the documentation."""
    table = Table("sent", "cases", "answered", "refused", "closed", "slowest, ms")
    groups = defaultdict(list)
    for one in found:
        groups[one["group"]].append(one)
    for group in GROUPS:
        statuses = Counter(one["status"] for one in groups[group])
        refused = ", ".join(
            f"{count} x {status}" for status, count in sorted(statuses.items()) if status >= 400
        )
        slowest = max(one["ms"] for one in groups[group])
        table.add_row(
            group,
            str(len(groups[group])),
            str(statuses[200]),
            refused,
            str(statuses[CLOSED]),
            f"{slowest:.0f}",
        )
    return table
