"""What `sanseg train` does before the first step: finds the sets, reads every file of them, and says what it found."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from sanseg.data.datasets import SegmentationSet

CHECKED = "checked.json"
DESCRIBING = (".json", ".yaml", ".yml", ".txt")  # files that say what is where


@dataclass(frozen=True)
class Checks:
    """Whether and how files are read before a run. folder: of the run, where it is remembered."""

    wanted: bool
    skip_bad: bool
    folder: Path
    console: Console


def open_train(folders: Sequence[Path], split: str, form: str, checks: Checks) -> list[SegmentationSet]:
    """The sets to train on. Raises ValueError for what cannot be trained on, naming files."""
    from sanseg.data.datasets import SegmentationSet

    opened = [SegmentationSet.open(folder, split, form, allow_missing=checks.wanted) for folder in folders]
    return [usable(folder, one, checks) for folder, one in zip(folders, opened, strict=True)]


def open_val(
    data: Sequence[Path], val: Sequence[Path], split: str, form: str, checks: Checks
) -> list[SegmentationSet]:
    """The sets to evaluate on: the "val" of those in `val`, else of those in `data` that have one.

    Raises ValueError as `open_train`.
    """
    from sanseg.data.datasets import SegmentationSet, find_splits
    from sanseg.data.files import choose_split

    chosen = [(folder, "val") for folder in val]
    if not val:
        for folder in data:
            try:
                found = choose_split("val", find_splits(folder, form), folder)
            except ValueError:  # it has none
                continue
            if found != split:
                chosen.append((folder, found))
    sets = []
    for folder, name in chosen:
        one = SegmentationSet.open(folder, name, form, allow_missing=checks.wanted)
        if len(one):
            sets.append(usable(folder, one, checks))
        elif val:
            raise ValueError(f"{folder} has no pictures in {name!r}: give another with --val, or --no-val")
    return sets


def usable(folder: Path, one: SegmentationSet, checks: Checks) -> SegmentationSet:
    """The set without the pictures that cannot be used, where they may be skipped; told on the console.

    What was found is remembered in the folder of the run, until a file changes.
    Raises ValueError naming them where they may not be skipped, and where nothing is left.
    """
    shape = f"{escape(one.name)} {escape(one.split)}: {one.form}, {len(one)} pictures"
    words = f"{len(one.vocabulary.names)} labels"
    if not checks.wanted:
        checks.console.print(f"{shape}, {words}; not checked", soft_wrap=True)
        return one
    from sanseg.images import write_json

    key = fingerprint(folder, one)
    known = remembered(checks.folder)
    found = known.get(key)
    if found is None or (found["bad"] and not checks.skip_bad):
        found = look(one, checks)
        write_json(checks.folder / CHECKED, {**known, key: found})
    else:
        found = {**found, "told": f"{found['told']}, as checked before"}
    checks.console.print(f"{shape}, {words}; {escape(found['told'])}", soft_wrap=True)
    for name, why in found["bad"]:
        checks.console.print(f"skipped {escape(name)}: {escape(why)}", soft_wrap=True)
    return one.without(name for name, _ in found["bad"])


def look(one: SegmentationSet, checks: Checks) -> dict[str, Any]:
    """Reads every file: what is bad, and a line on the rest."""
    from sanseg.data.check import check

    with watched(f"reading {one.name}", len(one), checks.console) as progress:
        findings = check(one, progress=lambda pictures: progress.advance(progress.task_ids[0], pictures))
    problem = findings.problem(checks.skip_bad)
    if problem:
        raise ValueError(
            f"{one.name}: {problem}; 'sanseg prepare check' shows all, --skip-bad leaves them out"
        )
    odd = {
        "without any label": len(findings.empty),
        "groups of duplicates": len(findings.duplicates),
        "labels never used": len(findings.unused),
    }
    told = ", ".join(f"{count} {what}" for what, count in odd.items() if count)
    return {
        "bad": [list(pair) for pair in findings.bad],
        "told": told or ("all others are good" if findings.bad else "all files are good"),
    }


def remembered(folder: Path) -> dict[str, Any]:
    """What checks before found, by fingerprint; nothing where that cannot be read."""
    try:
        found = json.loads((folder / CHECKED).read_text(encoding="utf-8"))
        return {
            key: {"bad": [(str(name), str(why)) for name, why in one["bad"]], "told": str(one["told"])}
            for key, one in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def fingerprint(folder: Path, one: SegmentationSet) -> str:
    """Changes when a set does: hex digits of its labels, and of its files' names, sizes and times."""
    digest = hashlib.sha256(json.dumps([one.files.labels, one.form, one.split]).encode())
    describing = [
        path
        for path in (*folder.iterdir(), *(folder / "annotations").glob("*"))
        if path.is_dir() or path.suffix.lower() in DESCRIBING
    ]
    for path in sorted(describing):
        digest.update(_state(path))
    for picture in one.files.pictures:
        digest.update(_state(picture.image))
        digest.update(_state(picture.mask) if isinstance(picture.mask, str) else b"%d;" % picture.mask)
    return digest.hexdigest()[:32]


def _state(path: Path | str) -> bytes:
    try:
        found = os.stat(path)  # noqa: PTH116, many
        return f"{path} {found.st_size} {found.st_mtime_ns};".encode(errors="surrogateescape")
    except OSError:
        return f"{path} is missing;".encode(errors="surrogateescape")


@contextmanager
def watched(what: str, total: int, console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Console(stderr=True)
    disable = console.quiet or not shown.is_terminal
    with Progress(*columns, console=shown, disable=disable, transient=True) as progress:
        progress.add_task(what, total=total)
        yield progress
