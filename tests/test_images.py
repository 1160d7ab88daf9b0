"""images.py: whatever comes in, the right picture or one line that says what to do; whole files out."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import tracemalloc
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sanseg import images
from sanseg.images import (
    Geometry,
    ImageSource,
    encode_png,
    prepare,
    read_image,
    resize,
    write_bytes,
    write_json,
    write_png,
)
from sanseg.model.config import SAN_VIT_B16

SMALL = replace(SAN_VIT_B16, short_side=150)


def picture(height: int = 6, width: int = 9, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def refuses(source: object, says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        read_image(source)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert ":" in str(raised.value), "no remedy"


# What is read


def test_every_source_gives_the_same_picture(tmp_path: Path) -> None:
    pixels = picture()
    data = encode(Image.fromarray(pixels))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    sources: list[ImageSource] = [
        path,
        str(path),
        data,
        Image.fromarray(pixels),
        Image.open(path),
        pixels,
        pixels[:, ::-1][:, ::-1],
        pixels / 255,
        (pixels / 255).astype(np.float16),
        pixels.astype(np.uint16) * 257,
        (pixels.astype(np.uint16) * 257).astype(">u2"),
        np.dstack([pixels, np.full((6, 9), 255, np.uint8)]),
        chw,
        chw.float() / 255,
        (chw.double() / 255).requires_grad_(),
        torch.from_numpy(pixels),
    ]
    for number, source in enumerate(sources):
        read = read_image(source)
        assert read.dtype == np.uint8, number
        np.testing.assert_array_equal(read, pixels, err_msg=str(number))
        assert read.flags.writeable, number
        assert read.flags.c_contiguous, number


def test_the_answer_shares_no_memory_with_its_source() -> None:
    pixels = picture()
    tensor = torch.from_numpy(picture())
    for source in (pixels, pixels[..., :1], tensor):
        read = read_image(source)
        read += 1
    np.testing.assert_array_equal(pixels, picture())
    np.testing.assert_array_equal(tensor.numpy(), picture())


def test_grey_in_every_form_is_grey_in_three_channels() -> None:
    grey = picture(channels=1)[..., 0]
    wanted = np.repeat(grey[..., None], 3, axis=2)
    tensor = torch.from_numpy(grey)
    for source in (grey, grey[..., None], grey / 255, Image.fromarray(grey), tensor, tensor[None]):
        np.testing.assert_array_equal(read_image(source), wanted)


def test_bfloat16_is_read() -> None:
    np.testing.assert_array_equal(
        read_image(torch.ones(3, 2, 5, dtype=torch.bfloat16)), np.full((2, 5, 3), 255)
    )


def test_bool_is_black_and_white() -> None:
    mask = picture(channels=1)[..., 0] > 127
    for source in (mask, torch.from_numpy(mask), Image.fromarray(mask)):
        np.testing.assert_array_equal(read_image(source)[..., 1], mask * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(kind: str) -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    wanted = [0, 0, 1, 1, 128, 255]
    for source in (encode(Image.fromarray(deep), kind), Image.fromarray(deep), deep, torch.from_numpy(deep)):
        np.testing.assert_array_equal(read_image(source)[0, :, 0], wanted)


def test_every_sixteen_bit_mode_of_pil_is_read_alike() -> None:
    deep = np.array([[0, 32768, 65535]], dtype=np.uint16)
    big_endian = Image.frombytes("I;16B", (3, 1), deep.astype(">u2").tobytes())
    for image in (Image.fromarray(deep), big_endian, Image.fromarray(deep.astype(np.int32))):
        np.testing.assert_array_equal(read_image(image)[0, :, 0], [0, 128, 255])
    refuses(Image.fromarray(np.array([[70_000]], dtype=np.int32)), "70000.*0..65535")


def test_floats_of_pil_follow_the_rule_of_arrays() -> None:
    np.testing.assert_array_equal(
        read_image(Image.fromarray(np.array([[0, 1]], np.float32)))[0, :, 0], [0, 255]
    )
    refuses(Image.fromarray(np.array([[0, 255]], np.float32)), "0..255, wanted 0..1")


def test_exif_orientation_is_applied() -> None:
    stored = Image.fromarray(picture(8, 16)).resize((64, 32))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("PNG", "TIFF", "WEBP"):
            data = encode(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
            with Image.open(io.BytesIO(data)) as opened:
                wanted = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
            np.testing.assert_array_equal(read_image(data), wanted, err_msg=f"{kind} {orientation}")
            with Image.open(io.BytesIO(data)) as opened:
                np.testing.assert_array_equal(read_image(opened), wanted)
    assert read_image(encode(stored, "JPEG", exif=exif)).shape == (64, 32, 3)


def test_unreadable_exif_leaves_the_picture_as_stored() -> None:
    data = encode(Image.fromarray(picture()), exif=b"Exif\0\0no TIFF header at all")
    with pytest.raises(SyntaxError):
        Image.open(io.BytesIO(data)).getexif()  # the premise
    np.testing.assert_array_equal(read_image(data), picture())


def test_alpha_is_composited_on_white() -> None:
    rgba = np.zeros((2, 5, 4), np.uint8)
    rgba[0, :, 3] = 0, 128, 255, 255, 255
    rgba[0, 0, :3] = 10, 20, 30  # what is hidden stays hidden
    wanted = [[255] * 3, [127] * 3, *[[0] * 3] * 3]
    for source in (rgba, rgba / 255, torch.from_numpy(rgba).permute(2, 0, 1), Image.fromarray(rgba)):
        np.testing.assert_allclose(read_image(source)[0], wanted, atol=1)
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(rgba)))[0, ::2], wanted[::2])
    grey = Image.fromarray(rgba).convert("LA")
    np.testing.assert_array_equal(read_image(grey)[0, ::2], wanted[::2])


def test_a_palette_keeps_its_colours_and_its_transparency() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    np.testing.assert_array_equal(read_image(image)[0], [[255, 0, 0], [0, 255, 0], [0, 0, 255]])
    see_through = encode(image, transparency=b"\xff\x00\xff")
    np.testing.assert_array_equal(read_image(see_through)[0], [[255, 0, 0], [255] * 3, [0, 0, 255]])
    refuses(Image.new("La", (2, 2)), "La: convert it to RGB")


def test_cmyk_is_read_as_colours() -> None:
    red = Image.new("RGB", (16, 16), (230, 20, 30)).convert("CMYK")
    for source in (red, encode(red, "JPEG", quality=95), encode(red, "TIFF")):
        np.testing.assert_allclose(read_image(source)[8, 8], [230, 20, 30], atol=6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(read_image(data)[4, 4], [255, 0, 0], atol=6)


def test_sizes_at_the_edges() -> None:
    for height, width in ((1, 1), (1, 5000), (5000, 1)):
        assert read_image(encode(Image.new("RGB", (width, height)))).shape == (height, width, 3)


def test_twelve_megapixels_are_read_in_a_few_copies() -> None:
    data = encode(Image.new("RGB", (4000, 3000), "red"), "JPEG")
    tracemalloc.start()
    pixels = read_image(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.shape == (3000, 4000, 3)
    assert peak < 4 * pixels.nbytes


# What is refused


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*cat\.jpg: check the path") as raised:
        read_image(tmp_path / "cat.jpg")
    assert "\n" not in str(raised.value)
    with pytest.raises(OSError, match="directory"):
        read_image(tmp_path)


def test_what_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_bytes(b"")
    refuses(path, r"notes\.jpg is empty")
    refuses(b"", "0 bytes is empty")
    path.write_text("dear diary\n" * 50)
    refuses(path, r"notes\.jpg is no picture.*JPEG or PNG")
    refuses(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture")  # would start Ghostscript
    refuses([1, 2, 3], "list: pass a path")
    refuses(None, "NoneType: pass a path")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_truncated_files_are_refused(kind: str) -> None:
    data = encode(Image.fromarray(picture(40, 40)), kind)
    for kept in (10, len(data) // 2, len(data) * 3 // 4):
        refuses(data[:kept], "this picture of .*: (get the file again|convert)")


def test_damaged_bytes_give_a_picture_or_a_value_error() -> None:
    random = np.random.default_rng(0)
    lines = []
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(picture(20, 30))
    kinds = [(image, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "JPEG2000")]
    for source, kind in [*kinds, (image.convert("P"), "PNG"), (image.convert("CMYK"), "JPEG")]:
        whole = encode(source, kind, **({} if kind in ("BMP", "GIF", "PPM", "JPEG2000") else {"exif": exif}))
        for _ in range(60):
            data = bytearray(whole)
            for place in random.integers(0, min(len(data), int(random.choice([40, 400]))), 3):
                data[place] = random.integers(256)
            try:
                assert read_image(bytes(data)).shape[2:] == (3,)
            except ValueError as error:
                lines.append(str(error))
    assert len(lines) > 100
    assert not any("\n" in line for line in lines)


def bomb(side: int) -> bytes:
    """A PNG that says it has side x side pixels, and has none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_001, 14_000, 100_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    tracemalloc.start()
    refuses(bomb(side), "the limit is 100 megapixels: make it smaller")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    assert images.MAX_PIXELS == 100_000_000


def test_a_jpeg_of_endless_scans_is_refused_and_what_only_looks_like_one_is_read() -> None:
    whole = encode(Image.new("L", (64, 48), 128), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    with pytest.raises(ValueError, match="in 1006 scans, at most 40 are taken: save it again"):
        read_image(whole[:-2] + 1_000 * whole[last:-2] + b"\xff\xd9")
    with_marks_behind = whole + 100 * b"\xff\xda"
    with_marks_in_a_comment = whole[:2] + b"\xff\xfe\x00\xca" + 100 * b"\xff\xda" + whole[2:]
    for data in (with_marks_behind, with_marks_in_a_comment):
        assert (read_image(data) == read_image(whole)).all()


def test_the_limit_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (10, 10)))
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert read_image(data).shape == (10, 10, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    refuses(data, "10x10 pixels")
    assert read_image(np.zeros((10, 10))).shape == (
        10,
        10,
        3,
    )  # what is decoded already is the caller's affair


def test_the_limit_can_be_raised_by_name_and_pillow_keeps_its_own() -> None:
    data = bomb(14_000)  # more than Pillow opens by itself
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match="truncated"):  # it is decoded: there is nothing behind its header
        read_image(data, max_pixels=200_000_000)
    assert before == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match="the limit is 150 megapixels"):
        read_image(data, max_pixels=150_000_000)
    refuses(data, "--max-megapixels")


def test_arrays_that_are_no_picture_are_refused() -> None:
    refuses(np.full((2, 2), np.nan), "NaN")
    refuses(np.array([[0, np.inf]]), "NaN or infinite")
    refuses(np.array([[0, 200.0]]), "0..200, wanted 0..1: scale")
    refuses(np.array([[-0.5, 1]]), "-0.5..1")
    refuses(np.zeros((2, 2), np.int64), "int64.*uint8")
    refuses(np.zeros((2, 2), np.uint32), "uint32.*uint8")
    refuses(np.zeros((2, 2), complex), "complex128")
    refuses(np.zeros((3, 2, 2, 3), np.uint8), r"\(3, 2, 2, 3\).*one picture")
    refuses(np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\)")
    refuses(np.zeros(8, np.uint8), r"\(8,\)")
    refuses(np.zeros((0, 8, 3), np.uint8), "no pixels")
    refuses(Image.new("RGB", (0, 8)), "0x8")
    refuses(torch.zeros(3, 8, 3), "may be")
    refuses(torch.zeros(2, 8, 8), r"\(2, 8, 8\)")


def test_floats_may_overstep_by_rounding() -> None:
    np.testing.assert_array_equal(read_image(np.array([[-1e-6, 1 + 1e-6]]))[0, :, 0], [0, 255])


# Manners


def test_formats_that_pillow_loads_late_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.fromarray(picture()), "WEBP", lossless=True)
    late = dict(Image.OPEN)
    monkeypatch.setattr(Image, "OPEN", {"PNG": late["PNG"]})  # as in a fresh process
    monkeypatch.setattr(Image, "init", lambda: Image.OPEN.update(late))
    np.testing.assert_array_equal(read_image(data), picture())


def test_pillow_warnings_stay_inside_from_many_threads() -> None:
    """Each of these makes Pillow warn; under pytest a warning that gets out is an error."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\x12\x01\x03\0\x01\0\0\0"  # cut off: "Corrupt EXIF data"
    data = encode(Image.fromarray(picture(30, 30)), "JPEG", exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).getexif()
    assert caught, "the premise: this picture makes Pillow warn"
    before = list(warnings.filters)
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(30):
                read_image(data)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert warnings.filters == before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.gif", tmp_path / "b.jpg"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    good.write_bytes(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    bad.write_bytes(encode(Image.fromarray(picture(40, 40)), "JPEG")[:500])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    read_image(good)
    with pytest.raises(ValueError, match="damaged"):
        read_image(bad)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# Into the network


@pytest.mark.parametrize("case", ["default", "l14like"])
def test_the_demo_prepares_what_the_official_model_was_fed(shared: Path, case: str) -> None:
    with np.load(shared / "golden" / case / "io.npz") as golden:
        image0, resized0, padded_input = golden["image0"], golden["image0_resized"], golden["padded_input"]
        image1, resized1 = golden["image1"], golden["image1_resized"]
    np.testing.assert_array_equal(resize(image0, 150, 2560, "demo"), resized0)
    np.testing.assert_array_equal(resize(image1, 140, 2560, "demo"), resized1)  # upright
    padded, geometry = prepare(image0, SMALL, "demo")
    np.testing.assert_allclose(padded[None].numpy(), padded_input, atol=1e-6)
    assert geometry == Geometry(original=(131, 187), content=(150, 214), padded=(160, 224))


@pytest.mark.parametrize(
    ("original", "evaluation", "demo"),
    [
        ((480, 640), (640, 853), (640, 853)),
        ((640, 480), (853, 640), (853, 640)),
        ((427, 640), (640, 959), (640, 959)),
        ((500, 333), (961, 640), (960, 640)),  # 960.96: rounded, or cut
        ((640, 640), (640, 640), (640, 640)),
        ((300, 1500), (512, 2560), (512, 2560)),  # the cap wins
        ((301, 1500), (514, 2560), (513, 2560)),  # 513.7
        ((1, 5000), (1, 2560), (1, 2560)),
        ((9000, 1), (2560, 1), (2560, 1)),  # never 0
        ((1, 1), (640, 640), (640, 640)),
    ],
)
def test_sizes_of_both_ways(
    original: tuple[int, int], evaluation: tuple[int, int], demo: tuple[int, int]
) -> None:
    image = np.zeros((*original, 3), np.uint8)
    assert resize(image, 640, 2560).shape[:2] == evaluation
    assert resize(image, 640, 2560, "demo").shape[:2] == demo


def test_the_ways_interpolate_as_they_say() -> None:
    image = picture(20, 30)
    pil = Image.fromarray(image)
    bilinear = np.array(pil.resize((60, 40), Image.Resampling.BILINEAR))
    bicubic = np.array(pil.resize((60, 40), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(image, 40, 999), bilinear)
    np.testing.assert_array_equal(resize(image, 40, 999, "demo"), bicubic)
    with pytest.raises(ValueError, match="'lanczos': choose from evaluation, demo"):
        resize(image, 40, 999, "lanczos")


def test_prepare_normalises_then_pads_right_and_below_with_zeros() -> None:
    image = picture(50, 70)
    config = replace(SMALL, short_side=50)
    padded, geometry = prepare(image, config)
    assert geometry == Geometry((50, 70), (50, 70), (64, 96))
    assert padded.dtype == torch.float32
    assert padded.shape == (3, 64, 96)
    wanted = (image / 255 - np.array(config.mean)) / np.array(config.std)
    np.testing.assert_allclose(padded[:, :50, :70].permute(1, 2, 0).numpy(), wanted, atol=1e-5)
    assert not padded[:, 50:].any()
    assert not padded[:, :, 70:].any()
    assert prepare(image, replace(config, divisor=48))[1].padded == (96, 96)


def test_thin_pictures_stay_small() -> None:
    padded, geometry = prepare(np.zeros((1, 5000, 3), np.uint8), SAN_VIT_B16)
    assert geometry == Geometry((1, 5000), (1, 2560), (32, 2560))
    assert padded.shape == (3, 32, 2560)


# Files


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "a.bin"
    write_bytes(target, b"one")
    assert target.read_bytes() == b"one"
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask(), "others may read it as any other file"

    def fails(self: Path, other: Path) -> Path:
        assert self.parent == other.parent, "a rename across disks is no rename"
        assert self.read_bytes() == b"two"
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(target, b"two")
    assert target.read_bytes() == b"one"
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_json_keeps_order_and_letters_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"z": "Straße", "a": [1, 2.5]})
    text = path.read_text(encoding="utf-8")
    assert list(json.loads(text)) == ["z", "a"]
    assert "Straße" in text
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert path.read_text(encoding="utf-8") == text


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colours = picture(256, 1)[:, 0]
    write_png(path, ids, colours)
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), ids)
    np.testing.assert_array_equal(read_image(path), colours[ids])
    deep = np.array([[0, 255, 256, 65534]], np.uint16)
    write_png(path, deep)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.array(image), deep)
    for rgb in (picture(), Image.fromarray(picture())):
        write_png(path, rgb)
        np.testing.assert_array_equal(read_image(path), picture())
    for height, width in ((1, 1), (1, 300), (300, 1)):
        path.write_bytes(encode_png(picture(height, width), text={"Software": "sanseg", "Ort": "Köln, 北京"}))
        np.testing.assert_array_equal(read_image(path), picture(height, width))
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert image.info == {"Software": "sanseg", "Ort": "Köln, 北京"}
            image.verify()
