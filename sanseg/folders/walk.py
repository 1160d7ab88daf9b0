"""Which pictures are segmented, and where below OUT the results of each belong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from itertools import count
from pathlib import Path, PurePosixPath

from sanseg.images import SUFFIXES


@dataclass(frozen=True)
class Found:
    """Pictures of a folder. root: what `inputs` are relative to, absolute. inputs: with slashes, sorted, each once."""

    root: Path
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Patterns:
    """include: a picture must fit one of these, where there are any. exclude: and none of these.

    A pattern without a slash fits the name of a picture or of any folder that it is in, one with a slash the whole
    path below the folder given; `*` stands for slashes too. Upper and lower case are the same.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def fits(self, path: str) -> bool:
        """path: relative, with slashes."""
        wanted = not self.include or any(_fits(pattern, path) for pattern in self.include)
        return wanted and not any(_fits(pattern, path) for pattern in self.exclude)


def _fits(pattern: str, path: str) -> bool:
    regex = re.compile(translate(pattern.casefold().strip("/")))
    path = path.casefold()
    candidates = (path,) if "/" in pattern.strip("/") else PurePosixPath(path).parts
    return any(regex.match(candidate) for candidate in candidates)


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The picture files that paths, folders and glob patterns name: sorted, each once.

    A folder gives the files in it, at any depth, whose suffix is one of SUFFIXES, whatever its case; not the
    hidden ones. A pattern ("photos/*.jpg", "**/*.png") gives the files among its matches with such a suffix.
    Any other path is taken as it is, whatever its suffix and even if there is no such file: reading it says
    what is wrong, and the others need not wait for that.

    Raises ValueError where a folder or a pattern gives nothing, or `paths` is empty.
    """
    if isinstance(paths, str | os.PathLike):
        raise ValueError(f"one path, {str(paths)!r}, where a list is wanted: pass [{str(paths)!r}]")
    if not paths:
        raise ValueError("no pictures named: pass files, folders or glob patterns")
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = [file for file in path.rglob("*") if not _hidden(file.relative_to(path))]
        elif set(str(path)) & set("*?[") and not path.exists():
            files = list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        else:
            found.setdefault(path.resolve(), path)
            continue
        files = [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]
        if not files:
            raise ValueError(f"no pictures in {path}: wanted files that end in {', '.join(sorted(SUFFIXES))}")
        for file in files:
            found.setdefault(file.resolve(), file)
    return sorted(found.values())


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def find_folder(paths: Sequence[str], out: Path, patterns: Patterns = Patterns()) -> Found:
    """The pictures of folders, at any depth, and of whatever else is named beside them.

    paths: as `find_images` takes them. With one folder, the pictures' paths are relative to it, else to
    the deepest folder that holds everything named. Hidden files and folders, and what lies in `out`, are left out.

    Raises ValueError where nothing is found, and where a folder is `out` or lies in it.
    """
    own = out.resolve()
    files: dict[Path, None] = {}
    for path in paths:
        inside = _files(path, own, patterns)
        if not inside:
            fitting = " that --include and --exclude leave" if patterns else ""
            raise ValueError(
                f"no pictures in {path}{fitting}: wanted files that end in {', '.join(sorted(SUFFIXES))}"
            )
        files.update(dict.fromkeys(inside))
    root = Path(os.path.commonpath([_base(path) for path in paths]))
    return Found(root, tuple(sorted({file.relative_to(root).as_posix() for file in files})))


def find_files(paths: Sequence[str], out: Path) -> list[Path]:
    """The pictures that files and patterns name: sorted, each once; a pattern takes no results in `out` for pictures.

    Raises ValueError as `find_images`, and where a pattern gives nothing else.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        outside = _outside(path, out.resolve())
        if not outside:
            raise ValueError(f"no pictures in {path} but those in the folder for results: give another --out")
        files.update((file.resolve(), file) for file in outside)
    return sorted(files.values())


def _files(path: str, own: Path, patterns: Patterns) -> list[Path]:
    """What one of the paths names. Links stay as they are; only what lies in `own` is found by following them."""
    folder = _base(path)
    if Path(path).is_dir():
        if folder.resolve().is_relative_to(own):
            raise ValueError(f"{path} is in the folder for results, {own}: give another --out")
        return [folder / name for name in _walk(folder, own) if patterns.fits(name)]
    files = map(_absolute, _outside(path, own))
    return [file for file in files if patterns.fits(file.relative_to(folder).as_posix())]


def _outside(path: str, own: Path) -> list[Path]:
    """As `find_images` of a file or a pattern, but for what lies in `own`, unless all of it does."""
    files = find_images([path])
    if _base(path).resolve().is_relative_to(own):
        return files
    return [file for file in files if not file.parent.resolve().is_relative_to(own)]


def _base(path: str) -> Path:
    """A folder itself; else the folder that a file lies in, or all that a pattern may give."""
    absolute = _absolute(path)
    if absolute.is_dir():
        return absolute
    parts = absolute.parts
    plain = next((n for n, part in enumerate(parts[:-1]) if set(part) & set("*?[")), len(parts) - 1)
    return Path(*parts[:plain])


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100, resolve would follow links


def _walk(folder: Path, own: Path) -> Iterator[str]:
    """Pictures below a folder, relative, with slashes. Links to folders are not followed: they may lead in circles."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if name[0] != "." and (here / name).resolve() != own]
        for name in names:
            if name[0] != "." and Path(name).suffix.lower() in SUFFIXES and (here / name).is_file():
                yield (here / name).relative_to(folder).as_posix()


def stems(paths: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """What the results of each picture are called: its path without suffix, numbered where several share it.

    taken: names that belong to other pictures. Upper and lower case are the same, as on some file systems.
    """
    spoken_for = {name.casefold() for name in taken}
    chosen = []
    for path in paths:
        plain = PurePosixPath(path).with_suffix("").as_posix()
        names = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
        stem = next(name for name in names if name.casefold() not in spoken_for)
        spoken_for.add(stem.casefold())
        chosen.append(stem)
    return chosen
