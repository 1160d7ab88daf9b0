"""`sanseg serve`, but for a write of words that stops halfway, so that kill -9 can be certain to fall within it.

    python -m tests.serve.torn serve --port 0

Once half of a question's new words are written, if the first is TORN, "writing" is printed and nothing more happens.
SQLite's own cache is made so small that what was written is in the file by then, not only in memory.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TORN = "torn"
WORDS = [TORN, *(f"torn {number}" for number in range(600))]  # the shortest comes first


class Torn(sqlite3.Connection):
    def executemany(self, statement: str, rows: Sequence[Any]) -> Any:
        if rows[0][2] != TORN:
            return super().executemany(statement, rows)
        self.execute("PRAGMA cache_size = 1")
        super().executemany(statement, rows[: len(rows) // 2])
        print("writing", flush=True)
        time.sleep(600)


def tear() -> None:
    """In this process."""
    sqlite3.connect = partial(sqlite3.connect, factory=Torn)  # type: ignore[assignment]


def look_into(cache: Path, *, without_journal: bool = False) -> tuple[int, str]:
    """How many words the cache holds, and what SQLite's check says of it.

    Of a copy: what a write under way left behind is for the next service to put right. without_journal: as if SQLite
    did not know that there was one.
    """
    with TemporaryDirectory(prefix="sanseg-torn-") as name:
        copy = shutil.copytree(cache, Path(name) / "cache")
        if without_journal:
            (copy / "text.sqlite-journal").unlink()
        with closing(sqlite3.connect(copy / "text.sqlite")) as disk:
            try:
                check = disk.execute("PRAGMA integrity_check").fetchone()[0]
                return disk.execute("SELECT count(*) FROM rows").fetchone()[0], check
            except sqlite3.DatabaseError as error:
                return 0, str(error)


if __name__ == "__main__":
    from sanseg.cli import main

    tear()
    main()
