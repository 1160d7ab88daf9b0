"""index.html: the pictures of a folder, to be looked at, sorted and filtered, by whoever has only a browser.

One file and the thumbnails beside it; it asks for nothing else. Names of labels and files are not trusted: all text
is escaped, data is JSON that no `</script>` ends, and the only script that may run is named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sanseg.draw import colour_table, percent
from sanseg.folders.manifest import Asked, Record
from sanseg.folders.totals import totals
from sanseg.images import write_bytes
from sanseg.vocabulary import other_id

INDEX = "index.html"
TEMPLATE = Path(__file__).with_name("index.html.jinja")
SCRIPT = Path(__file__).with_name("index.js")


def write_index(out: Path, asked: Asked, records: Iterable[Record]) -> Path:
    """Writes index.html into `out`, of all pictures in order; its path. The same records give the same bytes.

    Raises OSError where the disk refuses.
    """
    records = list(records)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": "{:,}".format, "counted": _counted, "percent": percent}
    script = SCRIPT.read_text(encoding="utf-8")
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=out.resolve().name,
        asked=asked,
        data=_data(asked, [record for record in records if record.error is None]),
        failed=[record for record in records if record.error is not None],
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = out / INDEX
    write_bytes(path, page.encode("utf-8", "replace"))
    return path


def _data(asked: Asked, records: Sequence[Record]) -> dict[str, Any]:
    """What the script reads: labels with their totals, and pictures as rows.

    A row is (path, thumbnail, width, height, regions, files), a
    region (place in labels, share, mean confidence), a file (kind, address).
    """
    names = [label.split(" | ")[0] for label in asked.labels]
    table, id_of = colour_table(len(names), asked.colours), {name: id_ for id_, name in enumerate(names)}
    labels = []
    for total in totals(records):
        id_ = id_of.get(total.label, other_id(len(names)))
        colour = "#{:02x}{:02x}{:02x}".format(*table[id_].tolist())
        labels.append(
            {**asdict(total), "name": total.label, "colour": colour, "other": total.label not in id_of}
        )
    place = {one["label"]: number for number, one in enumerate(labels)}
    pictures = [
        (
            record.input,
            _address(record.outputs["thumbnail"]) if "thumbnail" in record.outputs else None,
            record.width,
            record.height,
            [
                (place[label], share, record.confidence.get(label, 0.0))
                for label, share in record.areas.items()
                if label in place
            ],
            [(kind, _address(name)) for kind, name in record.outputs.items() if kind != "thumbnail"]
            + [("photo", _address(f"{asked.folder}/{record.input}"))],
        )
        for record in records
    ]
    return {"labels": labels, "pictures": pictures}


def _address(path: str) -> str:
    """Of a file, relative to the page. A name may hold bytes that are no text."""
    return quote(os.fsencode(path)) if not Path(path).is_absolute() else Path(path).as_uri()


def _counted(number: int, what: str) -> str:
    """1 and "label" to "1 label", 1234 to "1,234 labels"."""
    return f"{number:,} {what}" + "s" * (number != 1)
