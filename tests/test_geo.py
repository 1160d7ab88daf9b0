"""Rasters in and out: what rasterio reads back is what was written, in its place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sanseg import draw, geo, images
from sanseg.large import files

rasterio = pytest.importorskip("rasterio")
rasterize = pytest.importorskip("rasterio.features").rasterize
shapely = pytest.importorskip("shapely")

from rasterio.crs import CRS  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

NORTH = CRS.from_epsg(32633)
PLACE = Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)
MAP = geo.Georeference(NORTH, PLACE)
NOWHERE = geo.Georeference(None, Affine.identity())


def write(path: Path, pixels_Chw: NDArray[Any], **profile: Any) -> Path:
    count, height, width = pixels_Chw.shape
    profile = {"driver": "GTiff", "crs": NORTH, "transform": PLACE, "dtype": pixels_Chw.dtype} | profile
    with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as dataset:
        dataset.write(pixels_Chw)
    return path


def numbers(*shape: int, high: int = 256, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def whole(raster: geo.Raster) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    return raster.read(slice(0, raster.height), slice(0, raster.width))


def test_windows_are_parts_of_the_whole(tmp_path: Path) -> None:
    pixels = numbers(3, 90, 130)
    path = write(tmp_path / "a.tif", pixels, tiled=True, blockxsize=32, blockysize=32, compress="lzw")
    with geo.Raster.open(path) as raster:
        assert (raster.height, raster.width, raster.stretch, raster.bands) == (90, 130, None, (1, 2, 3))
        image, known = whole(raster)
        np.testing.assert_array_equal(image, pixels.transpose(1, 2, 0))
        assert known is None
        part, _ = raster.read(slice(20, 75), slice(99, 130))
        np.testing.assert_array_equal(part, image[20:75, 99:130])
        assert raster.georeference == MAP
        small, _ = raster.overview(13)
        assert small.shape == (9, 13, 3)
    assert geo.size(path) == (90, 130)
    assert geo.on_the_map(path)


def test_bands_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    pixels = numbers(4, 20, 20)
    path = write(tmp_path / "a.tif", pixels, photometric="minisblack")
    for bands, expected in ((None, (1, 2, 3)), ((4, 3, 2), (4, 3, 2)), ((2,), (2, 2, 2))):
        with geo.Raster.open(path, bands=bands) as raster:
            image, _ = whole(raster)
        np.testing.assert_array_equal(image, pixels[[band - 1 for band in expected]].transpose(1, 2, 0))
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    with geo.Raster.open(path) as raster:
        assert raster.bands == (3, 2, 1)
    for bands in ((1, 2), (0, 1, 2), (3, 4, 5)):
        with (
            pytest.raises(ValueError, match=r"bands .* of .*a\.tif, which has 4: give three"),
            geo.Raster.open(path, bands=bands),
        ):
            pass


def test_sixteen_bits_are_stretched(tmp_path: Path) -> None:
    pixels = numbers(3, 40, 50, high=3000, dtype="uint16") + np.array([0, 500, 9000], "uint16")[:, None, None]
    path = write(tmp_path / "a.tif", pixels)
    with geo.Raster.open(path, stretch=geo.Stretch.parse("0,3000")) as raster:
        image, _ = whole(raster)
    expected = np.round((pixels / 3000).clip(0, 1) * 255).transpose(1, 2, 0)
    assert np.abs(image - expected).max() <= 1
    assert (image[..., 2] == 255).all()
    with geo.Raster.open(path) as raster:
        assert str(raster.stretch) == "2%,98%"
        image, _ = whole(raster)
        one, _ = raster.read(slice(3, 9), slice(4, 7))
    np.testing.assert_array_equal(one, image[3:9, 4:7])  # one stretch for all windows
    for band in range(3):  # each band by itself
        low, high = np.percentile(pixels[band], (2, 98))
        assert np.abs(image[..., band] - ((pixels[band] - low) / (high - low) * 255).clip(0, 255)).max() <= 1
    flat = write(tmp_path / "flat.tif", np.full((1, 5, 5), 700, "int16"))
    with geo.Raster.open(flat) as raster:
        assert not whole(raster)[0].any()


def test_eight_bits_are_stretched_only_when_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", numbers(3, 30, 30, high=100))
    with geo.Raster.open(path) as plain, geo.Raster.open(path, stretch=geo.PERCENTILES) as stretched:
        assert whole(plain)[0].max() < 100
        assert whole(stretched)[0].max() == 255


@pytest.mark.parametrize("text", ["2,98%", "1", "1,2,3", "a,b", "5,5", "98%,2%", "-1%,50%", "0,inf", ""])
def test_a_stretch_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="stretch"):
        geo.Stretch.parse(text)


def test_a_palette_is_applied(tmp_path: Path) -> None:
    pixels = numbers(1, 20, 20, high=3)
    path = write(tmp_path / "a.tif", pixels)
    colours = {0: (9, 8, 7, 255), 1: (200, 0, 1, 255), 2: (0, 77, 0, 255)}
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, colours)
    with geo.Raster.open(path) as raster:
        image, _ = whole(raster)
    np.testing.assert_array_equal(image, np.array([colours[n][:3] for n in range(3)], np.uint8)[pixels[0]])


def test_no_data_alpha_and_nan_are_unknown(tmp_path: Path) -> None:
    pixels = numbers(3, 20, 20) | 1
    pixels[:, 5:9, 3:] = 0
    with geo.Raster.open(write(tmp_path / "nodata.tif", pixels, nodata=0)) as raster:
        known = whole(raster)[1]
        assert known is not None
        np.testing.assert_array_equal(known, pixels.any(0))
        part = raster.read(slice(4, 8), slice(0, 20))[1]
        np.testing.assert_array_equal(part, pixels.any(0)[4:8])
    rgba = np.concatenate([numbers(3, 20, 20), np.where(pixels.any(0), 255, 0)[None].astype("uint8")])
    with geo.Raster.open(write(tmp_path / "alpha.tif", rgba, photometric="rgb", alpha="yes")) as raster:
        assert raster.bands == (1, 2, 3)
        np.testing.assert_array_equal(whole(raster)[1], pixels.any(0))
    floats = numbers(1, 20, 20).astype("float32")
    floats[0, 2:4] = np.nan
    with geo.Raster.open(write(tmp_path / "nan.tif", floats)) as raster:
        image, known = whole(raster)
        np.testing.assert_array_equal(known, np.isfinite(floats[0]))
        assert image.max() == 255
    # The percentiles are of what is known: zeros of no data are not black.
    deep = 1000 + numbers(1, 20, 20, dtype="uint16")
    deep[0, :15] = 0
    with geo.Raster.open(write(tmp_path / "deep.tif", deep, nodata=0)) as raster:
        image, known = whole(raster)
        assert known is not None
        assert np.ptp(image[known]) == 255


def test_what_cannot_be_read_by_windows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"), geo.Raster.open("https://x.org/a.tif"):
        pass
    (tmp_path / "a.tif").write_bytes(b"II*\0 no picture")
    (tmp_path / "b.tif").write_text("<VRTDataset rasterXSize='1' rasterYSize='1'/>")
    (tmp_path / "c.tif").write_bytes(write(tmp_path / "d.tif", numbers(3, 64, 64)).read_bytes()[:9000])
    for name in "ab":
        with (
            pytest.raises(ValueError, match="cannot be read by windows"),
            geo.Raster.open(tmp_path / f"{name}.tif"),
        ):
            pass
    with (
        pytest.raises(ValueError, match="cannot be read by windows"),
        geo.Raster.open(tmp_path / "c.tif") as raster,
    ):
        whole(raster)
    complex_ = write(tmp_path / "e.tif", numbers(1, 8, 8).astype("complex64"))
    with pytest.raises(ValueError, match="numbers of kind complex64"), geo.Raster.open(complex_):
        pass
    monkeypatch.setattr(geo, "MAX_PIXELS", 1000)
    strip = write(tmp_path / "f.tif", numbers(1, 40, 40), blockysize=40)
    with pytest.raises(ValueError, match=r"blocks of 40x40 pixels.*TILED=YES"), geo.Raster.open(strip):
        pass
    assert images.MAX_PIXELS > 1000


def stripes(pixels: NDArray[Any], high: int = files.BLOCK) -> Any:
    return (
        (slice(top, min(top + high, len(pixels))), pixels[top : top + high])
        for top in range(0, len(pixels), high)
    )


def surely(ids: NDArray[Any], high: int = files.BLOCK) -> tuple[NDArray[np.uint16], Any]:
    """A confidence for each pixel, and stripes of both, as polygons are made of."""
    steps = np.random.default_rng(0).integers(0, files.CONFIDENCE_STEPS, ids.shape, dtype=np.uint16)
    both = zip(stripes(ids, high), stripes(steps, high), strict=True)
    return steps, ((rows, one, two) for (rows, one), (_, two) in both)


@pytest.mark.parametrize("labels", [3, 300])
def test_a_label_map_comes_back_with_its_place_names_and_colours(tmp_path: Path, labels: int) -> None:
    unknown = files.unknown_id(labels)
    ids = numbers(600, 700, high=labels, dtype="uint8" if labels == 3 else "uint16")
    ids[100:200] = unknown
    ids[300:310] = unknown - 1
    names = [f"thing <{number}> & é" for number in range(labels)]
    paths = [tmp_path / "one.tif", tmp_path / "two.tif"]
    for path in paths:
        files.write_index(path, stripes(ids), ids.shape, names, "other", MAP, {"MODEL": "tiny"})
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == 1
    with rasterio.open(paths[0]) as dataset:
        assert (dataset.crs, dataset.transform, dataset.nodata) == (NORTH, PLACE, unknown)
        assert dataset.profile["tiled"]
        assert dataset.profile["compress"] == "deflate"
        np.testing.assert_array_equal(dataset.read(1), ids)
        np.testing.assert_array_equal(dataset.dataset_mask() > 0, ids != unknown)
        tags = dataset.tags()
        assert [tags[f"LABEL_{number}"] for number in (0, labels - 1)] == [names[0], names[-1]]
        assert tags[f"LABEL_{unknown - 1}"] == "other"
        assert tags["MODEL"] == "tiny"
        colours = dataset.colormap(1)
        table = draw.colour_table(labels).tolist()
        for number in (0, 1, labels - 1, unknown - 1):
            assert colours[number][:3] == tuple(table[number])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_confidence_comes_back_in_units(tmp_path: Path) -> None:
    steps = numbers(520, 30, high=10_001, dtype="uint16")
    steps[:4] = files.NO_CONFIDENCE
    files.write_confidence(tmp_path / "c.tif", stripes(steps), steps.shape, NOWHERE, {})
    with rasterio.open(tmp_path / "c.tif") as dataset:
        assert dataset.scales == (1e-4,)
        values = dataset.read(1, masked=True)
        np.testing.assert_array_equal(values.mask, steps == files.NO_CONFIDENCE)
        np.testing.assert_array_equal(values.data, steps)
        assert dataset.crs is None


def rasterised(path: Path, shape: tuple[int, int], transform: Affine) -> NDArray[np.uint8]:
    """The label map again, from the polygons, by shapely and GDAL."""
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    polygons = [(shapely.geometry.shape(one["geometry"]), one["properties"]["id"]) for one in features]
    assert all(polygon.is_valid for polygon, _ in polygons)
    result: NDArray[np.uint8] = rasterize(polygons, shape, fill=255, transform=transform, dtype="uint8")
    return result


def test_polygons_cover_the_map_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "POLYGON_BLOCK", 24)
    monkeypatch.setattr(files, "POLYGONS_AT_ONCE", 5)
    ids = np.kron(numbers(9, 11, high=3), np.ones((7, 6), "uint8"))
    ids[20:30, 10:40] = 254
    ids[:3, :5] = 255
    ids[40, 40] = 0  # a hole in something, perhaps
    names = {0: "sky", 1: 'a "b"', 2: "c", 254: "other"}
    for where in (MAP, NOWHERE):
        path = tmp_path / "a.geojson"
        steps, both = surely(ids, 24)
        files.write_geojson(path, both, names, where, {})
        np.testing.assert_array_equal(rasterised(path, ids.shape, where.transform), ids)
        found = json.loads(path.read_text(encoding="utf-8"))
        pixel = abs(where.transform.determinant)
        for feature in found["features"]:
            polygon = shapely.geometry.shape(feature["geometry"])
            assert polygon.area == pytest.approx(feature["properties"]["pixels"] * pixel)
            assert feature["properties"]["label"] == names[feature["properties"]["id"]]
            inside = rasterize([polygon], ids.shape, transform=where.transform).astype(bool)
            sure = steps[inside].mean() / files.CONFIDENCE_STEPS
            assert feature["properties"]["confidence"] == pytest.approx(sure, abs=1e-6)
        assert ("crs" in found) == (where is MAP)
    files.write_geojson(path, surely(ids, 24)[1], names, MAP, {"sanseg": "1"})
    found = json.loads(path.read_text())
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert found["sanseg"] == "1"


def test_polygons_of_nothing_are_a_file_too(tmp_path: Path) -> None:
    _, both = surely(np.full((5, 5), 255, "uint8"))
    files.write_geojson(tmp_path / "a.geojson", both, {0: "sky"}, NOWHERE, {})
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []


def test_coordinates_that_geojson_cannot_name_are_refused(tmp_path: Path) -> None:
    odd = CRS.from_proj4("+proj=tmerc +lat_0=12.3 +lon_0=4.5 +k=0.7 +x_0=1 +y_0=2 +ellps=bessel +units=m")
    with pytest.raises(ValueError, match="have no code"):
        files.write_geojson(
            tmp_path / "a.geojson",
            surely(np.zeros((5, 5), "uint8"))[1],
            {0: "sky"},
            geo.Georeference(odd, PLACE),
            {},
        )
