"""Files of the Hugging Face hub, converted once into our cache and checked by their sha256 from then on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
from huggingface_hub import hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError

from sanseg.model.checkpoint import replacing

# What huggingface_hub lets through: OSError (nearly all of its own), RuntimeError (its transport in Rust),
# and the errors of its HTTP library (requests, httpx, httpx2 so far), from which its own error derives.
_DOWNLOAD_ERRORS: tuple[type[BaseException], ...] = (OSError, RuntimeError, HfHubHTTPError.__bases__[0])


@dataclass(frozen=True)
class Release:
    """A file in a Hugging Face repository."""

    repository: str
    file: str


@dataclass(frozen=True)
class Record:
    """What is known of a download and of the file converted from it; JSON beside that file.

    `size` and `mtime_ns` are those of the converted file when its sha256 was taken: while they stay the same,
    the file is not read just to be checked.
    """

    sha256: str
    converted_sha256: str = ""
    size: int = 0
    mtime_ns: int = 0


def cache_folder() -> Path:
    """Where converted weights and text embeddings are kept: $SANSEG_CACHE, else the user's cache folder."""
    return Path(os.environ.get("SANSEG_CACHE") or platformdirs.user_cache_dir("sanseg", appauthor=False))


def obtain(release: Release, target: Path, convert: Callable[[Path, Path], object]) -> Path:
    """`target`; where it is not there yet, made from the release by `convert(downloaded file, target)`.

    The sha256 of the first download is recorded; later downloads and the converted file must agree with the
    record. A `target` without a record was put there by hand and is taken as it is.

    Raises ValueError where a checksum disagrees or `convert` refuses the file, OSError where the file is in
    no cache and cannot be downloaded. Both name the file and the remedy.
    """
    record_path = target.with_suffix(".json")
    record = _read(record_path)
    if target.exists() and record is None:
        return target
    if target.exists() and record and record.converted_sha256:
        _check(target, record, record_path)
        return target
    source = _download(release, target)
    blob = _blob(source)
    sha256 = sha256_of(blob)
    # The hub's cache names a large file by the sha256 that the hub states, but does not check it.
    if re.fullmatch("[0-9a-f]{64}", blob.name) and blob.name != sha256:
        raise ValueError(
            f"{release.file} was damaged on its way: its sha256 is {sha256}, the hub states {blob.name}:"
            f" remove {blob} and load again"
        )
    if record is not None and record.sha256 != sha256:
        raise ValueError(
            f"{release.file} has sha256 {sha256}, its first download had {record.sha256}: remove {blob}"
            f" and load again; if its authors replaced it, remove {record_path} instead"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(record_path, Record(sha256))
    convert(source, target)
    stat = target.stat()
    _write(record_path, Record(sha256, sha256_of(target), stat.st_size, stat.st_mtime_ns))
    return target


def sha256_of(path: Path) -> str:
    """The sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(release: Release, target: Path) -> Path:
    try:
        return Path(hf_hub_download(release.repository, release.file))
    except _DOWNLOAD_ERRORS as error:
        url = hf_hub_url(release.repository, release.file)
        raise OSError(
            f"{release.file} could not be downloaded from {url} ({_reason(error)}): try again, or bring the"
            f' file here by hand and run: sanseg convert {release.file} "{target}"'
        ) from error


def _blob(path: Path) -> Path:
    """Where the hub's cache keeps a file: what the path links to, in one step."""
    return Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else path


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:  # huggingface_hub wraps what happened in several lines of advice
        error = error.__cause__
    return str(error).partition("\n")[0] or type(error).__name__


def _check(target: Path, record: Record, record_path: Path) -> None:
    stat = target.stat()
    if (stat.st_size, stat.st_mtime_ns) == (record.size, record.mtime_ns):
        return
    got = sha256_of(target)
    if got != record.converted_sha256:
        raise ValueError(
            f"{target} has sha256 {got}, when it was converted it had {record.converted_sha256}:"
            f" remove it to convert it again, or remove {record_path} if the change was yours"
        )


def _read(record_path: Path) -> Record | None:
    try:
        return Record(**json.loads(record_path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{record_path} is damaged ({error}): remove it") from error


def _write(record_path: Path, record: Record) -> None:
    with replacing(record_path) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=1) + "\n")
