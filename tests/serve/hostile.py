"""Requests that nobody well-meaning sends, byte for byte: forms, JSON, words, heads, and manners on the line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from time import monotonic, sleep
from typing import Any

from tests.serve.hostile_pictures import costly, encoded, files, photo

CLOSED = 0  # in place of a status: the connection ended without an answer
SILENT = -1  # nothing came, and it did not end either
REFUSED = frozenset({400, 403, 404, 405, 406, 411, 413, 414, 415, 421, 422, 431, 501})
ANSWERED = frozenset({200})
EITHER = REFUSED | ANSWERED
PERHAPS_LATE = ANSWERED | {504}
RIGHT = {"answered": ANSWERED, "refused": REFUSED, "either": EITHER}

PNG = encoded(photo(), "PNG")


@dataclass(frozen=True)
class Case:
    """steps: bytes that are sent, seconds that are waited. wanted: the statuses that are right.

    shut: the sending half is closed then. leaves: nobody reads the answer. slow: it takes the server's patience.
    """

    group: str
    name: str
    steps: tuple[bytes | float, ...]
    wanted: frozenset[int]
    shut: bool = False
    leaves: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Outcome:
    """status: CLOSED or SILENT where none came. type: of the body. detail: of a problem, else the body's beginning."""

    status: int
    type: str
    detail: str
    seconds: float
    body: bytes = field(default=b"", repr=False)

    @property
    def has_problem(self) -> bool:
        return self.type.startswith("application/problem+json")


def converse(address: tuple[str, int], case: Case, patience: float = 90.0) -> Outcome:
    """What a case gets. patience: seconds for each thing that is sent and for the answer."""
    begun = monotonic()

    def outcome(status: int, type_: str = "", detail: str = "", body: bytes = b"") -> Outcome:
        return Outcome(status, type_, detail, monotonic() - begun, body)

    with socket.create_connection(address, timeout=patience) as line:
        try:
            for step in case.steps:
                if isinstance(step, bytes):
                    line.sendall(step)
                else:
                    sleep(step)
            if case.shut:
                line.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was answered before all was sent
        except TimeoutError:
            return outcome(SILENT)
        if case.leaves:
            return outcome(CLOSED)
        response = HTTPResponse(line)
        try:
            response.begin()
            body = response.read()
        except TimeoutError:
            return outcome(SILENT)
        except (HTTPException, OSError):
            return outcome(CLOSED)
        type_ = response.headers.get("content-type", "")
        try:
            detail = json.loads(body)["detail"]
        except (ValueError, LookupError, TypeError, RecursionError):
            detail = body[:60].decode("latin-1")
        return outcome(response.status, type_, detail, body)


def request(method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """With the length of its body, and to be closed after its answer, unless the headers say otherwise."""
    said = {"Host": "localhost", "Content-Length": str(len(body)), "Connection": "close"} | dict(
        headers or {}
    )
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items()), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body


Part = tuple[str, bytes]
"""The headers of a part of a form after `Content-Disposition: form-data`, and what it holds."""


def part(name: str, content: bytes, filename: str | None = None) -> Part:
    said = f'; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    return said, content


def multipart(*parts: Part, boundary: str = "edge") -> bytes:
    lines = [
        f"--{boundary}\r\nContent-Disposition: form-data{head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    ]
    return b"".join([*lines, f"--{boundary}--\r\n".encode()])


def form(*parts: Part, path: str = "/v1/segment", type_: str = "multipart/form-data; boundary=edge") -> bytes:
    return request("POST", path, {"Content-Type": type_}, multipart(*parts))


def asked(image: bytes = PNG, labels: str = "cat, sofa", **fields: str) -> bytes:
    """A picture and words, as the documentation has it."""
    texts = [part(name, value.encode("utf-8", "surrogatepass")) for name, value in fields.items()]
    return form(
        part("image", image, "a.png"), part("labels", labels.encode("utf-8", "surrogatepass")), *texts
    )


def cases(kept: str, *, heavy: bool = False) -> list[Case]:
    """kept: the id of a picture that the service has. heavy: also, at the end, those that cost seconds of computing."""
    pictures = [Case("pictures", name, (asked(data),), RIGHT[right]) for name, data, right in files()]
    some = [*pictures, *_forms(), *_json(kept), *_labels(kept), *_fields(kept), *_heads(kept), *_lines()]
    return some + [*_heavy(kept)] * heavy


def _heavy(kept: str) -> Iterator[Case]:
    """Which may take longer than the service gives them, on a slow machine."""
    for name, data, right in costly():
        yield Case("pictures", name, (asked(data),), PERHAPS_LATE if right == "answered" else RIGHT[right])
    noise = [chr(0x4E00 + at) for at in range(20_000)]
    labels = ["".join(noise[(number * 37 + at * 91) % 20_000] for at in range(60)) for number in range(1_000)]
    body = json.dumps({"labels": labels}).encode()
    yield Case("labels", "1,000 labels of 60 letters each, of no language", (ask(kept, body),), PERHAPS_LATE)


def _forms() -> Iterator[Case]:
    image, labels = part("image", PNG, "a.png"), part("labels", b"cat")
    plain = "multipart/form-data; boundary="
    some = {
        "no parts": (form(), REFUSED),
        "no boundary": (form(image, labels, type_="multipart/form-data"), REFUSED),
        "an empty boundary": (form(image, labels, type_=plain), REFUSED),
        "another boundary": (form(image, labels, type_=plain + "other"), REFUSED),
        "a boundary of 10,000 letters": (form(image, labels, type_=plain + "e" * 10_000), REFUSED),
        "a boundary of line ends": (form(image, labels, type_=plain + '"\\r\\n"'), REFUSED),
        "in UTF-16": (form(image, labels, type_=plain + "edge; charset=utf-16"), REFUSED),
        "in a charset that is none": (form(image, labels, type_=plain + "edge; charset=klingon"), REFUSED),
        "said to be JSON": (form(image, labels, type_="application/json"), REFUSED),
        "said to be nothing": (form(image, labels, type_=""), REFUSED),
        "said to be urlencoded": (form(image, labels, type_="application/x-www-form-urlencoded"), REFUSED),
        "a type of noise": (form(image, labels, type_="\udcff\udcfe;;;=;\"'"), REFUSED),
        "1,000 parts": (form(*[part(f"x{number}", b"x") for number in range(1_000)]), REFUSED),
        "1,000 files": (form(*[part("image", PNG[:50], "a.png")] * 1_000), REFUSED),
        "a field twice": (form(image, labels, labels), REFUSED),
        "two pictures": (form(image, image, labels), REFUSED),
        "no picture": (form(labels), REFUSED),
        "no words": (form(image), REFUSED),
        "a picture without a file's name": (form(part("image", PNG), labels), REFUSED),
        "a picture with an empty name": (form(part("image", PNG, ""), labels), EITHER),
        "words as a file": (form(image, part("labels", b"cat", "labels.txt")), REFUSED),
        "words in Latin-1": (form(image, part("labels", b"\xe9t\xe9")), EITHER),
        "an unknown field": (form(image, labels, part("url", b"http://127.0.0.1/")), REFUSED),
        "a field without a name": (form(image, labels, ("", b"x")), REFUSED),
        "a field with an empty name": (form(image, labels, part("", b"x")), REFUSED),
        "a field with a name of 60,000 letters": (form(image, labels, part("x" * 60_000, b"")), REFUSED),
        "a part with 10,000 headers": (
            form(image, labels, ('; name="other"' + "\r\nX-A: b" * 10_000, b"auto")),
            EITHER,
        ),
        "a part with a header of 1 MB": (
            form(image, ('; name="labels"\r\nX-A: ' + "b" * 1_000_000, b"cat")),
            EITHER,
        ),
        "a part in base64": (
            form(image, ('; name="labels"\r\nContent-Transfer-Encoding: base64', b"Y2F0")),
            EITHER,
        ),
        "a picture said to be HTML": (
            form(('; name="image"; filename="a.html"\r\nContent-Type: text/html', PNG), labels),
            ANSWERED,
        ),
        "no end": (
            request("POST", "/v1/segment", {"Content-Type": plain + "edge"}, multipart(image, labels)[:-8]),
            REFUSED,
        ),
        "nothing but an end": (
            request("POST", "/v1/segment", {"Content-Type": plain + "edge"}, b"--edge--\r\n"),
            REFUSED,
        ),
        "noise around it": (
            request(
                "POST",
                "/v1/segment",
                {"Content-Type": plain + "edge"},
                b"noise\r\n" + multipart(image, labels) + b"noise",
            ),
            EITHER,
        ),
        "a picture of 40 MB": (form(part("image", bytes(40_000_000), "a.jpg"), labels), REFUSED),
        "words of 10 MB": (form(image, part("labels", b"a" * 10_000_000)), REFUSED),
    }
    for name, (sent, wanted) in some.items():
        yield Case("forms", name, (sent,), wanted)
    for name in (
        "../../etc/passwd",
        "..\\\\..\\\\boot.ini",
        "/etc/passwd",
        "C:\\\\a.png",
        "a\\0.png",
        "\U0001f408.png",
        "CON",
        "a" * 5000,
        '\\"><script>',
        "...",
        "a\u202egnp.exe",
    ):
        sent = form(part("image", PNG, name), labels, part("format", b"cvat"))
        wanted = EITHER if len(name) > 1_000 else ANSWERED
        yield Case("forms", f"a file called {name[:24]!r}", (sent,), wanted)


def ask(kept: str, body: bytes, type_: str = "application/json") -> bytes:
    return request("POST", f"/v1/images/{kept}/segment", {"Content-Type": type_}, body)


def _json(kept: str) -> Iterator[Case]:
    deep = 100_000
    some = {
        "nothing": b"",
        "null": b"null",
        "a list": b"[]",
        "a number": b"1",
        "a text": b'"cat"',
        "half of it": b'{"labels": "cat',
        "something after it": b'{"labels": "cat"} x',
        "single quotes": b"{'labels': 'cat'}",
        "a comment": b'{"labels": "cat" /* x */}',
        "lists within lists, 100,000 deep": b"[" * deep + b"]" * deep,
        "objects within objects, 100,000 deep": b'{"labels":' * deep + b"1" + b"}" * deep,
        "words within lists, 100,000 deep": b'{"labels": ' + b"[" * deep + b"]" * deep + b"}",
        "NaN": b'{"labels": "cat", "threshold": NaN}',
        "Infinity": b'{"labels": "cat", "threshold": Infinity}',
        "1e400": b'{"labels": "cat", "threshold": 1e400}',
        "a number of 100,000 digits": b'{"labels": "cat", "threshold": 1' + b"0" * 100_000 + b"}",
        "a threshold of 2": b'{"labels": "cat", "threshold": 2}',
        "a threshold of -0.1": b'{"labels": "cat", "threshold": -0.1}',
        "a threshold that is text": b'{"labels": "cat", "threshold": "0.5"}',
        "a threshold that is true": b'{"labels": "cat", "threshold": true}',
        "words that are a number": b'{"labels": 7}',
        "words that are null": b'{"labels": null}',
        "words that are an object": b'{"labels": {"cat": 1}}',
        "words with a null among them": b'{"labels": ["cat", null]}',
        "no words": b"{}",
        "an unknown field": b'{"labels": "cat", "__proto__": {}}',
        "other that is a text": b'{"labels": "cat", "other": "sofa"}',
        "colours that are a list": b'{"labels": "cat", "colours": ["#ffffff"]}',
        "a colour of no label": b'{"labels": "cat", "colours": {"dog": "#ffffff"}}',
        "a colour that is none": b'{"labels": "cat", "colours": {"cat": "red"}}',
        "a colour in other digits": '{"labels": "cat", "colours": {"cat": "#٠٠٠٠٠٠"}}'.encode(),
        "10,000 colours": json.dumps(
            {"labels": "cat", "colours": {f"cat{number}": "#ffffff" for number in range(10_000)}}
        ).encode(),
        "a format that is none": b'{"labels": "cat", "format": "exe"}',
        "a format that is a path": b'{"labels": "cat", "format": "../../etc/passwd"}',
        "a picture called a path": b'{"labels": "cat", "picture": "../../etc/passwd"}',
        "a picture called with a line end": b'{"labels": "cat", "picture": "a\\r\\nX: y"}',
        "a picture called by 256 letters": b'{"labels": "cat", "picture": "' + b"a" * 256 + b'"}',
        "invalid UTF-8": b'{"labels": "\xff\xfe"}',
        "UTF-8 that is too long": b'{"labels": "\xc0\xaf"}',
        "a surrogate in UTF-8": b'{"labels": "\xed\xa0\x80"}',
        "a lone surrogate": b'{"labels": "\\ud800"}',
        "a zero": b'{"labels": "cat\\u0000"}',
        "a bare zero": b'{"labels": "cat\0"}',
        "UTF-16": '{"labels": "cat"}'.encode("utf-16"),
        "a byte order mark": b'\xef\xbb\xbf{"labels": "cat"}',
        "a key of 1 MB": b'{"' + b"k" * 1_000_000 + b'": 1}',
        "10 MB": b'{"labels": "' + b"a" * 10_000_000 + b'"}',
    }
    for name, body in some.items():
        wanted = EITHER if name in ("a byte order mark", "a colour in other digits") else REFUSED
        yield Case("JSON", name, (ask(kept, body),), wanted)
    twice = b'{"labels": "cat", "labels": "dog"}'
    yield Case("JSON", "a key twice", (ask(kept, twice),), EITHER)
    for type_ in ("text/plain", "application/x-www-form-urlencoded", "application/xml", "", "a/b/c"):
        yield Case("JSON", f"said to be {type_!r}", (ask(kept, b'{"labels": "cat"}', type_),), REFUSED)
    for id_ in (
        "0" * 32,
        "x",
        "..",
        "%00",
        "%2e%2e%2fetc",
        "a" * 5000,
        "%F0%9F%90%88",
        "'+OR+1=1+--",
    ):
        yield Case("JSON", f"asks a picture {id_[:12]!r}", (ask(id_, b'{"labels": "cat"}'),), REFUSED)


def _labels(kept: str) -> Iterator[Case]:
    some: dict[str, tuple[str | list[str], frozenset[int]]] = {
        "10,000 labels": ([f"thing {number}" for number in range(10_000)], REFUSED),
        "10,000 labels with commas": (",".join(f"thing {number}" for number in range(10_000)), REFUSED),
        "10,000 synonyms": ("|".join(f"thing {number}" for number in range(10_000)), REFUSED),
        "60,000 synonyms": ("|".join(f"thing {number}" for number in range(60_000)), REFUSED),
        "10,000 negatives": ("cat," + ",".join(f"not x{number}" for number in range(10_000)), REFUSED),
        "one label of 100,000 letters": ("a" * 100_000, REFUSED),
        "one label of 256 letters": ("a" * 256, ANSWERED),
        "one label of 257 letters": ("a" * 257, REFUSED),
        "nothing": ("", REFUSED),
        "white space": (" \t\n\u00a0\u3000", REFUSED),
        "no labels": ([], REFUSED),
        "an empty label": (["cat", ""], REFUSED),
        "only commas": (",,,,,", REFUSED),
        "only bars": ("|||", REFUSED),
        "a million commas": ("," * 1_000_000, REFUSED),
        "'not'": ("not", EITHER),
        "'not not'": ("not not", REFUSED),
        "'not not not'": ("not not not, cat", EITHER),
        "'not cat'": ("not cat", REFUSED),
        "'cat, not cat'": ("cat, not cat", REFUSED),
        "the same in other case": ("cat, CAT, Cat", EITHER),
        "a name of two labels": ("cat | dog, dog", REFUSED),
        "'@../../etc/passwd'": ("@../../etc/passwd", REFUSED),
        "'@/etc/passwd'": ("@/etc/passwd", REFUSED),
        "'@/etc/passwd, cat'": ("@/etc/passwd, cat", REFUSED),
        "'@https://example.org'": ("@https://example.org", REFUSED),
        "'@' alone": ("@", REFUSED),
        "'@ade150' 2,000 times": (",".join(["@ade150"] * 2_000), REFUSED),
        "'@ade847' 1,000 times": (",".join(["@ade847"] * 1_000), REFUSED),
        "a zero": ("cat\0dog", REFUSED),
        "an escape sequence": ("\x1b[31mcat\x1b[0m", REFUSED),
        "a bell and a backspace": ("cat\a\b", REFUSED),
        "line ends": ("cat\r\nX-Evil: 1", EITHER),
        "right to left": ("\u0642\u0637\u0629, \u05d7\u05ea\u05d5\u05dc", ANSWERED),
        "turned round": ("\u202ecat\u202c", EITHER),
        "emoji": ("\U0001f408, \U0001f469\u200d\U0001f469\u200d\U0001f466, \U0001f1e9\U0001f1ea", ANSWERED),
        "zero width alone": ("\u200b\u200c\u200d\ufeff", REFUSED),
        "zero width within": ("c\u200ba\u200dt", ANSWERED),
        "a hundred accents on a letter": ("a" + "\u0301" * 100, ANSWERED),
        "broken text 85 times": ("\u00c3\u00a9\u00e2" * 85, ANSWERED),
        "the longest letter": ("\ufdfa" * 256, EITHER),
        "what is never a letter": ("\uffff\ufffe", EITHER),
        "private use": ("\ue000\U0010ffff", ANSWERED),
        "HTML": ("<script>alert(1)</script>", ANSWERED),
        "HTML's letters": ("&lt;&amp;&#0;&#xD800;" * 10, EITHER),
        "SQL": ("'); DROP TABLE rows; --", ANSWERED),
        "a template": ("{{7*7}} ${7*7} {0.__class__} %s %n", ANSWERED),
        "CLIP's own words": ("<|startoftext|> <end_of_text>", EITHER),
        "Chinese": ("\u732b\uff0c\u72d7", ANSWERED),
    }
    for name, (labels, wanted) in some.items():
        body = json.dumps({"labels": labels}).encode()
        yield Case("labels", name, (ask(kept, body),), wanted)
    for name in ("10,000 labels with commas", "emoji", "right to left", "a zero", "HTML"):
        labels, wanted = some[name]
        assert isinstance(labels, str)
        yield Case("labels", f"{name}, in a form", (asked(labels=labels),), wanted)
    for name, other in {"10,000 other words": ["x"] * 10_000, "other words that are labels": ["cat"]}.items():
        body = json.dumps({"labels": "cat", "other": other}).encode()
        yield Case("labels", name, (ask(kept, body),), REFUSED)


def _fields(kept: str) -> Iterator[Case]:
    """Of a form, beside the picture and the words; and the header Accept."""
    some: list[tuple[dict[str, str], frozenset[int]]] = [
        ({"threshold": "nan"}, REFUSED),
        ({"threshold": "inf"}, REFUSED),
        ({"threshold": "1" * 5_000}, REFUSED),
        ({"threshold": "0x1p-2"}, REFUSED),
        ({"threshold": "\u0660.\u0665"}, EITHER),
        ({"colours": "[" * 100_000}, REFUSED),
        ({"colours": "1" * 10_000}, REFUSED),
        ({"colours": '{"cat": "\\ud800"}'}, REFUSED),
        ({"colours": "null"}, REFUSED),
        ({"other": ",,,"}, REFUSED),
        ({"other": "@../../etc/passwd"}, EITHER),
        ({"format": "masks"}, ANSWERED),
        ({"format": ""}, REFUSED),
        ({"format": "INDEX"}, REFUSED),
        ({"picture": "..", "format": "cvat"}, REFUSED),
        ({"picture": "\ud800.png", "format": "cvat"}, REFUSED),
        ({"picture": '<&>".png', "format": "cvat"}, ANSWERED),
    ]
    for fields, wanted in some:
        told = ", ".join(f"{name} {value[:16]!r}" for name, value in fields.items())
        yield Case("fields", told, (asked(**fields),), wanted)
    for accept in (
        "image/png;q=nan",
        "*/*;q=inf",
        "a/b",
        ",,,;;;",
        "text/html," * 5_000,
        "\udcff",
        "*/*;q=" + "1" * 5_000,
    ):
        headers = {"Content-Type": "application/json", "Accept": accept}
        sent = request("POST", f"/v1/images/{kept}/segment", headers, b'{"labels": "cat"}')
        yield Case("fields", f"Accept {accept[:16]!r}", (sent,), EITHER)


def _heads(kept: str) -> Iterator[Case]:
    got = lambda headers, path="/v1/models": request("GET", path, headers)  # noqa: E731
    ranges = "bytes=" + ",".join(f"{at}-{at}" for at in range(0, 4_000, 2))
    some: dict[str, tuple[bytes, frozenset[int]]] = {
        "a header of 100,000 letters": (got({"X-A": "a" * 100_000}), EITHER),
        "10,000 headers": (got({f"X-{number}": "a" for number in range(10_000)}), EITHER),
        "a header without a colon": (b"GET / HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n", REFUSED),
        "a zero in a header": (got({"X-A": "a\0b"}), REFUSED),
        "a folded header": (got({"X-A": "a\r\n b"}), EITHER),
        "a bare carriage return": (got({"X-A": "a\rb"}), REFUSED),
        "a header of noise": (got({"X-A": "\udcff\udcfe"}), EITHER),
        "no host": (b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n", REFUSED),
        "two hosts": (
            b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nConnection: close\r\n\r\n",
            REFUSED,
        ),
        "another host": (got({"Host": "evil.example"}), REFUSED),
        "a host of noise": (got({"Host": "[::1"}), REFUSED),
        "a host of 10,000 letters": (got({"Host": "a" * 10_000}), REFUSED),
        "localhost.evil.example": (got({"Host": "localhost.evil.example"}), REFUSED),
        "evil.example@localhost": (got({"Host": "evil.example@localhost"}), EITHER),
        "an origin of another page": (
            request("DELETE", "/v1/images/x", {"Origin": "https://evil.example"}),
            REFUSED,
        ),
        "an origin of noise": (request("DELETE", "/v1/images/x", {"Origin": "http://["}), REFUSED),
        "an origin null": (request("DELETE", "/v1/images/x", {"Origin": "null"}), REFUSED),
        "a key of noise": (got({"Authorization": "Bearer \udcff\udcfe"}), ANSWERED),
        "a key of 50,000 letters": (got({"Authorization": "Bearer " + "a" * 50_000}), ANSWERED),
        "many cookies": (got({"Cookie": "a=b; " * 5_000}), ANSWERED),
        "2,000 ranges of a file": (got({"Range": ranges}, "/"), EITHER | {206, 416}),
        "a range of noise": (got({"Range": "bytes=9-1,-,x"}, "/"), EITHER | {206, 416}),
        "an upgrade to a web socket": (
            got(
                {
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Version": "13",
                    "Sec-WebSocket-Key": "YWFhYWFhYWFhYWFhYWFhYQ==",
                }
            ),
            EITHER,
        ),
        "an upgrade to HTTP/2": (
            got({"Connection": "Upgrade, HTTP2-Settings, close", "Upgrade": "h2c", "HTTP2-Settings": "AA"}),
            EITHER,
        ),
        "a method that is none": (request("BREW", "/v1/segment"), REFUSED),
        "a method of 10,000 letters": (request("A" * 10_000, "/"), REFUSED),
        "TRACE": (request("TRACE", "/"), REFUSED),
        "CONNECT": (request("CONNECT", "localhost:22"), REFUSED),
        "another's address": (request("GET", "http://169.254.169.254/latest"), REFUSED),
        "a path of 60,000 letters": (got({}, "/" + "a" * 60_000), REFUSED),
        "a path with a zero": (got({}, "/static/%00"), REFUSED),
        "a path out of the files": (got({}, "/static/../../../../etc/passwd"), REFUSED),
        "a path out of them, in other letters": (got({}, "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd"), REFUSED),
        "a path out of them, twice so": (got({}, "/static/%252e%252e/%252e%252e/etc/passwd"), REFUSED),
        "a path out of them, of Windows": (got({}, "/static/..%5c..%5c..%5cboot.ini"), REFUSED),
        "a path from the root": (got({}, "/static//etc/passwd"), REFUSED),
        "a path that is no UTF-8": (got({}, "/static/%ff%fe"), REFUSED),
        "a label set out of them": (got({}, "/v1/label-sets/..%2f..%2fauthors%2flicence"), REFUSED),
        "a query of 60,000 letters": (got({}, "/v1/models?" + "a" * 60_000), EITHER),
        "a length of -1": (request("POST", "/v1/segment", {"Content-Length": "-1"}), REFUSED),
        "a length of +5": (request("POST", "/v1/segment", {"Content-Length": "+5"}), REFUSED),
        "a length that is a word": (request("POST", "/v1/segment", {"Content-Length": "many"}), REFUSED),
        "a length of 2^70": (
            request(
                "POST",
                "/v1/segment",
                {"Content-Length": str(2**70), "Content-Type": "multipart/form-data; boundary=edge"},
            ),
            REFUSED,
        ),
        "a length of 100 digits": (
            request(
                "POST",
                "/v1/segment",
                {"Content-Length": "9" * 100, "Content-Type": "multipart/form-data; boundary=edge"},
            ),
            REFUSED,
        ),
        "two lengths": (
            b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
            REFUSED,
        ),
        "a length and chunks": (
            request("POST", "/v1/segment", {"Transfer-Encoding": "chunked"}, b"0\r\n\r\n"),
            REFUSED,
        ),
        "an unknown transfer": (
            request("POST", "/v1/segment", {"Transfer-Encoding": "gzip, chunked"}, b"0\r\n\r\n"),
            REFUSED,
        ),
        "HTTP/0.9": (b"GET /\r\n\r\n", REFUSED),
        "HTTP/2, known beforehand": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
        "HTTP/9.9": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", EITHER),
        "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(200) + b"\r\n\r\n", REFUSED),
        "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", REFUSED),
        "noise": (bytes(range(256)) * 4 + b"\r\n\r\n", REFUSED),
        "zeros": (bytes(100_000), REFUSED),
    }
    for name, (sent, wanted) in some.items():
        yield Case("heads", name, (sent,), wanted)


def _chunked(*chunks: bytes) -> bytes:
    head = (
        b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
        b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n"
    )
    return head + b"".join(chunks)


def _lines() -> Iterator[Case]:
    """Manners: how bytes come, and whether anybody reads what they give."""
    body = multipart(part("image", PNG, "a.png"), part("labels", b"cat"))
    whole = asked()
    head, edge = whole.index(b"\r\n\r\n") + 4, {"Content-Type": "multipart/form-data; boundary=edge"}
    small = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    gone = frozenset({CLOSED})
    short = request("POST", "/v1/segment", edge | {"Content-Length": "100"}, body)
    long = request("POST", "/v1/segment", edge | {"Content-Length": str(len(body) + 100)}, body)
    yield Case("lines", "a byte a chunk", (_chunked(small),), ANSWERED)
    yield Case("lines", "a chunk of no size", (_chunked(b"x\r\n"),), REFUSED)
    yield Case("lines", "a chunk of 2^70", (_chunked(b"f" * 30 + b"\r\n"),), REFUSED)
    yield Case(
        "lines", "a chunk with a note of 100,000 letters", (_chunked(b"1;" + b"a" * 100_000),), REFUSED
    )
    yield Case(
        "lines", "chunks without an end, then silence", (_chunked(b"5\r\n--edg"), 0.1), gone, leaves=True
    )
    yield Case(
        "lines",
        "40 MB in chunks",
        (
            _chunked(
                b"100000\r\n" + bytes(1 << 20) + b"\r\n", *[b"100000\r\n" + bytes(1 << 20) + b"\r\n"] * 39
            ),
        ),
        REFUSED,
    )
    yield Case("lines", "a length that is too small", (short,), REFUSED)
    yield Case("lines", "a length that is too large, then gone", (long, 0.1), gone, leaves=True)
    yield Case("lines", "closes its half after the request", (whole,), ANSWERED | gone, shut=True)
    yield Case("lines", "closes its half in the body", (whole[:-500],), REFUSED | gone, shut=True)
    yield Case("lines", "closes its half in the head", (whole[:60],), REFUSED | gone, shut=True)
    yield Case("lines", "nothing at all", (), gone, shut=True)
    yield Case("lines", "goes away in the head", (whole[:60],), gone, leaves=True)
    yield Case("lines", "goes away in the body", (whole[:-500], 0.05), gone, leaves=True)
    yield Case("lines", "goes away while it computes", (whole, 0.05), gone, leaves=True)
    yield Case("lines", "goes away at once", (whole,), gone, leaves=True)
    yield Case("lines", "the head in 20 pieces", (*_pieces(whole[:head], 20, 0.01), whole[head:]), ANSWERED)
    yield Case("lines", "the body in 20 pieces", (whole[:head], *_pieces(whole[head:], 20, 0.01)), ANSWERED)
    yield Case(
        "lines",
        "100 requests in one go",
        (request("GET", "/healthz", {"Connection": "keep-alive"}) * 99 + request("GET", "/healthz"),),
        ANSWERED,
    )
    yield Case(
        "lines",
        "asks for 100 Continue, then sends",
        (
            request(
                "POST", "/v1/segment", edge | {"Expect": "100-continue", "Content-Length": str(len(body))}
            ),
            0.05,
            body,
        ),
        ANSWERED,
    )
    yield Case(
        "lines",
        "expects what is not known",
        (request("POST", "/v1/segment", edge | {"Expect": "miracles"}, body),),
        EITHER | {417},
    )
    patience = frozenset({408})
    yield Case("lines", "a head that never ends", (whole[:60],), patience | gone, slow=True)
    yield Case(
        "lines",
        "a head, a letter each 2 seconds",
        tuple(_pieces(whole[:60], 45, 2.0)),
        patience | gone,
        slow=True,
    )
    yield Case("lines", "a body that never comes", (whole[:head],), patience, slow=True)
    yield Case(
        "lines",
        "a body, a piece each 2 seconds",
        (whole[:head], *_pieces(whole[head:-100], 45, 2.0)),
        patience,
        slow=True,
    )
    yield Case("lines", "a length that is too large", (long,), patience, slow=True)
    answer = request(
        "POST",
        "/v1/segment",
        edge,
        multipart(
            part("image", encoded(photo(3_000, 2_000), "PNG"), "a.png"),
            part("labels", b"cat"),
            part("format", b"view"),
        ),
    )
    yield Case("lines", "never reads an answer of 12 MB", (answer, 140.0), ANSWERED | gone, slow=True)
    yield Case("lines", "says nothing", (), patience | gone, slow=True)


def _pieces(data: bytes, count: int, seconds: float) -> Iterator[Any]:
    size = -(-len(data) // count)
    for at in range(0, len(data), size):
        yield data[at : at + size]
        yield seconds
