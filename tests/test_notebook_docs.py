"""docs/NOTEBOOK.md does what it says: its code runs, its last lines show something, its figure is the page's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]


def test_the_page_runs_and_draws_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/NOTEBOOK.md").read_text(encoding="utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, object] = {}
    shown = []
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        *lines, last = ast.parse(block).body
        exec(compile(ast.Module(lines, []), "NOTEBOOK.md", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "NOTEBOOK.md", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "NOTEBOOK.md", "exec"), names)
    html = [one._repr_html_() for one in shown if hasattr(one, "_repr_html_")]
    assert len(html) == 2
    assert all("</span> cat</td>" in one for one in html)
    assert ("</span> other</td>" in html[0], "</span> other</td>" in html[1]) == (True, False)
    with Image.open("plot.png") as drawn, Image.open(ROOT / "docs/pictures/plot.png") as kept:
        assert drawn.size == kept.size, "docs/pictures/plot.png is what this page draws"
    assert names["mask"].any()  # type: ignore[attr-defined]
