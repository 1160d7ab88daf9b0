"""manifest.jsonl: what was asked, and what became of each picture. It is what a run that was killed goes on from.

The first line is an `Asked`, each other one a `Record`; of several lines of a picture the last counts. A line is
appended in one piece as soon as its picture's files are whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sanseg.data.segmented import MANIFEST, Line, corrected, read_manifest
from sanseg.images import write_bytes
from sanseg.version import VERSION
from sanseg.vocabulary import Colour

GONE = "the picture is no longer there"
LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.tmp")  # of `images.write_bytes`, when it is killed

# What all results of a folder share, and how a difference in it is told.
SAME = {
    "folder": "pictures of",
    "model": "the model",
    "fingerprint": "a model with the weights",
    "dtype": "a model in",
    "resize": "pictures resized by",
    "templates": "the templates",
    "vocabulary": "words with the hash",
    "simplify": "polygons that stray, in pixels, by",
}


@dataclass(frozen=True)
class Asked:
    """The first line. folder: of the pictures, relative to OUT where it can be. fingerprint: of the model's weights.

    dtype: of the network. resize: a key of `images.RESIZES`. templates: the prompt set. vocabulary: its hash.
    labels: ` | ` between synonyms. other: the distractors. formats: what is written of each picture.
    settings: as `Vocabulary.settings`. colours: the labels' own, () for none.
    simplify: how far polygons may stray from the borders of pixels, in pixels.
    """

    folder: str
    model: str
    fingerprint: str
    dtype: str
    resize: str
    templates: str
    vocabulary: str
    labels: tuple[str, ...]
    other: tuple[str, ...]
    formats: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    colours: tuple[Colour | None, ...] = ()
    simplify: float = 0.0
    sanseg: str = VERSION


@dataclass(frozen=True)
class Record:
    """What became of a picture.

    input: its path below the folder. stem: its results' path in OUT without suffix. size, mtime_ns, sha256: of the
    file that was read. outputs: path in OUT by kind. mask_sha256: of the index PNG as it was written.
    width, height: in pixels. seconds: reading, computing and writing, without waiting for other pictures.
    areas, confidence: share of the picture in (0, 1] and mean confidence of each label that occurs, largest first.
    replaced: the sha256 of the content that an earlier result was of. error: why there is no result.
    windows: of a picture that went by windows, how, and `without` which of the formats; None for all others.
    """

    input: str
    stem: str
    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    outputs: dict[str, str] = field(default_factory=dict)
    mask_sha256: str = ""
    seconds: float = 0.0
    areas: dict[str, float] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    replaced: str | None = None
    error: str | None = None
    windows: dict[str, Any] | None = None

    @classmethod
    def of(cls, line: Line) -> Record | None:
        """From a line of a manifest; None where that is none of ours."""
        record = cls(**{one.name: line[one.name] for one in fields(cls) if one.name in line})
        kinds = {one.name: type(one.default) for one in fields(cls) if type(one.default) in (int, str)}
        plain = all(type(getattr(record, name)) is kind for name, kind in kinds.items())
        shares = (record.areas, record.confidence)
        tables = all(isinstance(table, dict) and _numbers(table.values()) for table in shares)
        texts = all(one is None or isinstance(one, str) for one in (record.error, record.replaced))
        texts = texts and (record.windows is None or isinstance(record.windows, dict))
        return record if plain and tables and texts and _numbers([record.seconds]) else None


def _numbers(values: Iterable[Any]) -> bool:
    return all(type(value) in (int, float) for value in values)


class Manifest:
    """The manifest of one OUT, read when it is opened and written as pictures are done.

    asked: what its first line says, None where there is no manifest. records: by path of the picture.
    """

    def __init__(self, out: Path) -> None:
        """Raises ValueError for a manifest whose first line does not say what was asked."""
        self.out = out
        self.path = out / MANIFEST
        self.asked: Line | None = None
        self.records: dict[str, Record] = {}
        if self.path.exists():
            self.asked, lines = read_manifest(self.path)
            records = (Record.of(line) for line in lines.values())
            self.records = {record.input: record for record in records if record is not None}

    def check_same(self, asked: Asked) -> None:
        """Raises ValueError where OUT holds results of something else than what is asked now."""
        for key, what in SAME.items():
            before = {"simplify": 0.0, **(self.asked or asdict(asked))}  # which older manifests do not say
            held, wanted = before.get(key), getattr(asked, key)
            if held != wanted:
                if key == "vocabulary" and self.asked:
                    held, wanted = _shown(self.asked["labels"], held), _shown(asked.labels, wanted)
                    what = "the words"
                raise ValueError(
                    f"{self.out} holds results of {what} {held}, asked are {wanted}: give another --out, or"
                    " --overwrite to begin afresh"
                )

    def corrected(self) -> list[str]:
        """The paths of label maps that somebody changed since they were written."""
        return [
            record.outputs["index"]
            for record in self.records.values()
            if "index" in record.outputs and self.is_corrected(record)
        ]

    def is_corrected(self, record: Record) -> bool:
        mask = record.outputs.get("index")
        return mask is not None and corrected(self.out / mask, {"mask_sha256": record.mask_sha256})

    def empty(self) -> None:
        """Removes all that it lists. Raises ValueError where that would lose corrected label maps."""
        if changed := self.corrected():
            raise ValueError(
                f"{self.out} holds {len(changed)} label maps that were changed by hand, {changed[0]} for one:"
                " --overwrite would lose them, give another --out or move them away"
            )
        for record in self.records.values():
            for name in record.outputs.values():
                remove(self.out / name)
        self.records = {}

    def rewrite(self, asked: Asked) -> None:
        """The whole manifest anew, a line for each picture, in order of their paths."""
        self.records = dict(sorted(self.records.items()))
        lines = [_line(asdict(asked)), *(_line(asdict(record)) for record in self.records.values())]
        write_bytes(self.path, b"".join(lines))

    def add(self, record: Record) -> None:
        """Appends a line, in one piece."""
        self.records[record.input] = record
        with self.path.open("ab", buffering=0) as file:
            file.write(_line(asdict(record)))


def _line(values: dict[str, Any]) -> bytes:
    # ASCII: the names of files may hold bytes that are no text, which only escapes can tell.
    return (json.dumps(values, allow_nan=False) + "\n").encode()


def _shown(labels: Iterable[str], hash_: Any) -> str:
    text = ", ".join(map(str, labels))
    return f"'{text if len(text) <= 60 else text[:60] + '...'}' ({str(hash_)[:8]})"


def check_folder(out: Path) -> None:
    """Raises ValueError where it is a file."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder to write to")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Alone in OUT: the folder is made where missing, and what a killed run left half-written is removed.

    Raises ValueError where another process is at work in it. The lock ends with the process, however it ends.
    """
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # it has no such locks on folders
        yield
        return
    import fcntl

    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is segmenting into {out}: wait, or give another --out"
            ) from error
        except OSError:
            pass  # a file system without locks
        if (out / MANIFEST).exists():
            _sweep(out)
        yield
    finally:
        os.close(folder)


def remove(result: Path) -> None:
    """A file, or a folder of masks, if it is there."""
    if result.is_dir() and not result.is_symlink():
        shutil.rmtree(result)
    else:
        result.unlink(missing_ok=True)


def _sweep(out: Path) -> None:
    for place, _, names in os.walk(out):
        for name in names:
            if LEFTOVER.fullmatch(name):
                (Path(place) / name).unlink(missing_ok=True)
