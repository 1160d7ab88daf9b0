"""The label sets that come with the package: names only, one class a line, in the order of the class ids.

The whole line is the name, commas included; ` | ` separates synonyms.
"""

from __future__ import annotations

from importlib.resources import files

LABELSETS: dict[str, str] = {
    "coco_stuff_171": "coco_stuff_171.txt",
    "voc_20": "voc_20.txt",
    "pascal_context_59": "pascal_context_59.txt",
    "pascal_context_459": "pascal_context_459.txt",
    "ade20k_150": "ade20k_150.txt",
    "ade20k_847": "ade20k_847.txt",
    "cityscapes_19": "cityscapes_19.txt",
    "camvid_11": "camvid_11.txt",
    "mini": "mini.txt",  # what the model in the box was trained on: every name of its seven sets
}

# What they are called for short, as in `sanseg prepare`.
SHORT_NAMES = {
    "coco-stuff": "coco_stuff_171",
    "voc": "voc_20",
    "context59": "pascal_context_59",
    "context459": "pascal_context_459",
    "ade150": "ade20k_150",
    "ade847": "ade20k_847",
    "cityscapes": "cityscapes_19",
    "camvid": "camvid_11",
}


def read_labelset(name: str) -> tuple[str, ...]:
    """The labels of a set of LABELSETS or SHORT_NAMES, a line each. Raises ValueError for an unknown name."""
    key = SHORT_NAMES.get(name, name)
    if key not in LABELSETS:
        names = [*SHORT_NAMES, *(one for one in LABELSETS if one not in SHORT_NAMES.values())]
        raise ValueError(f"there is no label set {name!r}: choose from {', '.join(names)}")
    text = files("sanseg").joinpath("data", "labels", LABELSETS[key]).read_text(encoding="utf-8")
    return tuple(text.splitlines())
