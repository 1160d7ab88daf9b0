"""Files and words that were made to do harm, or were broken on the way: refused in one line, or answered, never 5xx."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sanseg.model.san import SAN
from sanseg.segmenter import Segmenter
from tests.conftest import TINY, make_san
from tests.serve.asking import WORDS, assert_problem, client, picture, upload


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, data: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


GOOD = picture()
JPEG = picture(kind="JPEG")
SMALL = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))

REFUSED = {
    "nothing": b"",
    "one byte": b"\xff",
    "text": b"cat, sofa\n",
    "a web page": b"<!doctype html><script>alert(1)</script>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "SVG with entities": b'<!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><svg>&b;</svg>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n",
    "PDF": b"%PDF-1.4\n1 0 obj <</Type /Catalog>> endobj",
    "ZIP": b"PK\x03\x04" + bytes(100),
    "a pickle": b"cos\nsystem\n(S'true'\ntR.",
    "a program": b"\x7fELF" + bytes(100),
    "ImageMagick's": b"push graphic-context\nviewbox 0 0 1 1\nfill 'url(https://127.0.0.1/x)'\npop graphic-context",
    "a name of a file": b"/etc/passwd",
    "an address": b"http://127.0.0.1/cat.jpg",
    "PNG, half": GOOD[: len(GOOD) // 2],
    "PNG, its head": GOOD[:40],
    "JPEG, its head": JPEG[:20],
    "JPEG, cut in its tables": JPEG[:200],
    "PNG, damaged": GOOD[:100] + bytes(50) + GOOD[150:],
    "bomb by numbers": png(65_000, 65_000, data=zlib.compress(bytes(1000))),
    "bomb of zeros": png(20_000, 20_000, data=zlib.compress(bytes(4_000_000))),
    "no width": png(0, 10),
    "more than 2 billion": png(2**31 - 1, 2**31 - 1),
    "bomb of text": png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9)), data=b""),
    "TIFF that points at itself": b"II*\0\x08\0\0\0"
    + b"\x01\0"
    + struct.pack("<HHII", 330, 4, 1, 8)
    + b"\x08\0\0\0",
    "GIF bomb": b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
    "BMP bomb": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "WebP, cut": saved(SMALL, "WEBP")[:30],
    "PPM bomb": b"P6 60000 60000 255\n",
    "PPM without pixels": b"P6 10 10 255\n",
    "JPEG 2000, cut": saved(SMALL, "JPEG2000")[:80],
}

ANSWERED = {
    "a JPEG that is a web page too": JPEG + b"<script>alert(1)</script>",
    "a PNG that is a ZIP too": GOOD + b"PK\x05\x06" + bytes(18),
    "an animation": saved(SMALL, "GIF", save_all=True, append_images=[SMALL] * 20),
    "one pixel": saved(Image.new("RGB", (1, 1)), "PNG"),
    "a line": saved(Image.new("RGB", (3_000, 1)), "PNG"),
    "a column": saved(Image.new("L", (1, 3_000)), "PNG"),
    "black and white": saved(Image.new("1", (9, 9)), "PNG"),
    "16 bits": saved(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"),
    "a palette with transparency": saved(Image.new("P", (9, 9)), "PNG", transparency=0),
    "CMYK": saved(Image.new("CMYK", (9, 9)), "JPEG"),
    "grey and alpha": saved(Image.new("LA", (9, 9)), "PNG"),
    "TIFF": saved(SMALL, "TIFF"),
    "WebP": saved(SMALL, "WEBP"),
    "text that hides in it": saved(SMALL, "PNG") + b"/etc/passwd",
    "a broken EXIF": saved(SMALL, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
}


@pytest.fixture(scope="module")
def san() -> SAN:
    return make_san(TINY)


@pytest.fixture(scope="module")
def asker(san: SAN) -> Iterator[TestClient]:
    with client(Segmenter(san), labels=1_000) as one:
        yield one


@pytest.mark.parametrize("file", REFUSED)
def test_files_that_are_no_pictures_are_refused(asker: TestClient, file: str) -> None:
    for path, data in (("/v1/images", {}), ("/v1/segment", WORDS)):
        response = asker.post(path, files=upload(REFUSED[file], "a.png"), data=data)
        assert_problem(response, 413 if "bomb" in file and "text" not in file else response.status_code)
        assert response.status_code in (413, 422)
        assert "/work" not in response.text
        assert "Traceback" not in response.text


@pytest.mark.parametrize("file", ANSWERED)
def test_odd_pictures_are_answered(asker: TestClient, file: str) -> None:
    response = asker.post("/v1/segment", files=upload(ANSWERED[file]), data=WORDS)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_are_refused_or_answered(asker: TestClient, seed: int) -> None:
    random = np.random.default_rng(seed)
    for good in (
        GOOD,
        JPEG,
        saved(SMALL, "GIF"),
        saved(SMALL, "TIFF"),
        saved(SMALL, "BMP"),
        saved(SMALL, "WEBP"),
    ):
        data = bytearray(good)
        for place in random.integers(0, len(data), 5):
            data[place] = random.integers(256)
        response = asker.post("/v1/images", files=upload(bytes(data)))
        assert response.status_code in (201, 413, 422), response.text


LABELS = {
    "control characters": (["a\x00b"], 422),
    "a terminal's": (["\x1b[31mred"], 422),
    "new lines": (["a\r\nSet-Cookie: b"], 200),
    "right to left": (["\u202egnp.exe", "חתול", "قطة"], 200),
    "emoji": (["🐈‍⬛", "👩‍👩‍👧‍👦", "🏳️‍🌈"], 200),
    "combining": (["a" + "\u0301" * 200], 200),
    "zero width": (["\u200b\u200d"], 422),
    "markup": (["<script>alert(1)</script>", "{{7*7}}", "${jndi:ldap://a}", "'; DROP TABLE rows; --"], 200),
    "formulas": (["=1+1", "@SUM(A1)", "+1"], 200),
    "long": (["x" * 256], 200),
    "too long": (["x" * 257], 422),
    "10,000": ([f"thing {number}" for number in range(10_000)], 422),
    "10,000 synonyms": ([" | ".join(f"thing {number}" for number in range(10_000))], 422),
    "label sets without end": (",".join(["@ade847"] * 1_000), 422),
    "1,000 labels of 65": ([f"{number:065}" for number in range(1_000)], 422),
    "blank": ([" "], 422),
    "bars": (["|||"], 422),
    "a path": (["../../etc/passwd", "@/etc/passwd", "C:\\"], 200),
    "private use": (["\ue000", "\U0010ffff"], 200),
    "twice": (["a", "A"], 200),
    "the other's name": (["other", "(other)"], 200),
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("format_", ["json", "view", "csv", "index", "masks", "overlay", "cvat", "labelme"])
def test_odd_labels_are_refused_or_answered_in_every_format(
    asker: TestClient, name: str, format_: str
) -> None:
    labels, status = LABELS[name]
    id_ = asker.post("/v1/images", files=upload(GOOD)).json()["id"]
    response = asker.post(f"/v1/images/{id_}/segment", json={"labels": labels, "format": format_})
    assert response.status_code == status, response.text
    if status != 200:
        assert_problem(response, 422)
    elif format_ == "json":
        assert len(response.json()["labels"]) == len({label.casefold() for label in labels})
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"1e999",
        b'{"labels": "a", "threshold": NaN}',
        b'{"labels": "a", "threshold": 1e400}',
        b'{"labels": "a", "threshold": -0.1}',
        b'{"labels": "\\ud800"}',
        b'{"labels": ["a", 1]}',
        b'{"labels": "a", "labels": 1}',
        b'{"labels": "a", "other": "b"}',
        b'{"labels": "a", "colours": {"a": "#12345\\n"}}',
        b'{"labels": "a", "picture": "a\\u0000"}',
        b'{"labels": "a", "picture": "' + b"x" * 300 + b'"}',
        b'{"labels": "a"} {"labels": "b"}',
        "{'labels': 'a'}".encode("utf-16"),
        json.dumps({"labels": "a", "colours": {f"c{n}": "#ffffff" for n in range(5_000)}}).encode(),
    ],
)
def test_odd_bodies_are_refused(asker: TestClient, body: bytes) -> None:
    id_ = asker.post("/v1/images", files=upload(GOOD)).json()["id"]
    path = f"/v1/images/{id_}/segment"
    assert_problem(asker.post(path, content=body, headers={"content-type": "application/json"}), 422)


@pytest.mark.parametrize(
    "name", ["a\r\nX-Evil: 1.png", 'a".png', "a;b.png", "é\u202e.png", "\x00.png", "." * 300]
)
def test_odd_names_of_files_break_no_headers(asker: TestClient, name: str) -> None:
    body = (
        b'--xx\r\nContent-Disposition: form-data; name="labels"\r\n\r\na\r\n'
        b'--xx\r\nContent-Disposition: form-data; name="format"\r\n\r\nlabelme\r\n'
        b'--xx\r\nContent-Disposition: form-data; name="image"; filename="'
        + name.replace('"', "%22").replace("\r\n", "%0D%0A").encode()
        + b'"\r\n\r\n'
        + GOOD
        + b"\r\n--xx--\r\n"
    )
    response = asker.post(
        "/v1/segment", content=body, headers={"content-type": "multipart/form-data; boundary=xx"}
    )
    assert response.status_code in (200, 400), response.text
    assert "x-evil" not in response.headers


@pytest.mark.parametrize(
    "id_", ["%00", "%2e%2e", "%2e%2e%2f", "a" * 5_000, "é", "%ff", "'", "{id}", "0" * 32]
)
def test_odd_ids_are_unknown(asker: TestClient, id_: str) -> None:
    for response in (
        asker.get(f"/v1/images/{id_}"),
        asker.delete(f"/v1/images/{id_}"),
        asker.post(f"/v1/images/{id_}/segment", json=WORDS),
        asker.get(f"/v1/label-sets/{id_}"),
    ):
        assert response.status_code in (404, 405), response.text
        assert response.headers["content-type"] == "application/problem+json"
