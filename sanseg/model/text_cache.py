"""A bounded cache of text embeddings, in memory and on disk."""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

Key = tuple[str, str, str]  # fingerprint of the text tower, template set, name

MEMORY_ROWS = 20_000  # at 512 floats, 40 MB
DISK_ROWS = 200_000  # at 512 floats, 400 MB


class TextCache:
    """Embeddings (E,) float32 by (fingerprint, template set, name).

    In memory the least recently used give way, on disk the first written.

    path: a SQLite file, made when first written; None keeps everything in memory. A file that is damaged or cannot
    be written costs only time: the cache then stays in memory, and `trouble` says why.
    """

    def __init__(
        self, path: Path | None, *, memory_rows: int = MEMORY_ROWS, disk_rows: int = DISK_ROWS
    ) -> None:
        self.path = path
        self.trouble: str | None = None
        self._memory: OrderedDict[Key, Tensor] = OrderedDict()
        self._memory_rows, self._disk_rows = memory_rows, disk_rows
        self._lock = Lock()

    def get(self, keys: Sequence[Key]) -> dict[Key, Tensor]:
        """Those of `keys` that are known."""
        with self._lock:
            found = {key: self._memory[key] for key in keys if key in self._memory}
            for key in found:
                self._memory.move_to_end(key)
            missing = [key for key in keys if key not in found]
            if missing and self.path is not None and os.path.exists(self.path):  # noqa: PTH110, never raises
                fresh = self._read(missing)
                self._remember(fresh)
                found |= fresh
            return found

    def put(self, rows: Mapping[Key, Tensor]) -> None:
        """Keeps these embeddings, float32 on the CPU."""
        with self._lock:
            self._remember(rows)
            if self.path is not None:
                self._write(rows)

    def _remember(self, rows: Mapping[Key, Tensor]) -> None:
        self._memory.update(rows)
        while len(self._memory) > self._memory_rows:
            self._memory.popitem(last=False)

    def _read(self, keys: Sequence[Key]) -> dict[Key, Tensor]:
        found = {}
        try:
            with closing(sqlite3.connect(self._file(), timeout=10)) as disk:
                for key in keys:
                    row = disk.execute(
                        "SELECT embedding FROM rows WHERE model = ? AND templates = ? AND name = ?", key
                    ).fetchone()
                    if row is not None:
                        found[key] = torch.from_numpy(np.frombuffer(row[0], dtype="<f4").copy())
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._give_up(error)
        return found

    def _write(self, rows: Mapping[Key, Tensor]) -> None:
        try:
            self._file().parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file(), timeout=10)) as disk, disk:
                disk.execute(
                    "CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT,"
                    " templates TEXT, name TEXT, embedding BLOB, UNIQUE (model, templates, name))"
                )
                disk.executemany(
                    "INSERT OR REPLACE INTO rows (model, templates, name, embedding) VALUES (?, ?, ?, ?)",
                    [(*key, row.numpy().astype("<f4").tobytes()) for key, row in rows.items()],
                )
                disk.execute(
                    "DELETE FROM rows WHERE number <= (SELECT max(number) FROM rows) - ?", (self._disk_rows,)
                )
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _file(self) -> Path:
        assert self.path is not None
        return self.path

    def _give_up(self, error: Exception) -> None:
        damaged = isinstance(error, (ValueError, TypeError)) or type(error) is sqlite3.DatabaseError
        remedy = "remove it" if damaged else "see that it can be read and written"
        self.trouble = f"{self.path}: {error}: text embeddings are kept in memory only; {remedy}"
        self.path = None
