"""Numbers: words and areas, as JSON and CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import TYPE_CHECKING

from sanseg.formats.format import Options
from sanseg.images import encode_json

if TYPE_CHECKING:
    from sanseg.segmentation import Segmentation


def to_json(segmentation: Segmentation, options: Options) -> bytes:
    return encode_json(segmentation.to_dict())


def to_csv(segmentation: Segmentation, options: Options) -> bytes:
    """A line for each label, in the order asked, and other; UTF-8, commas, the names of the columns first.

    id, label, pixels, share, mean_confidence (empty where the label does not occur), then the same in each line:
    sanseg, model, templates, vocabulary.
    """
    found = {region.id: asdict(region) for region in segmentation.regions()}
    text = io.StringIO()
    columns = ("id", "label", "pixels", "share", "mean_confidence")
    source = segmentation.source()
    writer = csv.DictWriter(text, [*columns, *source], lineterminator="\n")
    writer.writeheader()
    for id_, label in segmentation.names.items():
        absent = {"id": id_, "label": label, "pixels": 0, "share": 0.0, "mean_confidence": ""}
        row = found.get(id_, absent)
        rounded = {
            name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()
        }
        writer.writerow(rounded | source)
    return text.getvalue().encode()
