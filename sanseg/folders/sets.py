"""What annotation tools want of a whole folder: one COCO document, or a YOLO set, made of the pictures' own files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sanseg.folders.manifest import Asked, Record, remove
from sanseg.images import write_bytes, writing

COCO = "annotations/instances_train.json"  # where `sanseg train` and others look for it
LABELS, LISTED, DESCRIBED = "labels", "train.txt", "data.yaml"


def write_sets(out: Path, asked: Asked, records: Sequence[Record]) -> None:
    """Writes the sets that the formats asked for make, into folders of their own in `out`; others of ours go.

    Only pictures that are done count, in the order of their paths; those that went by windows have no such files.
    The same records give the same bytes. One picture's file is in memory at a time.
    Raises OSError where the disk refuses, ValueError for a file of a picture that holds something else.
    """
    for kind, write in SETS.items():
        folder = out / f"{kind}_set"
        done = [one for one in records if one.error is None and kind in one.outputs]
        if kind in asked.formats:
            write(folder, asked, [(one, out / one.outputs[kind]) for one in done])
        elif folder.is_dir():
            for name in (PurePosixPath(COCO).parent.name, LABELS, LISTED, DESCRIBED):
                remove(folder / name)


Files = list[tuple[Record, Path]]


def _write_coco(folder: Path, asked: Asked, files: Files) -> None:
    """One document: images as the folder has them, annotations with ids of their own."""
    with writing(folder / COCO) as file:

        def say(text: str) -> None:
            file.write(text.encode(errors="replace"))

        info = {"description": "sanseg", **_source(asked)}
        categories = [{"id": row, "name": name} for row, name in enumerate(_names(asked), 1)]
        say(f'{{"info":{_json(info)},\n"categories":{_json(categories)},\n"images":[')
        for number, (record, _) in enumerate(files, 1):
            image = {"id": number, "file_name": record.input, "width": record.width, "height": record.height}
            say(f"{',' * (number > 1)}\n{_json(image)}")
        say('\n],\n"annotations":[')
        for number, annotation in enumerate(_annotations(files), 1):
            say(f"{',' * (number > 1)}\n{_json({**annotation, 'id': number})}")
        say("\n]}\n")


def _annotations(files: Files) -> Iterator[dict[str, Any]]:
    for number, (_, path) in enumerate(files, 1):
        try:
            for annotation in json.loads(path.read_bytes())["annotations"]:
                yield {**annotation, "image_id": number}
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is not as it was written: remove it, and run again") from error


def _write_yolo(folder: Path, asked: Asked, files: Files) -> None:
    """data.yaml, the list of its pictures below images/, which are to be put or linked there, and labels/.

    YOLO finds a picture's labels by its name without suffix: of several that share it, the first is taken.
    """
    place = folder / LABELS
    texts: dict[str, tuple[Record, Path]] = {}
    for record, path in files:
        name = PurePosixPath(record.input).with_suffix(".txt").as_posix()
        if "\n" not in name and "\r" not in name:
            texts.setdefault(name.casefold(), (record, path))
    kept = {place / PurePosixPath(record.input).with_suffix(".txt") for record, _ in texts.values()}
    for former in [*place.rglob("*.txt")]:
        if former not in kept:
            former.unlink()
    for record, path in texts.values():
        with (
            writing(place / PurePosixPath(record.input).with_suffix(".txt")) as file,
            path.open("rb") as text,
        ):
            shutil.copyfileobj(text, file)
    _write_lines(folder / LISTED, (f"./images/{record.input}" for record, _ in texts.values()))
    source = ", ".join(f"{name} {value}" for name, value in _source(asked).items())
    _write_lines(
        folder / DESCRIBED,
        [
            f"# {source}",
            f"train: {LISTED}",
            f"val: {LISTED}  # no split was made: name the pictures to measure on in a list of their own",
            "names:",
            *(f"  {number}: {_json(name)}" for number, name in enumerate(_names(asked))),
        ],
    )


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


SETS: dict[str, Callable[[Path, Asked, Files], None]] = {
    "coco-rle": _write_coco,
    "coco-polygons": _write_coco,
    "yolo": _write_yolo,
}


def _source(asked: Asked) -> dict[str, Any]:
    simplified = {"simplify": asked.simplify} if asked.simplify else {}
    words = {"model": asked.model, "templates": asked.templates, "vocabulary": asked.vocabulary}
    return {"sanseg": asked.sanseg, **words, **simplified}


def _names(asked: Asked) -> list[str]:
    """The first name of each label."""
    return [label.split(" | ")[0] for label in asked.labels]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
