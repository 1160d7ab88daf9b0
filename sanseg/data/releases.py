"""Where the files of a raw release lie: the pictures of each benchmark, paired with their annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

from sanseg.data.benchmarks import CONTEXT_LISTS, Benchmark
from sanseg.data.raw import (
    SPLITS,
    Annotation,
    RawMap,
    Regions,
    check_plain,
    read_context,
    read_detail,
    read_indices,
    read_objects,
)

Kind = TypeVar("Kind", Path, Regions)
ADE20K_SPLITS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class Entry:
    """A picture and what is known about it."""

    stem: str
    picture: Path
    annotation: Annotation


@dataclass(frozen=True)
class Found:
    """What a raw release holds.

    expected: pictures of each split in the whole release. source: which of its annotations are used.
    notes: what is missing, where that was allowed.
    """

    splits: Mapping[str, tuple[Entry, ...]]
    expected: Mapping[str, int]
    source: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Files(Generic[Kind]):
    """Files by stem, and how one that is missing would be called: folder/STEMsuffix."""

    folder: Path
    suffix: str
    known: Mapping[str, Kind]


@dataclass(frozen=True)
class Split:
    """One split before pictures and annotations are paired. stems: None for all that there are, sorted."""

    pictures: Files[Path]
    annotations: Files[Path] | Files[Regions]
    stems: Sequence[str] | None = None


def find_coco(raw: Path, benchmark: Benchmark, partial: bool) -> Found:
    maps = _first(raw / "stuffthingmaps_trainval2017", raw / "stuffthingmaps")
    splits = {}
    for split in SPLITS:
        pictures = _first(raw / "images" / f"{split}2017", raw / f"{split}2017")
        splits[split] = Split(_files(pictures, ".jpg"), _files(maps / f"{split}2017", ".png"))
    return _pair(splits, raw, benchmark, partial)


def find_ade150(raw: Path, benchmark: Benchmark, partial: bool) -> Found:
    root = _first(raw / "ADEChallengeData2016", raw)
    splits = {
        split: Split(_files(root / "images" / name, ".jpg"), _files(root / "annotations" / name, ".png"))
        for split, name in ADE20K_SPLITS.items()
    }
    return _pair(splits, raw, benchmark, partial)


def find_ade847(raw: Path, benchmark: Benchmark, partial: bool) -> Found:
    """Pictures lie in folders by scene, each beside its annotation."""
    root = _first(raw / "ADE20K_2021_17_01", raw) / "images" / "ADE"
    splits = {
        split: Split(_files(root / name, ".jpg", "**/*"), _files(root / name, "_seg.png", "**/*"))
        for split, name in ADE20K_SPLITS.items()
    }
    return _pair(splits, raw, benchmark, partial)


def find_voc(raw: Path, benchmark: Benchmark, partial: bool) -> Found:
    root = _first(raw / "VOCdevkit" / "VOC2012", raw / "VOC2012", raw)
    lists = _read_lists(root / "ImageSets" / "Segmentation", partial)
    pictures, masks = _files(root / "JPEGImages", ".jpg"), _files(root / "SegmentationClass", ".png")
    splits = {split: Split(pictures, masks, stems) for split, stems in lists.items()}
    return _pair(splits, raw, benchmark, partial)


def find_context(raw: Path, benchmark: Benchmark, partial: bool) -> Found:
    """Of Pascal Context: the regions of the JSON for 59 classes, where it is there; else the LabelMaps."""
    root = _first(raw / "VOCdevkit" / "VOC2010", raw / "VOC2010", raw)
    name = "trainval_merged.json"
    detail = next((path for path in (root / name, raw / name) if path.is_file()), None)
    annotations: Files[Path] | Files[Regions]
    if detail is None:
        benchmark = replace(benchmark, expected=CONTEXT_LISTS)
        lists = _read_lists(root / "ImageSets" / "Main", partial)
    else:
        lists, regions = read_detail(detail, with_regions=benchmark.labelset == "pascal_context_59")
    if detail is not None and regions:
        source, annotations = f"regions of {name}", Files(detail, "", regions)
    elif find_spec("scipy") is None:
        raise ValueError("the .mat files are read by scipy, which is missing: pip install 'sanseg[train]'")
    else:
        source, annotations = "LabelMaps", _files(_first(raw / "trainval", root / "trainval"), ".mat")
    pictures = _files(root / "JPEGImages", ".jpg")
    splits = {split: Split(pictures, annotations, stems) for split, stems in lists.items()}
    return replace(_pair(splits, raw, benchmark, partial), source=source)


def _pair(splits: Mapping[str, Split], raw: Path, benchmark: Benchmark, partial: bool) -> Found:
    """Pictures and annotations of the same stem.

    Raises ValueError for a release that is empty, lists a picture twice or, unless `partial`, lacks a file.
    """
    entries, notes = {}, []
    for name, split in splits.items():
        pictures, annotations = split.pictures.known, split.annotations.known
        stems = sorted(pictures.keys() | annotations.keys()) if split.stems is None else split.stems
        whole = [stem for stem in stems if stem in pictures and stem in annotations]
        entries[name] = tuple(Entry(stem, pictures[stem], annotations[stem]) for stem in whole)
        if len(whole) < len(stems):
            first = next(stem for stem in stems if stem not in pictures or stem not in annotations)
            half = split.annotations if first in pictures else split.pictures
            lacking = half.folder / f"{first}{half.suffix}"
            notes.append(f"{name}: {len(stems) - len(whole)} of {len(stems)} lack a file, first {lacking}")
    if notes and not partial:
        raise ValueError(f"{notes[0]}: unpack the release again, or use --partial for the others")
    count = Counter(entry.stem for split in entries.values() for entry in split)
    if not count:
        layout = " ".join(benchmark.layout.split())
        raise ValueError(f"{raw} does not hold {benchmark.title}, or none of it is whole: wanted {layout}")
    stem, times = count.most_common(1)[0]
    if times > 1:
        raise ValueError(f"{raw} lists the picture {stem} {times} times: each belongs once to one split")
    return Found(entries, benchmark.expected, notes=tuple(notes))


def _first(*folders: Path) -> Path:
    """The first of these that there is; else the last."""
    return next((folder for folder in folders if folder.is_dir()), folders[-1])


def _files(folder: Path, suffix: str, pattern: str = "*") -> Files[Path]:
    """The files that end so. Two of the same name, in different folders, are an error."""
    known: dict[str, Path] = {}
    for path in folder.glob(f"{pattern}{suffix}"):
        stem = path.name.removesuffix(suffix)
        if known.setdefault(stem, path) != path:
            raise ValueError(f"{path} and {known[stem]} have the same name: keep one of them")
    return Files(folder, suffix, known)


def _read_lists(folder: Path, partial: bool) -> dict[str, list[str]]:
    """train.txt and val.txt, one stem a line. `partial`: either may be missing."""
    lists = {}
    for split in SPLITS:
        path = folder / f"{split}.txt"
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError as error:
            if partial:
                continue
            raise ValueError(f"{path} does not exist: unpack the release with its lists") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as a list ({error}): unpack it again") from error
        lists[split] = [check_plain(line.strip(), path) for line in lines if line.strip()]
    return lists


@dataclass(frozen=True)
class Release:
    """How a raw release is read.

    find: (raw folder, benchmark, whether a part will do) to what is there. read: an annotation to a raw map.
    """

    find: Callable[[Path, Benchmark, bool], Found]
    read: Callable[[Annotation], RawMap]


RELEASES: dict[str, Release] = {
    "coco-stuff": Release(find_coco, read_indices),
    "voc": Release(find_voc, read_indices),
    "context59": Release(find_context, read_context),
    "context459": Release(find_context, read_context),
    "ade150": Release(find_ade150, read_indices),
    "ade847": Release(find_ade847, read_objects),
}
