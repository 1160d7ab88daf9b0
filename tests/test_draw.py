"""draw.py: colours that differ, and overlays that show what they should at any size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sanseg import draw
from sanseg.draw import MAX_LEGEND, OTHER_COLOUR, UNKNOWN_COLOUR, colour_table, overlay, palette

WHITE = (255, 255, 255)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


def stripes(height: int, width: int, labels: int) -> np.ndarray:
    """Labels 0, 1, ... from left to right, the first ones wider."""
    return np.floor(labels * (np.arange(width) / width) ** 1.5).astype(np.uint8)[None].repeat(height, axis=0)


def perceived(colours: np.ndarray) -> np.ndarray:
    return draw._oklab(colours.astype(np.int64))


@pytest.mark.parametrize("labels", [0, 1, 8, 847, 2_000, 65_534])
def test_palette_colours_are_distinct_and_never_those_of_other_or_unknown(labels: int) -> None:
    colours = {tuple(colour) for colour in palette(labels).tolist()}
    assert len(colours) == labels
    assert not colours & {OTHER_COLOUR, UNKNOWN_COLOUR}


def test_the_first_colours_differ_to_the_eye() -> None:
    for labels, apart in ((8, 0.2), (20, 0.12), (150, 0.04)):
        lab = perceived(np.array([*palette(labels).tolist(), OTHER_COLOUR]))
        distance = np.linalg.norm(lab[:, None] - lab, axis=-1) + np.eye(labels + 1)
        assert distance.min() > apart
    lightness, a, b = perceived(palette(300)).T
    assert lightness.min() > 0.4
    assert lightness.max() < 0.9  # text and borders stay visible
    assert np.hypot(a, b).min() > 0.05  # nothing is grey: that is other


def test_oklab_is_oklab() -> None:
    lab = perceived(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [20, 20, 20]]))
    wanted = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.62796, 0.22486, 0.12585], [0.19125, 0.0, 0.0]]
    np.testing.assert_allclose(lab, wanted, atol=1e-4)


def test_more_labels_keep_the_first_colours() -> None:
    for fewer, more in ((5, 9), (254, 847), (1_500, 5_000)):
        np.testing.assert_array_equal(palette(fewer), palette(more)[:fewer])


def test_the_table_has_a_colour_for_every_id() -> None:
    for labels, size, other in ((3, 256, 254), (254, 256, 254), (255, 65_536, 65_534)):
        table = colour_table(labels)
        assert table.shape == (size, 3)
        assert table.dtype == np.uint8
        np.testing.assert_array_equal(table[:labels], palette(labels))
        assert tuple(table[other]) == OTHER_COLOUR
        assert tuple(table[size - 1]) == UNKNOWN_COLOUR


def test_overlay_blends_the_picture_with_the_colours() -> None:
    label_map = stripes(40, 60, 2)
    label_map[:, 50:] = 254
    colours = colour_table(2)[label_map].astype(float)
    inside = np.ones(label_map.shape, bool)
    inside[:, :-1] &= label_map[:, :-1] == label_map[:, 1:]
    for opacity in (0.0, 0.3, 1.0):
        painted = np.array(overlay(grey(40, 60), label_map, ["a", "b"], opacity=opacity, legend=False))
        assert painted.shape == (40, 60, 3)
        wanted = 100 * (1 - opacity) + colours * opacity
        np.testing.assert_allclose(painted[inside], wanted[inside], atol=1.01)
        np.testing.assert_array_equal(painted[~inside], np.full((2 * 40, 3), 255))


def test_borders_lie_between_regions_and_stay_thin() -> None:
    for side in (8, 100, 1500):
        label_map = np.zeros((side, side), np.uint8)
        label_map[side // 2 :, : side // 2] = 1
        painted = np.array(overlay(grey(side, side), label_map, ["a", "b"], legend=False))
        border = (painted == 255).all(axis=-1)
        assert border[side // 2 - 1, : side // 2].all()
        assert not border[: side // 2 - 1].any()
        thickness = int(border[:, 0].sum())
        assert thickness == border[-1].sum() == max(1, round(side / 700))
    assert not (np.array(overlay(grey(9, 9), np.zeros((9, 9), np.uint8), ["a"], legend=False)) == 255).any()


def legend_colours(picture: Image.Image, top: int) -> list[tuple[int, ...]]:
    """The colours of the swatches below row `top`, column by column: what runs down ten pixels unbroken."""
    columns = np.array(picture)[top:].transpose(1, 0, 2)
    runs = np.lib.stride_tricks.sliding_window_view(columns, 10, axis=1)
    swatches = columns[:, : runs.shape[1]][(runs == runs[..., :1]).all(axis=(2, 3))]
    return [
        colour
        for colour in dict.fromkeys(map(tuple, swatches.tolist()))
        if min(colour) < max(colour) or colour == OTHER_COLOUR
    ]


def test_the_legend_names_what_occurs_the_largest_first() -> None:
    label_map = stripes(200, 300, 3)
    label_map[label_map == 1] = 254
    picture = overlay(grey(200, 300), label_map, ["a", "b", "c", "d"])
    table = colour_table(4)
    assert legend_colours(picture, 200) == [tuple(table[id_].tolist()) for id_ in (0, 254, 2)]
    assert picture.width == 300
    np.testing.assert_array_equal(
        np.array(picture)[:200], np.array(overlay(grey(200, 300), label_map, ["a", "b", "c"], legend=False))
    )


def test_long_legends_wrap_into_columns_and_are_cut() -> None:
    label_map = stripes(300, 800, 60)
    names = [f"label {number}" for number in range(60)]
    picture = overlay(grey(300, 800), label_map, names)
    assert len(legend_colours(picture, 300)) == MAX_LEGEND
    narrow = overlay(np.ascontiguousarray(grey(300, 800)[:, :120]), stripes(300, 120, 60), names)
    assert len(lines_of_text(narrow, 300)) == MAX_LEGEND + 1, "one line counts the rest"
    assert narrow.height > picture.height, "fewer columns are higher"
    few = overlay(grey(300, 800), stripes(300, 800, 4), names)
    assert few.height < picture.height


def legend_ink(picture: Image.Image, top: int) -> np.ndarray:
    """The legend's dark pixels, which are text."""
    below: np.ndarray = np.array(picture)[top:]
    dark: np.ndarray = below.max(axis=-1) < 80
    return dark


def lines_of_text(picture: Image.Image, top: int) -> list[int]:
    """The height of each line of the legend."""
    inked = np.r_[False, legend_ink(picture, top).any(axis=1), False]
    return [int(height) for height in np.diff(np.flatnonzero(np.diff(inked)))[::2]]


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (8, 8), (1, 5000), (5000, 1), (480, 640), (1800, 2400)]
)
def test_overlays_are_legible_at_any_size(height: int, width: int) -> None:
    label_map = stripes(height, width, 3)
    picture = overlay(grey(height, width), label_map, ["cat", "dog", "sky"])
    assert picture.mode == "RGB"
    assert picture.width >= width
    assert picture.height > height
    text_height = max(lines_of_text(picture, height))
    assert text_height >= 8
    assert text_height >= (height * width) ** 0.5 / 60  # as large on the desk as the picture is
    assert not legend_ink(picture, height)[:, -1].any(), "the text reaches the edge"


def test_names_in_any_script_are_drawn() -> None:
    label_map = np.zeros((50, 80), np.uint8)
    drawn = {}
    for name in (
        "cafe",
        "café",
        "猫",
        "Straße",
        "مرحبا",
        "🐈",
        "\ud800",
        "a" * 300,
        "[red]",
        "a\0b",
        "½ cup",
    ):
        picture = overlay(grey(50, 80), label_map, [name])
        assert legend_ink(picture, 50).any()
        assert picture.width < 1000
        drawn[name] = picture.tobytes()
    assert drawn["cafe"] == drawn["café"]
    assert drawn["猫"] == drawn["🐈"] == overlay(grey(50, 80), label_map, ["label 0"]).tobytes()
    assert drawn["Straße"] != drawn["猫"]


def test_the_legend_calls_other_by_its_name() -> None:
    label_map = np.full((50, 80), 254, np.uint8)
    assert overlay(grey(50, 80), label_map, ["a"], "rest").tobytes() == (
        overlay(grey(50, 80), label_map, ["b"], "rest").tobytes()
    )
    assert overlay(grey(50, 80), label_map, ["a"], "rest") != overlay(grey(50, 80), label_map, ["a"])


def test_shares_are_written_for_people() -> None:
    assert [draw.percent(share) for share in (1.0, 0.1234, 0.0006, 0.0004)] == [
        "100.0 %",
        "12.3 %",
        "0.1 %",
        "< 0.1 %",
    ]


def test_the_picture_and_the_map_are_left_alone() -> None:
    image, label_map = grey(50, 80), stripes(50, 80, 3)
    overlay(image, label_map, ["a", "b", "c"])
    np.testing.assert_array_equal(image, grey(50, 80))
    np.testing.assert_array_equal(label_map, stripes(50, 80, 3))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="picture is 8x9, the label map 9x9: pass the picture it belongs to"):
        overlay(grey(9, 8), np.zeros((9, 9), np.uint8), ["a"])
    for opacity in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"opacity is .*: choose"):
            overlay(grey(9, 9), np.zeros((9, 9), np.uint8), ["a"], opacity=opacity)


def solid(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = colour
    return picture


def where(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels of this colour."""
    rows, columns = np.nonzero((np.array(sheet) == colour).all(axis=-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_a_contact_sheet_shows_each_picture_whole_in_its_cell() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
    sizes = [(50, 100), (100, 50), (700, 700), (1, 5000), (3, 3)]
    tiles = [(solid(*size, colour), "") for size, colour in zip(sizes, colours, strict=True)]
    sheet = draw.contact_sheet(tiles, columns=2, side=100)
    boxes = [where(sheet, colour) for colour in colours]
    assert [(right - left, bottom - top) for left, top, right, bottom in boxes] == [
        (100, 50),
        (50, 100),
        (100, 100),
        (100, 1),
        (100, 100),
    ]
    centres = [(left + right) // 2 for left, _, right, _ in boxes]
    assert centres[0] == centres[2] == centres[4] < centres[1] == centres[3], "row by row, in two columns"
    bottoms = [box[3] for box in boxes]
    assert bottoms[0] == bottoms[1] < bottoms[2] == bottoms[3] < bottoms[4]
    edge = np.array(sheet)
    edge[4:-4, 4:-4] = 255
    assert (edge == 255).all(), "nothing touches the edge of the page"


def test_a_contact_sheet_is_no_wider_than_its_pictures() -> None:
    one = draw.contact_sheet([(grey(9, 9), "a")], columns=4, side=60)
    assert one.width < 2 * 60
    assert draw.contact_sheet([(grey(9, 9), "a")] * 9, columns=4, side=60).width > 4 * 60


def test_captions_stand_under_their_pictures_and_stay_in_their_cells() -> None:
    tiles = [(solid(40, 40, (200, 0, 0)), "W" * 500), (solid(40, 40, (0, 200, 0)), "i")]
    sheet = draw.contact_sheet(tiles, side=100)
    dark = np.array(sheet).max(axis=-1) < 80
    for colour, room in (((200, 0, 0), slice(0, 105)), ((0, 200, 0), slice(105, None))):
        left, _, right, bottom = where(sheet, colour)
        columns = np.flatnonzero(dark[:, room].any(axis=0)) + (room.start or 0)
        assert dark[bottom:, room].any()
        assert not dark[:bottom, room].any()
        assert columns.min() >= left
        assert columns.max() < right


def test_captions_keep_both_ends_and_are_always_readable() -> None:
    def drawn(text: str) -> bytes:
        return draw.contact_sheet([(grey(9, 9), text)], side=120).tobytes()

    long = "a-folder/another-folder/and-a-name"
    assert drawn(f"{long}.jpg  12 %") != drawn(f"{long}.jpg  13 %")
    assert drawn(f"1{long}.jpg") != drawn(f"2{long}.jpg")
    assert drawn("café\nau lait") == drawn("cafe au lait")
    assert drawn("猫") == drawn("\ud800") == drawn("picture 1")
    assert drawn("") != drawn("picture 1"), "no caption is no caption"
    assert drawn("x" * 1_000_000 + "1") != drawn("x" * 1_000_000 + "2")
    drawn("a\0b\x1b[31m")


def test_a_contact_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture for the contact sheet: pass at least one"):
        draw.contact_sheet([])
    for arguments in ({"columns": 0}, {"side": 4}):
        with pytest.raises(ValueError, match="wanted at least 1, of at least 16"):
            draw.contact_sheet([(grey(9, 9), "a")], **arguments)


def test_a_triptych_shows_the_photo_its_truth_and_its_prediction() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (200, 300, 3), dtype=np.uint8)
    truth, prediction = stripes(200, 300, 3), stripes(200, 300, 2)
    picture = draw.triptych(image, truth, prediction, ["a", "b", "c"])
    assert picture.width == 3 * 300 + 2 * 8
    pixels = np.array(picture)[:200]
    np.testing.assert_array_equal(pixels[:, :300], image)
    for left, label_map in ((308, truth), (616, prediction)):
        wanted = overlay(image, label_map, ["a", "b", "c"], legend=False)
        np.testing.assert_array_equal(pixels[:, left : left + 300], np.array(wanted))
    table = colour_table(3)
    assert legend_colours(picture, 200) == [tuple(table[id_].tolist()) for id_ in (0, 1, 2)], (
        "the largest first"
    )


def test_a_triptych_is_scaled_down_and_never_up() -> None:
    for height, width, shown in (
        (1000, 2000, (50, 100)),
        (2000, 1000, (100, 50)),
        (30, 40, (30, 40)),
        (5000, 1, (100, 1)),
    ):
        label_map = stripes(height, width, 2)
        picture = draw.triptych(grey(height, width), label_map, label_map, ["a", "b"], side=100)
        assert picture.height > shown[0]
        assert (np.array(picture)[: shown[0], : shown[1]] == 100).all()
        right = np.array(picture)[: shown[0], 2 * (shown[1] + 8) : 3 * shown[1] + 16]
        colours = colour_table(2)[label_map[0, [0, -1]]]
        for column, colour in ((0, colours[0]), (-1, colours[1])):
            np.testing.assert_allclose(right[0, column], 50 + colour / 2, atol=1.01)


def test_a_triptych_names_what_matters_most() -> None:
    label_map = stripes(100, 100, 60)
    names = [f"label {number}" for number in range(60)]
    picture = draw.triptych(grey(100, 100), label_map, label_map[:, ::-1], names, most=5)
    table = colour_table(60)
    assert legend_colours(picture, 100) == [tuple(table[id_].tolist()) for id_ in range(5)]
    assert len(lines_of_text(draw.triptych(grey(100, 100), label_map, label_map, names, most=5), 100)) == 6
    unknown = np.full((100, 100), 255, np.uint8)
    other = np.full((100, 100), 254, np.uint8)
    picture = draw.triptych(grey(100, 100), unknown, other, names)
    assert legend_colours(picture, 100) == [OTHER_COLOUR], "and black, for unknown, is no colour of a label"
    assert legend_ink(picture, 100).any()


def test_a_triptych_needs_maps_of_its_picture() -> None:
    fits, wide = np.zeros((9, 8), np.uint8), np.zeros((9, 9), np.uint8)
    for truth, prediction in ((wide, fits), (fits, wide)):
        with pytest.raises(
            ValueError, match="picture is 8x9, the label map 9x9: pass the picture it belongs to"
        ):
            draw.triptych(grey(9, 8), truth, prediction, ["a"])


def test_a_heading_is_a_strip_of_its_width() -> None:
    strip = draw.heading("words", 300)
    assert strip.width == 300
    assert (np.array(strip) < 80).any()
    long = np.array(draw.heading("word " * 1_000, 300))
    assert (long[:, -20:] == 255).all()
