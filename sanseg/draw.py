"""Label maps made visible: colours, and a picture painted with its labels and their legend."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sanseg.vocabulary import Colour, other_id

OTHER_COLOUR = (128, 128, 128)  # neutral grey: no label has a colour near it
UNKNOWN_COLOUR = (0, 0, 0)  # ids that name nothing
MAX_LEGEND = 24  # labels in a legend, the largest first; one more line counts the rest
MAX_NAME = 40  # characters of a name in a legend

LabelMap = NDArray[np.uint8] | NDArray[np.uint16]


def palette(labels: int) -> NDArray[np.uint8]:
    """Distinct colours for this many labels: uint8 (labels, 3), RGB.

    Each is as far as can be, in OKLab, from those before it and from OTHER_COLOUR, so the first few differ
    most, and more labels leave the colours of the first as they are.
    """
    assert 0 <= labels < 2**16, labels
    return np.array(_colours(labels), dtype=np.uint8).reshape(labels, 3)


@lru_cache(maxsize=8)
def _colours(labels: int) -> tuple[tuple[int, int, int], ...]:
    steps = np.arange(0, 256, 17)
    lattice = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    oklab = _oklab(lattice)
    lightness, chroma = oklab[:, 0], np.hypot(oklab[:, 1], oklab[:, 2])
    decent = (
        (lightness > 0.45) & (lightness < 0.84) & (chroma > 0.07) & (chroma < 0.25)
    )  # not dark, pale, neon
    lattice, oklab = lattice[decent], oklab[decent]
    chosen = []
    distance = ((oklab - _oklab(np.array([OTHER_COLOUR]))) ** 2).sum(axis=1)
    for _ in range(min(labels, len(lattice))):
        farthest = int(distance.argmax())
        chosen.append(farthest)
        distance = np.minimum(distance, ((oklab - oklab[farthest]) ** 2).sum(axis=1))
    colours = [tuple(colour) for colour in lattice[chosen].tolist()]
    if labels > len(colours):
        # Beyond some two thousand the eye is lost anyway: any colours that are not taken. An odd factor
        # permutes the 2**24 colours.
        taken = {*colours, OTHER_COLOUR, UNKNOWN_COLOUR}
        numbers = np.arange(labels + len(taken)) * 0x9E3779B1 % 2**24
        rest = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1)
        colours += [colour for colour in map(tuple, rest.tolist()) if colour not in taken]
    return tuple(colours[:labels])


def _oklab(rgb: NDArray[np.int64]) -> NDArray[np.float64]:
    """sRGB 0..255 (N, 3) to OKLab (B. Ottosson, 2020), in which distances are as the eye sees them."""
    linear = np.where(rgb <= 10, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    opponents = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    result: NDArray[np.float64] = np.cbrt(linear @ cones.T) @ opponents.T
    return result


def colour_table(labels: int, own: Sequence[Colour | None] = ()) -> NDArray[np.uint8]:
    """The colour of every id a label map may hold: uint8 (256, 3) for at most 254 labels, else (65536, 3).

    own: for each label its colour where it has one, in place of that of `palette`; () for none.
    """
    other = other_id(labels)
    table = np.empty((other + 2, 3), dtype=np.uint8)
    table[:] = UNKNOWN_COLOUR
    table[:labels] = palette(labels)
    for id_, colour in enumerate(own):
        if colour is not None:
            table[id_] = colour
    table[other] = OTHER_COLOUR
    return table


def overlay(
    image: NDArray[np.uint8],
    label_map: LabelMap,
    labels: Sequence[str],
    other: str = "other",
    *,
    opacity: float = 0.5,
    legend: bool = True,
    colours: Sequence[Colour | None] = (),
) -> Image.Image:
    """The picture painted with the colours of its labels, white lines between regions, the legend below.

    image: uint8 (H, W, 3), RGB. label_map: (H, W), ids of these labels and `other_id`. other: what the legend
    calls that id. opacity: of the colours, 0..1. colours: as `colour_table` takes them.
    The legend names the labels that occur, the largest first, at most MAX_LEGEND, in as many columns as the
    picture has room for; a picture narrower than one column gets white beside it. Its font is Latin without
    accents: "é" is written "e", and a name in another script "label 3", by its id.

    Raises ValueError where picture and label map differ in size, and for an opacity outside 0..1.
    """
    if image.shape[:2] != label_map.shape:
        height, width = label_map.shape
        raise ValueError(
            f"the picture is {image.shape[1]}x{image.shape[0]}, the label map {width}x{height}: "
            "pass the picture it belongs to"
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}: choose one from 0 (the picture) to 1 (the colours)")
    table = colour_table(len(labels), colours)
    painted = Image.blend(Image.fromarray(image), Image.fromarray(table.take(label_map, axis=0)), opacity)
    scale = (painted.width * painted.height) ** 0.5
    borders = Image.fromarray(_borders(label_map, max(1, round(scale / 700))))
    painted.paste((255, 255, 255), mask=borders)
    if not legend:
        return painted
    counts = np.bincount(label_map.ravel(), minlength=len(table))
    names = dict(enumerate(labels)) | {other_id(len(labels)): other}
    entries = []
    for id_ in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist():
        text = f"{_legible(names.get(id_, 'unknown'), id_)}  {percent(counts[id_] / label_map.size)}"
        entries.append((tuple(table[id_].tolist()), text))
    return _with_legend(painted, entries, font_size=max(14, round(scale / 40)))


def percent(share: float) -> str:
    """0.123 to "12.3 %"; what would look like nothing is "< 0.1 %"."""
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def _legible(name: str, id_: int) -> str:
    """The name in what the font can write, at most MAX_NAME characters."""
    letters = [letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter)]
    text = "".join(letters).encode("ascii", "replace").decode()
    if not any(letter.isalnum() for letter in text):
        return f"label {id_}"
    return text if len(text) <= MAX_NAME else text[: MAX_NAME - 3] + "..."


def _borders(label_map: LabelMap, thickness: int) -> NDArray[np.bool_]:
    """True (H, W) where the label differs from the one to the right or below, grown to so many pixels."""
    edge = np.zeros(label_map.shape, dtype=np.bool_)
    edge[:, :-1] = label_map[:, :-1] != label_map[:, 1:]
    edge[:-1] |= label_map[:-1] != label_map[1:]
    grown = edge.copy()
    for step in range(1, thickness):
        grown[step:] |= edge[:-step]
        grown[:, step:] |= edge[:, :-step]
    return grown


def _with_legend(
    picture: Image.Image, entries: Sequence[tuple[tuple[int, ...], str]], font_size: int
) -> Image.Image:
    """The picture with these (colour, text) below it on white, columns filled from top to bottom."""
    font = ImageFont.load_default(font_size)
    gap = font_size // 2
    rows_wanted = [(colour, text) for colour, text in entries[:MAX_LEGEND]]
    if len(entries) > MAX_LEGEND:
        rows_wanted.append(((255, 255, 255), f"and {len(entries) - MAX_LEGEND} more"))
    text_width = max(int(font.getlength(text)) + 1 for _, text in rows_wanted)
    column_width, row_height = gap + font_size + gap + text_width + gap, round(font_size * 1.5)
    columns = min(len(rows_wanted), max(1, picture.width // column_width))
    rows = -(-len(rows_wanted) // columns)
    size = (max(picture.width, columns * column_width), picture.height + rows * row_height + 2 * gap)
    canvas = Image.new("RGB", size, (255, 255, 255))
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for number, (colour, text) in enumerate(rows_wanted):
        left = number // rows * column_width + gap
        top = picture.height + gap + number % rows * row_height
        draw.rectangle(
            (left, top + row_height // 6, left + font_size, top + row_height // 6 + font_size), fill=colour
        )
        draw.text(
            (left + font_size + gap, top + row_height // 2), text, fill=(0, 0, 0), font=font, anchor="lm"
        )
    return canvas


def contact_sheet(
    tiles: Sequence[tuple[NDArray[np.uint8], str]], *, columns: int = 4, side: int = 240
) -> Image.Image:
    """Many pictures on one white page, row by row, each with a line of text under it.

    tiles: pictures, uint8 (H, W, 3), RGB, with their captions. Each is scaled, up or down, to fit side x side
    pixels and keeps its aspect. A caption too wide for that loses its middle; its font is the legend's
    (`overlay`), and a caption without any letter or digit in it becomes "picture 3", counted from 1.

    Raises ValueError without tiles, for less than one column, and for a side below 16.
    """
    if not tiles:
        raise ValueError("there is no picture for the contact sheet: pass at least one")
    if columns < 1 or side < 16:
        raise ValueError(f"a sheet of {columns} columns of {side} pixels: wanted at least 1, of at least 16")
    font = ImageFont.load_default(max(11, side // 17))
    gap, line = max(4, side // 20), round(max(11, side // 17) * 1.6)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    size = (gap + columns * (side + gap), gap + rows * (side + line + gap))
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, (picture, text) in enumerate(tiles):
        assert picture.dtype == np.uint8, picture.dtype
        assert picture.ndim == 3, picture.shape
        row, column = divmod(number, columns)
        left, top = gap + column * (side + gap), gap + row * (side + line + gap)
        scale = side / max(picture.shape[:2])
        fitted = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        tile = Image.fromarray(picture).resize(fitted, resample)
        # Captions stand right under their pictures, so pictures rest on the floor of their cells.
        sheet.paste(tile, (left + (side - fitted[0]) // 2, top + side - fitted[1]))
        caption = _caption(text, number, font, side)
        draw.text((left + side // 2, top + side + line // 2), caption, fill=(0, 0, 0), font=font, anchor="mm")
    return sheet


def _caption(text: str, number: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text in what the font can write, its middle cut out until it is at most so wide."""
    text = " ".join((text if len(text) <= 400 else text[:200] + text[-200:]).split())
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    text = "".join(letters).encode("ascii", "replace").decode()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if not any(letter.isalnum() for letter in text):
        return f"picture {number + 1}" if text else ""
    shown, kept = text, len(text)
    while font.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"
    return shown


def triptych(
    image: NDArray[np.uint8],
    truth: LabelMap,
    prediction: LabelMap,
    labels: Sequence[str],
    *,
    side: int = 480,
    most: int = 12,
) -> Image.Image:
    """A picture, what it shows, and what was predicted, beside each other, with one legend below.

    image: uint8 (H, W, 3), RGB. truth, prediction: (H, W), ids of these labels. side: what the longer side of
    each of the three is scaled down to, in pixels; a smaller picture stays as it is.
    most: labels in the legend, the largest first, each with its share of the truth and of the prediction.

    Raises ValueError where picture and maps differ in size.
    """
    height, width = image.shape[:2]
    parts, table = [], colour_table(len(labels))
    shares = np.zeros((2, len(table)))
    for number, label_map in enumerate((truth, prediction)):
        if label_map.shape != (height, width):
            raise ValueError(
                f"the picture is {width}x{height}, the label map {label_map.shape[1]}x{label_map.shape[0]}:"
                " pass the picture it belongs to"
            )
        shares[number] = np.bincount(label_map.ravel(), minlength=len(table)) / label_map.size
        photo, small_map = shrink(image, label_map, side)
        parts.append(overlay(photo, small_map, labels, legend=False))
    parts.insert(0, Image.fromarray(photo))
    gap, (w, h) = 8, parts[0].size
    sheet = Image.new("RGB", (3 * w + 2 * gap, h), (255, 255, 255))
    for number, part in enumerate(parts):
        sheet.paste(part, (number * (w + gap), 0))

    names = dict(enumerate(labels)) | {other_id(len(labels)): "other"}
    order = np.argsort(-shares.max(axis=0), kind="stable")[: np.count_nonzero(shares.max(axis=0))].tolist()
    entries = [
        (
            tuple(table[id_].tolist()),
            f"{_legible(names.get(id_, 'unknown'), id_)}  "
            + " / ".join(percent(share) if share else "0" for share in shares[:, id_]),
        )
        for id_ in order[:most]
    ]
    if len(order) > most:
        entries.append(((255, 255, 255), f"and {len(order) - most} more"))
    return _with_legend(sheet, entries, font_size=14)


def shrink(image: NDArray[np.uint8], label_map: LabelMap, side: int) -> tuple[NDArray[np.uint8], LabelMap]:
    """A picture and its label map, the longer side at most so many pixels; smaller ones stay as they are.

    image: uint8 (H, W, 3), RGB, smoothed. label_map: (H, W), the label nearest to each pixel.
    """
    height, width = label_map.shape
    scale = side / max(height, width)
    if scale >= 1:
        return image, label_map
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    nearest = np.ix_(
        *(((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in ((h, height), (w, width)))
    )
    smooth = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
    return np.asarray(smooth), label_map[nearest]


def heading(text: str, width: int, *, size: int = 22) -> Image.Image:
    """A line of text at the left of a white strip so many pixels wide. size: of the font, in pixels.

    Text too wide loses its middle; the font is the legend's (`overlay`).
    """
    font = ImageFont.load_default(size)
    strip = Image.new("RGB", (width, 2 * size), (255, 255, 255))
    caption = _caption(text, 0, font, width - 2 * size)
    ImageDraw.Draw(strip).text((size, size), caption, fill=(0, 0, 0), font=font, anchor="lm")
    return strip
