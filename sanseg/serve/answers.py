"""A Segmentation as what a client asked for: bytes, and what they are called.

H W pixels of the picture.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np

from sanseg.extras import need
from sanseg.formats import FORMATS, Options, check_installed
from sanseg.images import encode_json
from sanseg.segmentation import Segmentation
from sanseg.serve.problems import Problem

JSON, VIEW = "json", "view"
VIEW_TYPE = "application/vnd.sanseg.view"

# By the last part of how a format's files end.
TYPES = {
    ".png": "image/png",
    ".masks": "application/zip",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".npz": "application/octet-stream",
    ".txt": "text/plain; charset=utf-8",
    ".xml": "application/xml",
    ".geojson": "application/geo+json",
}

# What the header Accept may ask for.
ACCEPTED = {
    "application/json": JSON,
    "*/*": JSON,
    "application/*": JSON,
    "image/png": "index",
    "image/*": "index",
    "text/csv": "csv",
    "text/*": "csv",
    "application/geo+json": "geojson",
    "application/xml": "cvat",
    "application/zip": "masks",
    VIEW_TYPE: VIEW,
}


@dataclass(frozen=True)
class Answer:
    """content: the bytes. type: of media. name: of the file, for those that are downloaded."""

    content: bytes
    type: str
    name: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        if self.name is None:
            return {}
        plain = "".join(letter if letter.isascii() and letter not in '"\\' else "_" for letter in self.name)
        return {
            "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(self.name)}"
        }


@cache
def installed() -> tuple[str, ...]:
    """The formats that can be made here."""

    def is_there(name: str) -> bool:
        try:
            check_installed([name])
        except ValueError:
            return False
        return True

    return tuple(name for name in FORMATS if is_there(name))


def choose(format_: str | None, accept: str) -> str:
    """The format asked for, by its name, else by the header Accept. Raises Problem for one that is not there."""
    if format_ is None:
        return _accepted(accept)
    if format_ == VIEW:
        return VIEW
    if format_ not in installed():
        raise Problem(
            422, f"there is no format {format_[:40]!r}: choose from {', '.join(installed())}, {VIEW}"
        )
    return format_


def _accepted(accept: str) -> str:
    wanted = []
    for one in accept.split(",")[:50] if accept else ["*/*"]:
        kind, *options = (part.strip().lower() for part in one.split(";"))
        said = next((option[2:] for option in options if option.startswith("q=")), "1")
        with suppress(ValueError):
            wanted.append((float(said), kind))
    for share, kind in sorted(wanted, key=lambda one: -one[0]):
        if share > 0 and kind in ACCEPTED:
            return ACCEPTED[kind]
    raise Problem(
        406,
        f"Accept is {accept[:80]!r}: take one of {', '.join(ACCEPTED)}, or name a format in the field format",
    )


def needs_queries(format_: str) -> bool:
    return format_ != VIEW and FORMATS[format_].queries


def write(segmentation: Segmentation, format_: str, picture: str | None) -> Answer:
    """format_: a key of FORMATS, or "view". picture: its name, for files that say it."""
    if format_ == JSON:
        return Answer(to_json(segmentation), "application/json")
    if format_ == VIEW:
        return Answer(to_view(segmentation), VIEW_TYPE)
    stem = PurePosixPath(picture).stem if picture else "picture"
    form = FORMATS[format_]
    content = form.make(segmentation, Options(picture or f"{stem}.jpg"))
    type_ = TYPES[PurePosixPath(f"x{form.ending}").suffix]
    if isinstance(content, bytes):
        return Answer(content, type_, stem + form.ending)
    return Answer(_zipped(content), type_, f"{stem}{form.ending}.zip")


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """PNGs are not compressed again; the same files give the same bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


def to_json(segmentation: Segmentation) -> bytes:
    """`Segmentation.to_dict`, and for each region COCO's compressed run lengths."""
    told = segmentation.to_dict()
    rles = run_lengths(segmentation.label_map)
    for region in told["regions"]:
        region["rle"] = rles[region["id"]]
    return encode_json(told, indent=None)


def run_lengths(label_map: np.ndarray[Any, Any]) -> dict[int, dict[str, Any]]:
    """COCO's compressed run lengths of every id of a label map (H, W), in one pass over it."""
    coco = need("pycocotools.mask", "formats", "a mask as COCO's run lengths")
    height, width = label_map.shape
    columns = label_map.T.ravel()  # COCO counts down the columns
    starts = np.concatenate([[0], np.flatnonzero(columns[1:] != columns[:-1]) + 1])
    ends = np.append(starts[1:], columns.size)
    ids = columns[starts]
    order = np.argsort(ids, kind="stable")
    borders = np.flatnonzero(np.diff(ids[order].astype(np.int64))) + 1
    rles = {}
    for runs in np.split(order, borders):
        # Where the id is not and where it is, in turns, from the beginning to the end.
        turns = np.concatenate([[0], np.stack([starts[runs], ends[runs]], axis=1).ravel(), [columns.size]])
        counts = np.diff(turns)
        counts = counts[:-1] if counts[-1] == 0 else counts
        rle = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
        rles[int(ids[runs[0]])] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    return rles


def to_view(segmentation: Segmentation) -> bytes:
    """What the page paints from: the length of a JSON (u32), the JSON, ids (H, W), confidences (H, W) in 0..255.

    Little-endian. The JSON is `Segmentation.to_dict`, the bytes of an id, and the colours of labels and other; spaces
    fill it up so that the ids begin at a multiple of 4.
    """
    ids = segmentation.label_map
    wide = ids.dtype.itemsize
    table = segmentation.colours
    colours = {str(id_): "#" + table[id_].tobytes().hex() for id_ in segmentation.names}
    told = {**segmentation.to_dict(), "id_bytes": wide, "colours": colours}
    head = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    sure = (segmentation.confidence * np.float32(255) + np.float32(0.5)).clip(0, 255).astype(np.uint8)
    return b"".join(
        [len(head).to_bytes(4, "little"), head, ids.astype(f"<u{wide}").tobytes(), sure.tobytes()]
    )
