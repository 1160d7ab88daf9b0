"""index.html: all that the records say, nothing of it believed, and nothing asked of any network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from sanseg.draw import colour_table
from sanseg.folders.manifest import Asked, Record
from sanseg.folders.page import write_index
from sanseg.folders.totals import totals

ASKED = Asked(
    "../photos",
    "mini",
    "f" * 16,
    "float32",
    "evaluation",
    "plain",
    "0" * 64,
    ("cat | kitten", "sofa"),
    (),
    ("index",),
)
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def record(name: str, **areas: tuple[float, float]) -> Record:
    return Record(
        name,
        name.rpartition(".")[0],
        width=100,
        height=50,
        outputs={"index": f"{name}.index.png", "thumbnail": f"index_files/{name}.jpg"},
        areas={label: area for label, (area, _) in areas.items()},
        confidence={label: sure for label, (_, sure) in areas.items()},
    )


RECORDS = [
    record("a.jpg", cat=(0.75, 0.9), other=(0.25, 0.5)),
    record("deep/b #1?.jpg", sofa=(1.0, 0.4)),
    Record("bad.jpg", "bad", error="bad.jpg is <no> picture"),
]


class Page(HTMLParser):
    """Its tags, and what is in each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = tag == "script"
        if self._script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data


def written(
    out: Path, asked: Asked = ASKED, records: list[Record] = RECORDS
) -> tuple[str, Page, dict[str, Any]]:
    text = write_index(out, asked, records).read_text(encoding="utf-8")
    page = Page(text)
    return text, page, json.loads(page.scripts[0])


def test_the_page_holds_every_picture_and_label(tmp_path: Path) -> None:
    text, page, data = written(tmp_path / "out")
    assert [one["name"] for one in data["labels"]] == ["sofa", "cat", "other"]
    assert [one["other"] for one in data["labels"]] == [False, False, True]
    assert data["labels"][1]["colour"] == "#{:02x}{:02x}{:02x}".format(*colour_table(2)[0])
    first, second = data["pictures"]
    assert first[0] == "a.jpg"
    assert first[2:5] == [100, 50, [[1, 0.75, 0.9], [2, 0.25, 0.5]]]
    assert first[5] == [["index", "a.jpg.index.png"], ["photo", "../photos/a.jpg"]]
    assert second[1] == "index_files/deep/b%20%231%3F.jpg.jpg"
    assert unquote(second[5][1][1]) == "../photos/deep/b #1?.jpg"
    assert "bad.jpg is &lt;no&gt; picture" in text
    assert sum(tag == "button" for tag, _ in page.tags) == 3


def test_the_page_has_the_colours_of_the_pictures(tmp_path: Path) -> None:
    own = (None, (255, 0, 1))
    _, _, data = written(tmp_path / "out", replace(ASKED, colours=own))
    shown = {one["name"]: one["colour"] for one in data["labels"]}
    table = colour_table(2, own)
    assert shown["sofa"] == "#ff0001"
    assert shown["cat"] == "#{:02x}{:02x}{:02x}".format(*table[0])


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    text, page, _ = written(tmp_path / "out")
    assert not re.search(r"https?://", text)
    assert not [
        tag
        for tag, attributes in page.tags
        if {"src", "srcset"} & attributes.keys() or tag in ("link", "iframe")
    ]
    [policy] = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src 'self' file:;")
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy.endswith(f"script-src 'sha256-{digest}'"), "only our script may run"
    assert write_index(tmp_path / "out", ASKED, RECORDS).read_text() == text


def test_nothing_that_a_name_says_is_believed(tmp_path: Path) -> None:
    plain, evil = tmp_path / "plain", tmp_path / "evil"
    asked = replace(ASKED, labels=(EVIL, "sofa"), folder=EVIL, model=EVIL)
    hostile = [
        record(f"{EVIL.replace('/', '')}.jpg", **{EVIL: (1.0, 0.5)}),
        record("javascript:alert(1).jpg", sofa=(1.0, 0.5)),
        record("\udcff\u2028.jpg", sofa=(1.0, 0.5)),
        Record(EVIL, EVIL, error=EVIL),
    ]
    _, wanted, _ = written(
        plain,
        ASKED,
        [record(name, **{label: (1.0, 0.5)}) for name, label in (("a", "cat"), ("b", "sofa"), ("c", "sofa"))]
        + RECORDS[2:],
    )
    text, page, data = written(evil, asked, hostile)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in wanted.tags]
    assert len(page.scripts) == 2
    assert data["labels"][1]["name"] == EVIL
    assert data["pictures"][0][0] == f"{EVIL.replace('/', '')}.jpg"
    addresses = [address for picture in data["pictures"] for _, address in picture[5]]
    assert not [address for address in addresses if ":" in address or "<" in address]
    assert "onerror=alert(2)>" not in text


def test_totals_weigh_pictures_by_their_pixels() -> None:
    large = replace(record("l.jpg", cat=(0.5, 1.0), sofa=(0.5, 0.2)), width=200)
    cat, sofa, other = totals([large, *RECORDS[:1], RECORDS[2]])
    assert (cat.label, cat.pictures, cat.share) == ("cat", 2, pytest.approx(1.75 / 3))
    assert cat.confidence == pytest.approx((1.0 * 1.0 + 0.75 * 0.9) / 1.75)
    assert (sofa.label, sofa.share, other.label) == ("sofa", pytest.approx(1 / 3), "other")
    assert totals([]) == []


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[..., str]:
    """What a browser makes of a page of 5,000 pictures, as a file; choices are written into its controls before."""
    if BROWSER is None:
        pytest.skip("no chromium on this machine")
    many = [
        record(f"{n:04}.jpg", sofa=(0.5, 0.5), **({"cat": (n / 10_000, 1 - n / 5_000)} if n % 2 else {}))
        for n in range(5_000)
    ]
    page = write_index(tmp_path / "out", ASKED, many)
    text = page.read_text()

    def draw(*choices: tuple[str, str]) -> str:
        chosen = text
        for before, after in choices:
            assert before in chosen
            chosen = chosen.replace(before, after)
        page.write_text(chosen)
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom")
        command = [BROWSER, *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return draw


def names(drawn: str) -> list[str]:
    return re.findall(r'<h3 title="([^"]*)"', drawn)


def test_a_browser_draws_a_part_of_many_pictures(drawn: Callable[..., str]) -> None:
    """The script runs under the page's own policy, from a file, and does not draw 5,000 cards at once."""
    page = drawn()
    assert "5,000 pictures" in page
    assert 60 <= len(names(page)) < 1_000
    assert page.count('loading="lazy"') == len(names(page))
    assert names(page) == sorted(names(page))


def test_pictures_are_filtered_and_sorted(drawn: Callable[..., str]) -> None:
    cat = ('<option value="">all', '<option value="1" selected>cat</option><option value="">all')
    unsure = ('<option value="unsure"', '<option value="unsure" selected')
    page = drawn(cat, unsure, ('step="any" value="0"', 'step="any" value="20"'))
    assert "1,500 of 5,000 pictures" in page
    assert names(page)[:3] == ["4999.jpg", "4997.jpg", "4995.jpg"]
    page = drawn(
        cat,
        ('<option value="large"', '<option value="large" selected'),
        ('type="search"', 'type="search" value="12"'),
    )
    assert names(page)[:2] == ["4129.jpg", "4127.jpg"]
