"""Imports do nothing by themselves and point inward."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sanseg

PACKAGE = Path(sanseg.__file__).parent

# Rooms from the outside in (docs/DESIGN.md): a room may import rooms of its own row and of those below.
ROWS = (
    {"__main__"},
    {"cli", "serve", "batch", "export"},
    {"report", "folders"},
    {
        "segmenter",
        "windows",
        "large",
        "calibration",
        "wording",
        "benchmark",
        "train",
        "division",
        "schedule",
        "validation",
        "run",
        "precision",
        "recipes",
        "evaluate",
        "expect",
        "figures",
        "metrics",
        "views",
        "baselines",
    },
    {
        "devices",
        "lanes",
        "segmentation",
        "extras",
        "formats",
        "queries",
        "segments",
        "losses",
        "labelmap",
        "data",
        "draw",
        "geo",
        "images",
        "vocabulary",
        "vocabulary_files",
        "distractors",
    },
    {"model"},
    {"version"},
)


def imported_rooms(file: Path) -> Iterator[str]:
    """The rooms of ours that a file imports anywhere, also inside functions and for types only."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports in full"
            module = node.module or ""
            names = [f"sanseg.{name.name}" for name in node.names] if module == "sanseg" else [module]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("sanseg."))


def test_imports_point_inward() -> None:
    row = {room: number for number, rooms in enumerate(ROWS) for room in rooms}
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    assert files
    for file in files:
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert room in row, f"{room} is a new room: say in ROWS where it belongs"
        for other in imported_rooms(file):
            assert row[room] <= row[other], f"{file} imports {other}, which is further out"
            assert (room, other) != ("segmenter", "train"), "inference does not need training"
            assert room != "baselines" or other in ("baselines", "model"), (
                "networks see tensors, nothing else"
            )


def loaded_after(program: str) -> set[str]:
    """The modules that are loaded in a fresh interpreter after a program."""
    run = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint('LOADED', *sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return set(run.stdout.partition("LOADED")[2].split())


HEAVY = {"torch", "numpy", "PIL", "open_clip", "timm", "torchvision", "scipy", "huggingface_hub"}


@pytest.mark.parametrize(
    ("program", "room"), [("import sanseg", "version"), ("import sanseg.baselines", "baselines")]
)
def test_importing_loads_nothing_heavy(program: str, room: str) -> None:
    loaded = loaded_after(program)
    assert f"sanseg.{room}" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["bench", "--help"], ["--version"]])
def test_help_loads_no_torch(arguments: list[str]) -> None:
    program = f"from sanseg.cli import app\napp({arguments}, standalone_mode=False)"
    loaded = loaded_after(program)
    assert "sanseg.cli" in loaded
    assert not loaded & HEAVY


def test_inference_needs_no_extra() -> None:
    """Training's, the tests' and the importers' packages are extras."""
    loaded = loaded_after("from sanseg import SAN, Segmentation, Segmenter, Vocabulary, load")
    assert "torch" in loaded
    extras = {
        "open_clip",
        "timm",
        "torchvision",
        "scipy",
        "accelerate",
        "matplotlib",
        "pycocotools",
        "rasterio",
    }
    assert not loaded & {*extras, "sanseg.train", "sanseg.losses", "sanseg.report"}


def test_a_photo_is_segmented_without_torchs_compiler(tmp_path: Path) -> None:
    """It takes 2 s to load, and random numbers or arithmetic on the "meta" device load it."""
    loaded = loaded_after(
        f"import sanseg\nsanseg.load('mini', 'cpu')('examples/cat.jpg', 'cat, sofa').save({str(tmp_path)!r}, 'cat')"
    )
    assert "torch" in loaded
    assert (tmp_path / "cat.overlay.png").is_file()
    assert "torch._dynamo" not in loaded


def test_public_names_are_found_and_others_are_not() -> None:
    for name in sanseg.__all__:
        assert getattr(sanseg, name) is not None
    assert dir(sanseg) == sanseg.__all__
    with pytest.raises(AttributeError, match="no attribute 'segment': it has SAN"):
        _ = sanseg.segment  # type: ignore[attr-defined]
