"""What is painted is the library's own answer, from the first letter on; what is downloaded is its own file."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanseg import Segmentation
from sanseg.data.labelsets import read_labelset
from sanseg.formats import FORMATS
from sanseg.serve.answers import to_view
from sanseg.vocabulary import Vocabulary
from tests.serve.browser.conftest import Library
from tests.serve.browser.driver import EXAMPLES, Driver


def painted(segmentation: Segmentation) -> np.ndarray:
    """uint8 (H, W, 3): every pixel in the colour of its label."""
    return segmentation.colours[segmentation.label_map]


def is_painted(tab: Driver, segmentation: Segmentation) -> bool:
    pixels = tab.pixels()
    return bool((pixels[..., 3] == 255).all() and np.array_equal(pixels[..., :3], painted(segmentation)))


def test_every_key_repaints(tab: Driver, mini: Library) -> None:
    tab.open_photo("coffee.jpg")
    tab.exact()
    tab.watch_paints()
    encoded = mini.encode(EXAMPLES / "coffee.jpg")
    tab.page.focus("#word")
    for count, letter in enumerate("cup", start=1):
        tab.page.keyboard.press(letter)
        tab.settle()
        assert is_painted(tab, encoded.segment("cup"[:count]))
    assert tab.paints == ["c", "cu", "cup"]
    tab.page.keyboard.type(", table")
    tab.settle()
    assert tab.chips == ["cup"]
    assert is_painted(tab, encoded.segment("cup, table"))


def test_fast_typing_ends_with_the_last_words(tab: Driver, mini: Library) -> None:
    tab.open_photo("coffee.jpg")
    tab.exact()
    tab.type("wooden table, coffee cup | mug, not toy cup, spoon")
    encoded = mini.encode(EXAMPLES / "coffee.jpg")
    assert is_painted(tab, encoded.segment("wooden table, coffee cup | mug, not toy cup, spoon"))


def test_settings_ask_what_they_say(tab: Driver, mini: Library) -> None:
    tab.open_photo("cat.jpg")
    tab.enter("cat", "blanket")
    tab.exact()
    encoded = mini.encode(EXAMPLES / "cat.jpg")
    tab.page.uncheck("#other")
    tab.settle()
    assert is_painted(tab, encoded.segment("cat, blanket", None))
    tab.page.fill("#threshold", "90")
    tab.settle()
    words = mini.segmenter.resolve("cat, blanket", None).with_thresholds(0.9)
    assert is_painted(tab, encoded.segment(words, None))


def test_colours_eyes_opacity_and_outlines(tab: Driver, mini: Library) -> None:
    tab.open_photo("coffee.jpg")
    tab.enter("coffee", "table")
    tab.exact()
    ids = mini.encode(EXAMPLES / "coffee.jpg").segment("coffee, table").label_map
    tab.page.locator(".chip .colour").first.fill("#123456")
    assert (tab.pixels()[ids == 0][:, :3] == (0x12, 0x34, 0x56)).all()
    tab.type("spoon")
    words = replace(mini.segmenter.resolve("coffee, table, spoon"), colours=((0x12, 0x34, 0x56), None, None))
    assert is_painted(tab, mini.encode(EXAMPLES / "coffee.jpg").segment(words))
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("Escape")
    tab.settle()
    tab.page.get_by_role("button", name="Show table").click()
    pixels = tab.pixels()
    assert (pixels[ids == 1] == 0).all()
    assert (pixels[ids == 0][:, 3] == 255).all()
    tab.page.get_by_role("button", name="Show table").click()
    tab.page.fill("#opacity", "0")
    tab.page.check("#outline")
    edge = np.zeros(ids.shape, dtype=bool)
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edge[:-1] |= ids[:-1] != ids[1:]
    assert np.array_equal(tab.pixels()[..., 3] > 0, edge)


def test_pointer_tells_label_and_confidence(tab: Driver, mini: Library) -> None:
    tab.open_photo("coffee.jpg")
    tab.enter("coffee", "table")
    segmentation = mini.encode(EXAMPLES / "coffee.jpg").segment("coffee, table")
    box = tab.page.locator("#frame").bounding_box()
    assert box is not None
    height, width = segmentation.label_map.shape
    for x, y in [(0.5, 0.3), (0.9, 0.9), (0.02, 0.5)]:
        at_x, at_y = round(box["x"] + x * box["width"]), round(box["y"] + y * box["height"])
        tab.page.mouse.move(at_x, at_y)
        column = int((at_x - box["x"]) / box["width"] * width)
        row = int((at_y - box["y"]) / box["height"] * height)
        label = segmentation.names[int(segmentation.label_map[row, column])]
        sure = round(100 * round(float(segmentation.confidence[row, column]) * 255) / 255)
        assert tab.page.inner_text("#readout").split() == [label, str(sure), "%", "sure"]


def test_a_label_set(tab: Driver, mini: Library) -> None:
    tab.open_photo("cat.jpg")
    tab.exact()
    tab.enter("@context59")
    tab.page.wait_for_selector("#everything")
    tab.settle()
    assert len(tab.chips) == 59
    assert is_painted(tab, mini.encode(EXAMPLES / "cat.jpg").segment("@context59"))
    shown = tab.page.locator("#chips .chip:visible").count()
    assert 0 < shown < 25
    tab.page.click("#everything")
    assert tab.page.locator("#chips .chip:visible").count() == 59


def test_a_label_set_keeps_its_synonyms(tab: Driver) -> None:
    tab.open_photo("cat.jpg")
    tab.page.focus("#word")
    tab.page.keyboard.insert_text("@camvid")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#chips .chip:nth-child(11)", state="attached")
    assert tuple(tab.chips) == read_labelset("camvid")


def test_a_turned_photo(tab: Driver, mini: Library, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = tmp_path / "turned.jpg"
    Image.open(EXAMPLES / "coffee.jpg").save(photo, exif=exif)
    tab.open_photo(photo)
    tab.exact()
    tab.type("coffee")
    assert tab.pixels().shape == (600, 400, 4)
    assert is_painted(tab, mini.encode(photo).segment("coffee"))


def test_a_photo_that_the_browser_cannot_show(tab: Driver, mini: Library, tmp_path: Path) -> None:
    photo = tmp_path / "cat.tif"
    Image.open(EXAMPLES / "cat.jpg").save(photo)
    tab.open_photo(photo)
    tab.page.locator("#looks").evaluate("details => { details.open = true }")
    tab.page.uncheck("#outline")
    tab.type("cat")
    assert is_painted(tab, mini.encode(photo).segment("cat"))  # opaque, for there is nothing below


def test_a_large_photo_is_painted_from_a_smaller_copy(tab: Driver, mini: Library, tmp_path: Path) -> None:
    photo = tmp_path / "large.jpg"
    Image.open(EXAMPLES / "coffee.jpg").resize((1500, 1000)).save(photo)
    tab.open_photo(photo)
    tab.enter("coffee", "table")
    height, width = tab.pixels().shape[:2]
    assert height * width <= 1_001_000
    assert abs(width / height - 1.5) < 0.01
    tab.page.click("#download summary")
    with tab.page.expect_download() as download:
        tab.page.click("#formats [data-format='index']")
    whole = mini.encode(photo).segment(["coffee", "table"])
    with Image.open(download.value.path()) as index:
        assert np.array_equal(index, whole.label_map)  # of the photo itself
    tab.exact()
    painted_ids = Image.fromarray((tab.pixels()[..., :3] == whole.colours[0]).all(2)).resize((1500, 1000))
    assert (np.asarray(painted_ids) == (whole.label_map == 0)).mean() > 0.97


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_other_ways_in(tab: Driver, mini: Library, way: str) -> None:
    with tab.page.expect_response(lambda response: response.url.endswith("/v1/images")):
        tab.page.evaluate(
            """async (way) => {
              const blob = await (await fetch("static/samples/cat.jpg")).blob();
              const carried = new DataTransfer();
              carried.items.add(new File([blob], "cat.jpg", { type: "image/jpeg" }));
              const options = { bubbles: true, cancelable: true };
              document.body.dispatchEvent(way === "paste"
                ? new ClipboardEvent("paste", { ...options, clipboardData: carried })
                : new DragEvent("drop", { ...options, dataTransfer: carried }));
            }""",
            way,
        )
    tab.exact()
    tab.type("cat")
    assert is_painted(tab, mini.encode(EXAMPLES / "cat.jpg").segment("cat"))


def test_downloads_are_the_librarys_own_files(tab: Driver, mini: Library, tmp_path: Path) -> None:
    tab.open_photo("coffee.jpg")
    tab.enter("coffee", "table", "spoon | teaspoon")
    tab.page.click("#download summary")
    buttons = tab.page.locator("#formats button")
    names = [button.get_attribute("data-format") for button in buttons.all()]
    assert names == [*FORMATS]  # the extra formats is installed here
    words = ["coffee", "table", "spoon | teaspoon"]
    segmentation = mini.encode(EXAMPLES / "coffee.jpg").segment(words, proposals=True)
    segmentation.save(tmp_path, "coffee", [*FORMATS], picture="coffee.jpg")
    for name in names:
        with tab.page.expect_download() as download:
            tab.page.click(f"#formats [data-format='{name}']")
        got = Path(download.value.path()).read_bytes()
        expected = tmp_path / f"coffee{FORMATS[name].ending}"
        if name == "masks":
            with zipfile.ZipFile(io.BytesIO(got)) as archive:
                files = {Path(one).name: archive.read(one) for one in archive.namelist()}
            assert files == {one.name: one.read_bytes() for one in expected.iterdir()}
        elif name == "json":  # the service's says more
            told = json.loads(got)
            for region in told["regions"]:
                del region["rle"]
            assert told == segmentation.to_dict()
        else:
            assert download.value.suggested_filename == expected.name
            assert got == expected.read_bytes(), name


def test_wide_ids(tab: Driver) -> None:
    """More than 254 labels have ids of two bytes."""
    ids = np.array([[0, 300, 65534], [300, 300, 7]], dtype=np.uint16)
    words = Vocabulary.of([f"label {number}" for number in range(301)])
    sure = np.full(ids.shape, 0.5, dtype=np.float32)
    segmentation = Segmentation(ids, sure, words, "none", "none")
    shown = tab.page.evaluate(
        """async (bytes) => {
          const { at, paint, readView } = await import("./static/view.js");
          const view = readView(Uint8Array.from(bytes).buffer);
          const colours = new Map(Object.entries(view.facts.colours).map(([id, one]) => [Number(id), one]));
          const canvas = document.createElement("canvas");
          paint(canvas, view, { colours, hidden: new Set(), opacity: 1, spotlight: null, outline: 0 });
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return { pixels: [...data], at: at(view, 2, 0) };
        }""",
        [*to_view(segmentation)],
    )
    assert np.array_equal(np.reshape(shown["pixels"], (2, 3, 4))[..., :3], painted(segmentation))
    assert shown["at"] == {"id": 65534, "confidence": 128 / 255}
