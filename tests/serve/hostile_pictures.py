"""Files that are no pictures, are pictures no longer, or are pictures that few programs see: made, not kept."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

File = tuple[str, bytes, str]
"""What it is, the bytes, and what is right: "answered", "refused", or "either", where the decoder may decide."""

REST = b"\xff\xd9"  # how a JPEG ends


def photo(width: int = 96, height: int = 64, mode: str = "RGB") -> Image.Image:
    """Soft shapes and some noise, the same each time."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 24, (height, width))
    waves = [110 + 90 * np.sin(x / (9 + 4 * part) + y / (13 - 3 * part)) + noise for part in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def files() -> Iterator[File]:
    yield from truncated()
    yield from bombs()
    yield from other_types()
    yield from polyglots()
    yield from metadata()
    yield from seldom()


def truncated() -> Iterator[File]:
    for kind in ("JPEG", "PNG", "WEBP"):
        whole = encoded(photo(), kind)
        for length in (1, 2, 4, 12, 20, 40, 100, 300):
            yield f"{kind}, its first {length} bytes", whole[:length], "refused"
        for share in (25, 50, 75, 95):
            yield f"{kind}, its first {share} %", whole[: len(whole) * share // 100], "refused"
        yield f"{kind} without its last byte", whole[:-1], "either"
        shuffled = bytearray(whole)
        for place in random.Random(0).sample(range(30, len(whole)), 40):
            shuffled[place] ^= 0x55
        yield f"{kind} with 40 wrong bytes", bytes(shuffled), "either"
    yield "PNG with a wrong checksum", encoded(photo(), "PNG").replace(b"IDAT", b"IDAU", 1), "either"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG that says this size, with these chunks after its head."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many zeros, deflated."""
    squeeze = zlib.compressobj(9)
    parts = [squeeze.compress(bytes(1_000_000)) for _ in range(count // 1_000_000)]
    return b"".join([*parts, squeeze.compress(bytes(count % 1_000_000)), squeeze.flush()])


def bombs() -> Iterator[File]:
    dot = chunk(b"IDAT", zlib.compress(bytes(2)))
    yield "PNG of 100,000x100,000, one byte of it", png(100_000, 100_000, dot), "refused"
    yield "PNG of 2^31 x 2^31", png(2**31, 2**31, dot), "refused"
    yield "PNG of 7,000x7,000 in black, 6 kB", png(7_000, 7_000, _black(7_000, 7_000), bits=1), "refused"
    yield "PNG of 20,000x20,000 in black", png(20_000, 20_000, _black(20_000, 20_000), bits=1), "refused"
    yield "PNG with 200 MB in its pixels' chunk", png(2, 2, chunk(b"IDAT", zeros(200_000_000))), "either"
    text = chunk(b"zTXt", b"Comment\0\0" + zeros(200_000_000))
    yield "PNG with 200 MB of text", png(1, 1, text, dot), "refused"
    yield (
        "PNG with 200 MB of colour profile",
        png(1, 1, chunk(b"iCCP", b"x\0\0" + zeros(200_000_000)), dot),
        "either",
    )
    texts = chunk(b"tEXt", b"Comment\0" + b"a" * 50) * 20_000
    yield "PNG with 20,000 texts", png(1, 1, texts, dot), "either"
    jpeg = bytearray(encoded(photo(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    yield "JPEG of 65,535x65,535", bytes(jpeg), "refused"
    gif = bytearray(encoded(photo(), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    yield "GIF with a screen of 65,535x65,535", bytes(gif), "refused"
    yield "BMP of 2^31-1 squared", bmp(2**31 - 1, 2**31 - 1), "refused"
    yield "BMP of -1 x -2^31", bmp(-1, -(2**31)), "refused"
    yield "PPM of 99,999x99,999", b"P6 99999 99999 255\n" + bytes(100), "refused"
    yield "PPM with a width of 100,000 digits", b"P6 " + b"9" * 100_000 + b" 1 255\n", "refused"
    yield "TIFF of 60,000x60,000", tiff({256: 60_000, 257: 60_000}), "refused"
    yield "JPEG 2000 of 2^32-1 squared", jpeg2000(2**32 - 1, 2**32 - 1), "refused"
    webp = bytearray(encoded(photo(), "WEBP", lossless=True))
    at = webp.index(b"VP8L") + 9
    webp[at : at + 4] = b"\xff\xff\xff\x0f"
    yield "WebP of 16,384x16,384", bytes(webp), "refused"


def _black(width: int, height: int) -> bytes:
    """All pixels of a PNG with one bit each."""
    return chunk(b"IDAT", zeros((1 + -(-width // 8)) * height))


def bmp(width: int, height: int) -> bytes:
    return (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 154, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    ) + bytes(100)


def jpeg2000(width: int, height: int) -> bytes:
    data = bytearray(encoded(photo(), "JPEG2000"))
    at = data.index(b"ihdr") + 4
    data[at : at + 8] = struct.pack(">II", height, width)
    at = data.index(b"\xff\x51") + 6
    data[at : at + 8] = struct.pack(">II", width, height)
    return bytes(data)


def tiff(tags: dict[int, int], *, entries: int | None = None, following: int = 0) -> bytes:
    """16x16 in grey, but for these tags. entries: how many it says it has. following: where the next page is."""
    said = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: 400, 277: 1, 278: 16, 279: 256} | tags
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(said.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(said) if entries is None else entries)
    return (head + body + struct.pack("<I", following)).ljust(400, b"\0") + bytes(range(256))


def other_types() -> Iterator[File]:
    page = b"<!DOCTYPE html><html><script>alert(1)</script></html>"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("../../etc/passwd", "root")
    some = {
        "nothing": b"",
        "one zero": b"\0",
        "a megabyte of zeros": bytes(1_000_000),
        "a megabyte of noise": random.Random(0).randbytes(1_000_000),
        "text": b"cat" * 1000,
        "HTML": page,
        "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "ZIP with a path out of it": archive.getvalue(),
        "SVG with a link": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "SVG, a billion laughs": b'<!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>',
        "EPS, which starts Ghostscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n",
        "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(40),
        "ICO": encoded(photo(32, 32), "ICO"),
        "TGA": encoded(photo(), "TGA"),
        "PCX": encoded(photo(), "PCX"),
        "gzip of a JPEG": gzip.compress(encoded(photo(), "JPEG"), mtime=0),
        "MP4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(200),
        "ELF": b"\x7fELF\2\1\1" + bytes(200),
        "FITS": b"SIMPLE  =                    T" + bytes(3000),
        "XBM": b"#define x_width 99999\n#define x_height 99999\nstatic char x_bits[] = {0x00};",
    }
    for name, data in some.items():
        yield name, data, "refused"
    still = encoded(photo(8, 8, "P"), "GIF")
    frame = still[still.rindex(b",\0\0\0\0\x08\0\x08\0") : -1]
    yield "GIF of 10,000 frames", still[:-1] + 9_999 * frame + still[-1:], "answered"
    frames = [photo(8, 8).rotate(90 * number) for number in range(50)]
    yield "APNG of 50 frames", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), "answered"
    yield "TIFF whose next page is itself", tiff({}, following=8), "answered"
    yield "TIFF that says it has 65,535 tags", tiff({}, entries=65_535), "either"
    yield "TIFF with unknown tags", tiff(dict.fromkeys(range(40000, 40030), 2**32 - 1)), "answered"
    yield "TIFF with pixels beyond its end", tiff({273: 2**32 - 1}), "refused"
    yield "TIFF with 2^32-1 bytes of pixels", tiff({279: 2**32 - 1}), "either"
    yield "TIFF with 2^32-1 rows a strip", tiff({278: 2**32 - 1}), "either"
    yield "TIFF with 0 rows a strip", tiff({278: 0}), "either"
    yield "TIFF with 255 bits", tiff({258: 255}), "refused"
    yield "TIFF with an unknown compression", tiff({259: 31_337}), "refused"
    yield "TIFF with broken LZW", tiff({259: 5}), "refused"
    yield "TIFF with tiles of 0x0", tiff({322: 0, 323: 0, 324: 400, 325: 256}), "either"
    yield "TIFF without pixels", tiff({256: 0, 257: 0}), "refused"


def polyglots() -> Iterator[File]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("META-INF/MANIFEST.MF", "Main-Class: X")
    jpeg, gif, whole = (
        encoded(photo(), "JPEG"),
        encoded(photo(mode="P"), "GIF"),
        encoded(photo(), "PNG"),
    )
    yield "JPEG and ZIP", jpeg + archive.getvalue(), "answered"
    yield "GIF and JAR", gif + archive.getvalue(), "answered"
    yield "PNG and HTML", whole + b"<script>alert(1)</script>", "answered"
    yield "JPEG and PHP", jpeg[:2] + segment(0xFE, b"<?php system($_GET[0]); ?>") + jpeg[2:], "answered"
    yield "GIF89a as JavaScript", b"GIF89a=1;alert(1)//" + gif[6:], "refused"
    yield "PDF and JPEG", b"%PDF-1.7\n" + jpeg, "refused"
    yield "HTML and PNG", b"<html>" + whole, "refused"
    yield "PNG that says it is a JPEG", jpeg[:20] + whole, "refused"


def segment(marker: int, data: bytes) -> bytes:
    """Of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def exif(entries: bytes, count: int, following: int = 0) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, count) + entries + struct.pack("<I", following)


def metadata() -> Iterator[File]:
    jpeg = encoded(photo(), "JPEG")

    def with_(*segments: bytes) -> bytes:
        return jpeg[:2] + b"".join(segments) + jpeg[2:]

    noise = random.Random(1).randbytes(65_000)
    turned = struct.pack("<HHII", 0x0112, 3, 1, 6)
    some = {
        "noise": with_(segment(0xE1, b"Exif\0\0" + noise)),
        "EXIF of noise after its head": with_(segment(0xE1, exif(noise, 5000))),
        "EXIF that follows itself": with_(segment(0xE1, exif(turned, 1, 8))),
        "EXIF with 2^32-1 numbers": with_(
            segment(0xE1, exif(struct.pack("<HHII", 0x0112, 3, 2**32 - 1, 8), 1))
        ),
        "EXIF that turns by 9": with_(segment(0xE1, exif(struct.pack("<HHII", 0x0112, 3, 1, 9), 1))),
        "EXIF that turns by a word": with_(
            segment(0xE1, exif(struct.pack("<HHI4s", 0x0112, 2, 4, b"abc"), 1))
        ),
        "EXIF folders within folders": with_(
            segment(0xE1, exif(struct.pack("<HHII", 0x8769, 4, 1, 8) * 20, 20))
        ),
        "200 times EXIF": with_(*[segment(0xE1, exif(turned, 1))] * 200),
        "XMP with a billion laughs": with_(
            segment(
                0xE1,
                b'http://ns.adobe.com/xap/1.0/\0<!DOCTYPE x [<!ENTITY a "aaaaaaaa">'
                + b"".join(
                    b'<!ENTITY %c "%s">' % (c, b"&%c;" % (c - 1) * 10) for c in range(ord("b"), ord("k"))
                )
                + b"]><x:xmpmeta>&j;</x:xmpmeta>",
            )
        ),
        "colour profile of noise": with_(segment(0xE2, b"ICC_PROFILE\0\1\1" + noise)),
        "colour profile, part 255 of 1": with_(segment(0xE2, b"ICC_PROFILE\0\xff\1" + noise[:100])),
        "Photoshop's resources of noise": with_(segment(0xED, b"Photoshop 3.0\0" + noise)),
        "MPO of noise": with_(segment(0xE2, b"MPF\0" + noise[:500])),
        "Adobe's marker of noise": with_(segment(0xEE, b"Adobe" + noise[:7])),
    }
    for name, data in some.items():
        yield f"JPEG, {name}", data, "either"
    yield "JPEG, 20 MB of comments", with_(*[segment(0xFE, bytes(65_000))] * 320), "answered"


def seldom() -> Iterator[File]:
    """Right as they are."""
    grey16 = Image.fromarray(np.asarray(photo(mode="L")).astype(np.uint16) * 257)
    rgb16 = struct.pack(">B", 0) + bytes(range(6)) * 4
    transparent = photo(mode="P")
    transparent.info["transparency"] = bytes(range(256))
    some = {
        "PNG of 16 bits, grey": encoded(grey16, "PNG"),
        "PNG of 16 bits, RGB": png(4, 4, chunk(b"IDAT", zlib.compress(rgb16 * 4)), bits=16, colour=2),
        "PNG of one bit": encoded(photo(mode="1"), "PNG"),
        "PNG, grey and alpha": encoded(photo(mode="LA"), "PNG"),
        "PNG, RGB and alpha": encoded(photo(mode="RGBA"), "PNG"),
        "PNG, a palette with transparency": encoded(transparent, "PNG"),
        "JPEG, CMYK": encoded(photo(mode="CMYK"), "JPEG"),
        "JPEG, grey": encoded(photo(mode="L"), "JPEG"),
        "JPEG, progressive": encoded(photo(), "JPEG", progressive=True),
        "JPEG, turned by EXIF": encoded(photo(), "JPEG", exif=_turned(6)),
        "TIFF, CMYK": encoded(photo(mode="CMYK"), "TIFF"),
        "TIFF, LZW": encoded(photo(), "TIFF", compression="tiff_lzw"),
        "TIFF of 16 bits": encoded(grey16, "TIFF"),
        "WebP, lossless": encoded(photo(mode="RGBA"), "WEBP", lossless=True),
        "JPEG 2000": encoded(photo(), "JPEG2000"),
        "BMP": encoded(photo(), "BMP"),
        "PGM": encoded(photo(mode="L"), "PPM"),
        "1x1": encoded(photo(1, 1), "PNG"),
        "1x20,000": encoded(photo(1, 20_000), "PNG"),
        "20,000x1": encoded(photo(20_000, 1), "PNG"),
    }
    for name, data in some.items():
        yield name, data, "answered"
    strange = np.linspace(0, 1, 64 * 96, dtype=np.float32).reshape(64, 96)
    strange[0, :3] = np.nan, np.inf, -np.inf
    yield "TIFF of floats, not all of them numbers", encoded(Image.fromarray(strange), "TIFF"), "refused"
    yield "TIFF, Lab", encoded(photo(mode="LAB"), "TIFF"), "either"


def _turned(by: int) -> Image.Exif:
    told = Image.Exif()
    told[0x0112] = by
    return told


def costly() -> Iterator[File]:
    """Within the limits, and each costs seconds."""
    yield "PNG of 5,000x5,000 in black, 3 kB", png(5_000, 5_000, _black(5_000, 5_000), bits=1), "answered"
    yield "JPEG of 4,000x3,000 with 3,000 scans", scans(4_000, 3_000, 3_000), "refused"
    gif = bytearray(encoded(photo(mode="P"), "GIF"))
    gif[6:10] = struct.pack("<HH", 5_000, 5_000)
    yield "GIF with a screen of 5,000x5,000", bytes(gif), "answered"


def scans(width: int, height: int, count: int) -> bytes:
    """A progressive JPEG whose last pass over the pixels comes so many times more."""
    data = encoded(Image.new("L", (width, height), 128), "JPEG", progressive=True, optimize=True)
    last = data.rindex(b"\xff\xda")
    return data[: -len(REST)] + data[last : -len(REST)] * count + REST
