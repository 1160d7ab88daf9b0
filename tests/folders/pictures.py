"""Folders of small pictures, and a run of them in this process or in another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

import sanseg
from sanseg.folders.folder import Crew, Outcome, segment_folder
from sanseg.folders.walk import find_folder
from sanseg.folders.work import Settings
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary

WORDS = Vocabulary.from_text("sky, tree | woods, cat").with_other("wall, floor")


def paint(path: Path, seed: int = 0, size: tuple[int, int] = (60, 40)) -> None:
    """A picture of soft colours; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


def no_load() -> Segmenter:
    raise AssertionError("one worker needs no other model")


def segmented(
    photos: Path,
    out: Path,
    segmenter: Segmenter,
    words: Vocabulary = WORDS,
    *,
    formats: tuple[str, ...] = ("index", "json"),
    encoded: Path | None = None,
    load: Callable[[], Segmenter] = no_load,
    workers: int = 1,
    simplify: float = 0.0,
    **options: Any,
) -> Outcome:
    settings = Settings(out, words, formats, encoded, simplify=simplify)
    found = find_folder([str(photos)], out)
    return segment_folder(found, Crew(segmenter, load, workers), settings, **options)


def started(script: str, folder: Path) -> tuple[subprocess.Popen[str], IO[str]]:
    """A process that runs a script with a folder as its argument, and what it prints."""
    file = folder / "script.py"  # in a file: processes that it starts import it
    file.write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(file), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(sanseg.__file__).parents[1])},
    )
    assert process.stdout is not None
    return process, process.stdout


def tree(folder: Path) -> dict[str, bytes]:
    """The contents of every file below a folder, by path, but for manifests, which hold times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.jsonl"
    }
