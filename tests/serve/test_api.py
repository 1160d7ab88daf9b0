"""The service answers what the library answers, in every format, byte for byte."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from pycocotools import mask as coco
from starlette.testclient import TestClient

from sanseg.formats import FORMATS
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Segmenter
from sanseg.serve import answers
from sanseg.vocabulary import Vocabulary
from tests.serve.asking import WORDS, assert_problem, client, picture, upload


def kept(asker: TestClient, data: bytes) -> str:
    response = asker.post("/v1/images", files=upload(data))
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def test_a_picture_is_kept_asked_described_and_forgotten(segmenter: Segmenter) -> None:
    data = picture(50, 70)
    with client(segmenter) as asker:
        response = asker.post("/v1/images", files=upload(data))
        assert response.status_code == 201
        told = response.json()
        assert {**told, "id": "", "bytes": 0} == {
            "id": "",
            "width": 70,
            "height": 50,
            "model": "tiny",
            "bytes": 0,
            "seconds_left": 3600,
        }
        assert told["bytes"] > 50 * 70 * 3
        assert response.headers["location"] == f"/v1/images/{told['id']}"
        assert asker.get(f"/v1/images/{told['id']}").json() == told
        assert asker.post(f"/v1/images/{told['id']}/segment", json=WORDS).status_code == 200
        response = asker.delete(f"/v1/images/{told['id']}")
        assert (response.status_code, response.content) == (204, b"")
        assert_problem(asker.get(f"/v1/images/{told['id']}"), 404, "POST /v1/images")
        assert_problem(asker.delete(f"/v1/images/{told['id']}"), 404)
        assert_problem(asker.post(f"/v1/images/{told['id']}/segment", json=WORDS), 404)


@pytest.mark.parametrize("format_", [name for name in FORMATS if name != "json"])
@pytest.mark.parametrize("name", ["cat.jpg", None])
def test_files_are_what_the_library_saves(
    segmenter: Segmenter, tmp_path: Path, format_: str, name: str | None
) -> None:
    data = picture()
    stem = "cat" if name else "picture"
    expected = segmenter(data, WORDS["labels"], proposals=True)
    [path] = expected.save(tmp_path, stem, [format_], picture=name).values()
    with client(segmenter) as asker:
        asked = {**WORDS, "format": format_, "picture": name}
        response = asker.post(f"/v1/images/{kept(asker, data)}/segment", json=asked)
        called = name or "picture.jpg"
        at_once = asker.post("/v1/segment", files=upload(data, called), data={**WORDS, "format": format_})
    assert response.status_code == 200, response.text
    assert f'filename="{path.name}' in response.headers["content-disposition"]
    if path.is_dir():
        with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
            files = {one: archive.read(one) for one in archive.namelist()}
        assert files == {one.name: one.read_bytes() for one in path.iterdir()}
    else:
        assert response.content == path.read_bytes()
    assert at_once.content == response.content


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools', by numpy
def test_json_holds_the_numbers_and_run_lengths(segmenter: Segmenter) -> None:
    data = picture()
    expected = segmenter(data, WORDS["labels"])
    with client(segmenter) as asker:
        told = asker.post("/v1/segment", files=upload(data), data=WORDS).json()
    for region in told["regions"]:
        mask = coco.decode(region.pop("rle")).astype(bool)
        np.testing.assert_array_equal(mask, expected.label_map == region["id"])
    assert told == json.loads(json.dumps(expected.to_dict()))


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_are_pycocotools_own(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 9, 2))
    label_map = random.choice(np.array([0, 1, 254, 65_534], dtype=np.uint16), shape)
    for id_, rle in answers.run_lengths(label_map).items():
        theirs = coco.encode(np.asfortranarray(label_map == id_).astype(np.uint8))
        assert rle == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    assert set(answers.run_lengths(label_map)) == set(np.unique(label_map).tolist())


@pytest.mark.parametrize("labels", [["sky", "tree | woods", "é 木 🐈"], [f"thing {n}" for n in range(300)]])
def test_the_view_is_ids_and_confidences(segmenter: Segmenter, labels: list[str]) -> None:
    data = picture()
    expected = segmenter(data, labels)
    with client(segmenter) as asker:
        asked = {"labels": labels, "format": "view", "colours": {"SKY": "#0102fF"} if "sky" in labels else {}}
        response = asker.post(f"/v1/images/{kept(asker, data)}/segment", json=asked)
    assert response.headers["content-type"] == "application/vnd.sanseg.view"
    head, ids, confidence = read_view(response.content)
    np.testing.assert_array_equal(ids, expected.label_map)
    np.testing.assert_array_equal(
        confidence, np.floor(expected.confidence * np.float32(255) + np.float32(0.5))
    )
    assert head["id_bytes"] == ids.itemsize
    assert len(head["colours"]) == len(labels) + 1
    assert set(map(str, np.unique(ids))) <= set(head["colours"])
    assert head["colours"][str(expected.other_id)] == "#808080"
    assert head["colours"]["1"] == "#" + bytes(expected.colours[1].tolist()).hex()
    if "sky" in labels:
        assert head["colours"]["0"] == "#0102ff"
    assert head["regions"] == json.loads(json.dumps(expected.to_dict()["regions"]))


def read_view(content: bytes) -> tuple[dict, np.ndarray, np.ndarray]:
    length = int.from_bytes(content[:4], "little")
    assert (4 + length) % 4 == 0
    head = json.loads(content[4 : 4 + length])
    shape = head["height"], head["width"]
    pixels = shape[0] * shape[1]
    ids = np.frombuffer(content, f"<u{head['id_bytes']}", pixels, 4 + length)
    confidence = np.frombuffer(content, np.uint8, offset=4 + length + ids.nbytes)
    return head, ids.reshape(shape), confidence.reshape(shape)


def asked_of_the_library(segmenter: Segmenter, data: bytes, **how: object) -> Segmentation:
    words = Vocabulary.of(how["labels"]).with_other(how.get("other", "auto"))  # type: ignore[arg-type]
    return segmenter.answer(segmenter.encode(data), words.with_thresholds(how.get("threshold", 0.0)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ({"labels": "sky, not toy cat, tree"}, {"labels": "sky, not toy cat, tree"}),
        ({"labels": ["sky", "tree"]}, {"labels": "sky, tree"}),
        ({"labels": "@camvid"}, {"labels": "@camvid"}),
        ({"labels": ["sky", "tree | woods"]}, {"labels": ' ["sky", "tree | woods"]'}),
        ({"labels": "sky, tree", "other": None}, {"labels": "sky, tree", "other": "none"}),
        ({"labels": "sky, tree", "other": None}, {"labels": "sky, tree", "other": ""}),
        ({"labels": "sky", "other": ["dog", "hat"]}, {"labels": "sky", "other": "dog, hat"}),
        ({"labels": "sky, tree", "threshold": 0.3}, {"labels": "sky, tree", "threshold": "0.3"}),
        (
            {"labels": "sky, tree", "threshold": 1},
            {"labels": "sky, tree", "threshold": "1", "colours": '{"sky": "#ff0000"}'},
        ),
    ],
)
def test_forms_and_json_ask_the_same(segmenter: Segmenter, asked: dict, fields: dict) -> None:
    data = picture()
    expected = asked_of_the_library(segmenter, data, **asked)
    with client(segmenter) as asker:
        by_json = asker.post(
            f"/v1/images/{kept(asker, data)}/segment", json={**asked, "format": "confidence"}
        )
        by_form = asker.post("/v1/segment", files=upload(data), data={**fields, "format": "confidence"})
    for response in (by_json, by_form):
        assert response.status_code == 200, response.text
        with np.load(io.BytesIO(response.content)) as arrays:
            np.testing.assert_array_equal(arrays["label_map"], expected.label_map)


@pytest.mark.parametrize(
    ("accept", "type_"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("text/html, image/png;q=0.9, */*;q=0.1", "image/png"),
        ("image/png;q=0, application/json", "application/json"),
        ("application/vnd.sanseg.view", "application/vnd.sanseg.view"),
        ("text/csv", "text/csv; charset=utf-8"),
    ],
)
def test_accept_chooses_the_format_unless_a_field_does(
    segmenter: Segmenter, accept: str | None, type_: str
) -> None:
    with client(segmenter) as asker:
        if accept is not None:
            asker.headers["accept"] = accept
        response = asker.post("/v1/segment", files=upload(picture()), data=WORDS)
        assert response.headers["content-type"] == type_
        named = asker.post("/v1/segment", files=upload(picture()), data={**WORDS, "format": "geojson"})
        assert named.headers["content-type"] == "application/geo+json"


def test_no_acceptable_format_is_said(segmenter: Segmenter) -> None:
    with client(segmenter) as asker:
        response = asker.post(
            "/v1/segment", files=upload(picture()), data=WORDS, headers={"accept": "video/mp4"}
        )
        assert_problem(response, 406, "video/mp4", "application/json")


def test_head_is_get_without_its_body(segmenter: Segmenter) -> None:
    with client(segmenter) as asker:
        for path in ("/", "/healthz", "/v1/models", f"/v1/images/{kept(asker, picture())}"):
            whole, head = asker.get(path), asker.head(path)
            assert (head.status_code, head.content) == (200, b""), path
            for header in ("content-type", "content-length", "content-security-policy"):
                assert head.headers[header] == whole.headers[header], path
        assert asker.head("/v1/segment").status_code == 405


def test_what_there_is_is_told(segmenter: Segmenter) -> None:
    with client(segmenter, labels=77, pixels=1234, bytes=5678) as asker:
        told = asker.get("/v1/models").json()
        assert told["models"][0]["id"] == "tiny"
        assert told["models"][0]["default"] is True
        assert [one["name"] for one in told["formats"]] == list(FORMATS)
        assert told["limits"] == {"bytes": 5678, "pixels": 1234, "labels": 77, "label_characters": 256}
        assert told["keys"] is False
        assert {"name": "ade150", "labels": 150} in told["label_sets"]
        for one in told["label_sets"]:
            labels = asker.get(f"/v1/label-sets/{one['name']}").json()["labels"]
            assert len(labels) == one["labels"]
        assert {"label": "sidewalk", "synonyms": ["pavement"]} in asker.get("/v1/label-sets/camvid").json()[
            "labels"
        ]
        assert_problem(asker.get("/v1/label-sets/..%2Fmini"), 404)
        assert_problem(asker.get("/v1/label-sets/mine"), 404, "ade150")


def test_the_uploads_own_name_is_what_files_call_it(segmenter: Segmenter) -> None:
    with client(segmenter) as asker:
        for name, file in {
            "Größe 1.jpg": "Größe 1.csv",
            "../../a/b.png": "b.csv",
            "C:\\x\\y.png": "y.csv",
            "..": "picture.csv",
        }.items():
            fields = {**WORDS, "format": "csv"}
            response = asker.post("/v1/segment", files=upload(picture(), name), data=fields)
            assert response.headers["content-disposition"].endswith(f"filename*=UTF-8''{quote(file)}")
        for name in ("a/b.jpg", "..", "", "a\nb", "a\\b", "x" * 256):
            fields = {**WORDS, "picture": name}
            assert_problem(asker.post("/v1/segment", files=upload(picture()), data=fields), 422, "picture")
