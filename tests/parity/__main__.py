"""`python -m tests.parity CASE_DIR`: one JSON object {quantity: [max_abs_error, tolerance]}; exit 1 if one is over."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.parity.case import Case, report


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (Path(arguments[0]) / "config.json").is_file():
        print(
            "usage: python -m tests.parity CASE_DIR (a folder with config.json, io.npz, ...)", file=sys.stderr
        )
        return 2
    found = report(Case(Path(arguments[0])))
    print(json.dumps(found))
    return int(any(not error <= tolerance for error, tolerance in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
