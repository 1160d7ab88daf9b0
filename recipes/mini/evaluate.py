"""mIoU (classes present, percent) of a model on the `val` split of each set, each with its own labels.

python recipes/mini/evaluate.py --data DATA --model mini
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import sanseg
from sanseg.evaluate import evaluate_folder

SETS = ("msrc", "voc", "facade", "camvid", "coco_panoptic", "clothing")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    options = parser.parse_args()
    segmenter = sanseg.load(options.model)
    found = {}
    for name in SETS:
        found[name] = evaluate_folder(segmenter, options.data / name).miou_present
        print(f"{name:14} {found[name]:5.1f}", flush=True)
    found["mean"] = sum(found.values()) / len(found)
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


if __name__ == "__main__":
    main()
