"""segmentation.py: what is asked of a result agrees with its maps, and what is saved can be read back."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from sanseg import draw
from sanseg.images import read_image
from sanseg.segmentation import Segmentation
from sanseg.version import VERSION
from sanseg.vocabulary import Vocabulary

WORDS = Vocabulary((("cat", "kitty"), ("sofa",), ("sky",)), other=("grass", "wall"))


def result(vocabulary: Vocabulary = WORDS, height: int = 20, width: int = 30) -> Segmentation:
    """cat on 1/2, other on 1/3, sofa on 1/6, confident by 0.5, 0.25 and 1."""
    other = 254 if len(vocabulary.names) <= 254 else 65_534
    label_map = np.zeros((height, width), np.uint8 if other == 254 else np.uint16)
    label_map[:, width // 2 : width * 5 // 6] = other
    label_map[:, width * 5 // 6 :] = 1
    confidence = np.select([label_map == 0, label_map == other], [0.5, 0.25], 1.0).astype(np.float32)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Segmentation(label_map, confidence, vocabulary, model="mini", templates="plain", image=image)


def many() -> Vocabulary:
    return Vocabulary(tuple((f"label {number}",) for number in range(300)))


def test_areas_cover_the_picture() -> None:
    areas = result().areas()
    assert list(areas) == ["cat", "sofa", "sky", "other"]
    assert areas == pytest.approx({"cat": 1 / 2, "sofa": 1 / 6, "sky": 0, "other": 1 / 3})
    assert sum(result(many()).areas().values()) == pytest.approx(1)


def test_confidence_is_averaged_over_the_label_that_it_belongs_to() -> None:
    seg = result()
    assert seg.mean_confidence() == {"cat": 0.5, "other": 0.25, "sofa": 1.0}
    for label, mean in seg.mean_confidence().items():
        assert seg.confidence[seg.mask(label)].mean() == pytest.approx(mean)


def test_masks_part_the_picture() -> None:
    seg = result()
    masks = np.stack([seg.mask(label) for label in (*seg.labels, seg.other_name)])
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks.sum(axis=0), np.ones((20, 30)))
    np.testing.assert_array_equal(seg.mask("kitty"), seg.mask("cat"))
    np.testing.assert_array_equal(seg.mask("sofa"), seg.label_map == 1)
    with pytest.raises(ValueError, match="'dog' was not asked for: choose from cat, sofa, sky, or other"):
        seg.mask("dog")


def test_regions_come_largest_first() -> None:
    regions = result().regions()
    assert [(region.label, region.id, region.pixels) for region in regions] == [
        ("cat", 0, 300),
        ("other", 254, 200),
        ("sofa", 1, 100),
    ]
    assert [region.id for region in result(many()).regions()] == [0, 65_534, 1]


def test_a_label_called_other_is_not_the_other() -> None:
    seg = result(Vocabulary((("other",), ("sofa", "(other)"))))
    assert seg.other_name == "((other))"
    assert seg.areas() == pytest.approx({"other": 1 / 2, "sofa": 1 / 6, "((other))": 1 / 3})
    np.testing.assert_array_equal(seg.mask("other"), seg.label_map == 0)


def test_an_id_that_names_nothing_is_our_own_mistake() -> None:
    seg = result()
    seg.label_map[0, 0] = 255
    with pytest.raises(AssertionError, match="255"):
        seg.areas()
    with pytest.raises(AssertionError):
        Segmentation(seg.label_map.astype(np.uint16), seg.confidence, WORDS, "mini", "plain")
    with pytest.raises(AssertionError):
        Segmentation(seg.label_map, seg.confidence[1:], WORDS, "mini", "plain")


def test_overlay_uses_the_picture_that_belongs_to_it(tmp_path: Path) -> None:
    seg = result()
    assert seg.image is not None
    wanted = draw.overlay(seg.image, seg.label_map, ["cat", "sofa", "sky"], "other", opacity=0.2)
    assert seg.overlay(opacity=0.2) == wanted
    assert seg.overlay(legend=False).size == (30, 20)
    bare = Segmentation(seg.label_map, seg.confidence, WORDS, "mini", "plain")
    assert bare.overlay(Image.fromarray(seg.image), opacity=0.2) == wanted
    with pytest.raises(ValueError, match="no picture: pass it"):
        bare.overlay()
    with pytest.raises(ValueError, match="picture is 20x20, the label map 30x20"):
        seg.overlay(seg.image[:, :20])
    with pytest.raises(ValueError, match="no picture"):
        bare.save(tmp_path, "cat")
    assert set(bare.save(tmp_path, "cat", ("index", "json"))) == {"index", "json"}


def test_the_set_of_files(tmp_path: Path) -> None:
    seg = result()
    folder = tmp_path / "new"
    paths = seg.save(folder, "cat.v1")
    assert paths == {
        "overlay": folder / "cat.v1.overlay.png",
        "index": folder / "cat.v1.index.png",
        "json": folder / "cat.v1.json",
    }
    assert sorted(folder.iterdir()) == sorted(paths.values())
    np.testing.assert_array_equal(read_image(paths["overlay"]), np.array(seg.overlay()))
    with Image.open(paths["index"]) as index:
        assert index.mode == "P"
        np.testing.assert_array_equal(np.array(index), seg.label_map)
    np.testing.assert_array_equal(read_image(paths["index"]), draw.colour_table(3)[seg.label_map])
    assert json.loads(paths["json"].read_text(encoding="utf-8")) == seg.to_dict()


def test_formats_are_chosen_by_name(tmp_path: Path) -> None:
    for name in ("overlay", "index", "json"):
        assert [*result().save(tmp_path / name, "cat", [name, name])] == [name]
        assert len([*(tmp_path / name).iterdir()]) == 1
    assert result().save(tmp_path / "none", "cat", ()) == {}
    with pytest.raises(ValueError, match="no format called 'gif': choose from overlay, index, masks, json"):
        result().save(tmp_path, "cat", ["json", "gif"])
    with pytest.raises(ValueError, match=r"out.json is one file.*give a folder and a stem"):
        result().save(tmp_path / "out.json", formats=["csv"])
    assert not [*tmp_path.glob("*.json")]


def test_one_file_by_its_ending(tmp_path: Path) -> None:
    seg = result()
    seg.save(tmp_path, "all")
    for name, kind, same_as in (
        ("out.PNG", "overlay", "all.overlay.png"),
        ("out.index.png", "index", "all.index.png"),
        ("out.json", "json", "all.json"),
    ):
        assert seg.save(str(tmp_path / name)) == {kind: tmp_path / name}
        assert (tmp_path / name).read_bytes() == (tmp_path / same_as).read_bytes()
    for name in ("out.jpg", "out"):
        with pytest.raises(ValueError, match=rf"{name} ends in none of .overlay.png, .*, .png: choose"):
            seg.save(tmp_path / name)


def test_a_stem_cannot_leave_its_folder(tmp_path: Path) -> None:
    for stem in ("../cat", "a/b", "/etc/cat", ""):
        with pytest.raises(ValueError, match="is no file name"):
            result().save(tmp_path / "out", stem)
    assert not list(tmp_path.iterdir())


def test_more_than_254_labels_are_saved_with_16_bits(tmp_path: Path) -> None:
    seg = result(many())
    seg.label_map[0, 0] = 299
    with Image.open(seg.save(tmp_path, "cat")["index"]) as index:
        np.testing.assert_array_equal(np.array(index), seg.label_map)
        assert np.array(index).max() == 65_534


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = result().save(tmp_path / "a", "cat"), result().save(tmp_path / "b", "cat")
    for kind, path in first.items():
        assert path.read_bytes() == second[kind].read_bytes(), kind


def test_the_json_says_what_was_asked_and_found() -> None:
    assert json.loads(json.dumps(result().to_dict())) == {
        "sanseg": VERSION,
        "model": "mini",
        "width": 30,
        "height": 20,
        "regions": [
            {"id": 0, "label": "cat", "pixels": 300, "share": 0.5, "mean_confidence": 0.5},
            {"id": 254, "label": "other", "pixels": 200, "share": 0.333333, "mean_confidence": 0.25},
            {"id": 1, "label": "sofa", "pixels": 100, "share": 0.166667, "mean_confidence": 1.0},
        ],
        "other": {"id": 254, "name": "other", "colour": "#808080", "words": ["grass", "wall"]},
        "labels": [
            {"id": 0, "label": "cat", "synonyms": ["kitty"]},
            {"id": 1, "label": "sofa", "synonyms": []},
            {"id": 2, "label": "sky", "synonyms": []},
        ],
        "templates": "plain",
        "settings": {"synonyms": "mean", "not": [], "thresholds": [], "temperature": 1.0},
        "vocabulary": WORDS.hash,
    }


def test_the_table_lists_what_occurs() -> None:
    seg = result(Vocabulary((("[red]cat",), ("sofa",), ("sky",))))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(seg.table())
    lines = [line for line in capture.get().splitlines() if "%" in line]
    assert [line.replace("│", " ").split() for line in lines] == [
        ["[red]cat", "50.0", "%", "0.50"],
        ["other", "33.3", "%", "0.25"],
        ["sofa", "16.7", "%", "1.00"],
    ]


def test_repr_is_one_short_line() -> None:
    assert repr(result()) == "Segmentation(30x20, 3 labels, mini: cat 50.0 %, other 33.3 %, sofa 16.7 %)"


def test_a_notebook_shows_the_picture_and_what_occurs() -> None:
    seg = result(Vocabulary((("<b>cat",), ("sofa",), ("sky",))))
    html = seg._repr_html_()
    assert "&lt;b&gt;cat" in html
    assert "<b>" not in html
    assert html.count("<tr>") == 4
    assert "50.0 %" in html
    assert seg.vocabulary_hash[:12] in html
    png = base64.b64decode(re.findall(r"base64,([^\"]+)", html)[0])
    np.testing.assert_array_equal(read_image(png), np.array(seg.overlay(legend=False)))
    np.testing.assert_array_equal(read_image(seg._repr_png_()), np.array(seg.overlay()))


def test_a_notebook_shows_large_pictures_small_and_colours_where_there_is_none() -> None:
    large = result(height=30, width=3000)
    assert read_image(
        base64.b64decode(large._repr_html_().partition("base64,")[2].partition('"')[0])
    ).shape == (
        10,
        1024,
        3,
    )
    bare = Segmentation(large.label_map, large.confidence, WORDS, "mini", "plain")
    shown = read_image(bare._repr_png_())
    assert tuple(shown[0, 0]) == tuple(draw.palette(3)[0])
    many_found = result(many())
    many_found.label_map[0] = np.arange(30)
    assert many_found._repr_html_().count("<tr>") == 1 + draw.MAX_LEGEND + 1


def test_plot_draws_the_overlay_and_a_legend() -> None:
    figure = Figure()
    seg = result(Vocabulary((("_$cat$",), ("sofa",), ("sky",))))
    axes = seg.plot(figure.subplots())
    FigureCanvasAgg(figure).draw()
    np.testing.assert_array_equal(axes.images[0].get_array(), np.array(seg.overlay(legend=False)))
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "50.0 %  _$cat$",
        "33.3 %  other",
        "16.7 %  sofa",
    ]
    colours = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    np.testing.assert_allclose(colours, draw.colour_table(3)[[0, 254, 1]] / 255)
