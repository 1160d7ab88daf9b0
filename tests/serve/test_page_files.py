"""The page's files, without a browser: whole, at home, and without the ways by which text becomes HTML."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

STATIC = Path(str(files("sanseg") / "serve" / "static"))
EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = sorted(path for path in STATIC.iterdir() if path.suffix in (".html", ".css", ".js"))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_text_stays_text_and_nothing_comes_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|\beval\(|new Function|setAttribute\(\"on"
    assert not re.search(ways, text)
    assert not re.search(r"https?://|//cdn|@import", text)
    if path.suffix == ".html":
        assert not re.search(
            r"\sstyle=|\son\w+=|<style|<script(?![^>]*src=)", text
        )  # the policy forbids them


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_what_is_named_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"from \"\./([\w.]+)\"", text)
    named += [one.removeprefix("static/") for one in re.findall(r"(?:src|href)=\"(static/[^\"]+)\"", text)]
    named += [f"samples/{one}" for one in re.findall(r"data-photo=\"([^\"]+)\"", text)]
    assert all((STATIC / one).is_file() for one in named), named


def test_ids_that_scripts_look_for_are_on_the_page() -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    ids = re.findall(r"\sid=\"([\w-]+)\"", html)
    assert len(ids) == len({*ids})
    for path in TEXTS:
        if path.suffix == ".js":
            text = path.read_text(encoding="utf-8")
            wanted = re.findall(r"(?:\$\(|getElementById\()\"([\w-]+)\"\)", text)
            assert {*wanted} <= {*ids}, path.name


def test_samples_are_the_examples() -> None:
    samples = sorted((STATIC / "samples").iterdir())
    assert samples
    for sample in samples:
        assert sample.read_bytes() == (EXAMPLES / sample.name).read_bytes()
