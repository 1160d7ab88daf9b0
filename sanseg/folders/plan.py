"""What is still to be done of the pictures found: what is done and unchanged is left alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sanseg.folders.manifest import GONE, Manifest, Record
from sanseg.folders.walk import Found, stems
from sanseg.formats import FORMATS
from sanseg.large.results import ALWAYS, ENDINGS
from sanseg.model.download import sha256_of


@dataclass(frozen=True)
class Job:
    """A picture to segment. path: of the picture. input, stem: as `Record` has them.

    replaced: the sha256 of the content that an earlier result is of.
    """

    path: Path
    input: str
    stem: str
    replaced: str | None = None


@dataclass
class Plan:
    """Pictures by what is to be done of them, each once; but for jobs, their paths below the folder.

    jobs: those to segment: the new ones, the changed, those that failed before, and those whose files are incomplete.
    done: those done before and unchanged. gone: those that the manifest has and the folder no longer.
    guarded: those that would be segmented again, but whose label map was changed by hand.
    """

    jobs: list[Job] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    guarded: list[str] = field(default_factory=list)


def plan(found: Found, manifest: Manifest, formats: Sequence[str]) -> Plan:
    """Holds the pictures found against the manifest, whose records take over what it finds out.

    A picture of the same size and time of change is unchanged, else its checksum decides.
    """
    planned = Plan()
    by_windows = [kind for kind in ENDINGS if kind in formats or kind in (*ALWAYS, "json")]
    known = manifest.records
    new = [name for name in found.inputs if name not in known]
    names = dict(zip(new, stems(new, (record.stem for record in known.values())), strict=True))
    for name in found.inputs:
        path, record = found.root / name, known.get(name)
        if record is None:
            planned.new.append(name)
            planned.jobs.append(Job(path, name, names[name]))
            continue
        same = bool(record.sha256) and _unchanged(path, record)
        written = formats if record.windows is None else by_windows
        whole = same and all(_there(manifest.out, record, kind) for kind in written)
        if whole and record.error in (None, GONE):
            planned.done.append(name)
            known[name] = replace(record, mtime_ns=path.stat().st_mtime_ns, error=None)
        elif manifest.is_corrected(record):
            planned.guarded.append(name)
        else:
            reason = planned.failed if record.error else planned.incomplete if same else planned.changed
            reason.append(name)
            former = record.sha256 if record.sha256 and not same else record.replaced
            planned.jobs.append(Job(path, name, record.stem, former))
    for name in sorted(known.keys() - set(found.inputs)):
        if not os.path.lexists(found.root / name):
            planned.gone.append(name)
            known[name] = replace(known[name], error=GONE)
    return planned


def _unchanged(path: Path, record: Record) -> bool:
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (record.size, record.mtime_ns):
            return True
        return status.st_size == record.size and sha256_of(path) == record.sha256
    except OSError:
        return False


def _there(out: Path, record: Record, kind: str) -> bool:
    name = record.outputs.get(kind)
    try:
        return name is not None and (
            (out / name).stat().st_size > 0 or (kind in FORMATS and FORMATS[kind].may_be_empty)
        )
    except OSError:
        return False
