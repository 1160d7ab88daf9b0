"""Folders of small pictures, and a run of them in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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


def tree(folder: Path) -> dict[str, bytes]:
    """The contents of every file below a folder, by path, but for manifests, which hold times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.jsonl"
    }
