"""Nobody gets in who should not: keys, hosts, and the pages of other servers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sanseg.segmenter import Segmenter
from sanseg.serve import keys as keys_module
from sanseg.serve.guard import check_host, check_origin
from sanseg.serve.keys import Keys, read_keys
from sanseg.serve.problems import Problem
from sanseg.serve.settings import Settings
from tests.serve.asking import WORDS, assert_problem, client, picture, upload

ALICE, BOB = "a" * 16 + "-alice", "b" * 16 + "-bob"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# Keys


def test_without_a_key_or_with_a_wrong_one_nothing_is_done(segmenter: Segmenter) -> None:
    with client(segmenter, keys=(ALICE, BOB)) as asker:
        for headers in ({}, bearer("wrong"), {"Authorization": ALICE}, {"Authorization": f"Basic {ALICE}"}):
            for method, path in (
                ("POST", "/v1/images"),
                ("GET", "/v1/images/x"),
                ("DELETE", "/v1/images/x"),
                ("POST", "/v1/images/x/segment"),
                ("POST", "/v1/segment"),
                ("GET", "/metrics"),
            ):
                response = asker.request(method, path, headers=headers)
                assert_problem(response, 401, "Authorization: Bearer")
                assert response.headers["www-authenticate"].startswith("Bearer")
        assert asker.post("/v1/images", files=upload(picture()), headers=bearer(BOB)).status_code == 201
        for path in ("/healthz", "/readyz", "/v1/models", "/v1/label-sets/voc", "/docs", "/openapi.json"):
            assert asker.get(path).status_code == 200, path
        assert asker.get("/v1/models").json()["keys"] is True


def test_one_clients_pictures_are_not_anothers(segmenter: Segmenter) -> None:
    with client(segmenter, keys=(ALICE, BOB)) as asker:
        ids = {}
        for key in (ALICE, BOB):
            told = asker.post("/v1/images", files=upload(picture()), headers=bearer(key)).json()
            ids[key] = told["id"]
        assert ids[ALICE] != ids[BOB]
        path = f"/v1/images/{ids[ALICE]}"
        for response in (
            asker.get(path, headers=bearer(BOB)),
            asker.post(f"{path}/segment", json=WORDS, headers=bearer(BOB)),
            asker.delete(path, headers=bearer(BOB)),
        ):
            unknown = asker.get("/v1/images/" + "0" * 32, headers=bearer(BOB))
            assert response.json() == unknown.json(), "it tells that the picture is there"
        assert asker.get(path, headers=bearer(ALICE)).status_code == 200
        assert asker.delete(path, headers=bearer(ALICE)).status_code == 204
        assert asker.get(f"/v1/images/{ids[BOB]}", headers=bearer(BOB)).status_code == 200


def test_ids_cannot_be_computed_from_the_picture(segmenter: Segmenter) -> None:
    """Another process gives another id, and within one it is the same each time."""
    found = []
    for _ in range(2):
        with client(segmenter) as asker:
            ids = {asker.post("/v1/images", files=upload(picture())).json()["id"] for _ in range(2)}
            assert len(ids) == 1
            found += ids
    assert found[0] != found[1]


def test_keys_are_compared_in_constant_time_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = keys_module.hmac.compare_digest

    def counted(one: bytes, two: bytes) -> bool:
        compared.append((one, two))
        return compare(one, two)

    monkeypatch.setattr(keys_module.hmac, "compare_digest", counted)
    known = Keys([ALICE, BOB, "c" * 20])
    assert known.client(f"bearer {ALICE}") != known.client(f"Bearer  {BOB}")
    assert len(compared) == 6, "the comparison ended early"
    assert {len(one) for pair in compared for one in pair} == {32}


def test_keys_and_paths_are_in_no_log(
    segmenter: Segmenter, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with client(segmenter, keys=(ALICE,)) as asker:
        secret = asker.post("/v1/images?token=hush", files=upload(picture()), headers=bearer(ALICE)).json()[
            "id"
        ]
        asker.get(f"/v1/images/{secret}", headers=bearer("almost" + ALICE))
        asker.get(f"/v1/images/{secret}", headers=bearer(ALICE))
    ours = [record for record in caplog.records if record.name.startswith(("sanseg", "uvicorn"))]
    assert any("/v1/images/{id}" in record.getMessage() for record in ours)
    told = "\n".join(record.getMessage() for record in ours) + "".join(capsys.readouterr())
    for word in (ALICE, "hush", secret):
        assert word not in told
    assert ALICE not in repr(asker.app.state.service.keys.__dict__)  # type: ignore[attr-defined]


def test_a_file_of_keys_holds_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{ALICE}\n  {BOB}  \n")
    assert read_keys(file) == (ALICE, BOB)
    for text, words in (
        ("short", "line 1"),
        (f"{ALICE}\nhas space in it, it has", "line 2"),
        ("é" * 20, "line 1"),
        ("# nothing", "no keys"),
        ("", "no keys"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=words) as error:
            read_keys(file)
        assert "has space" not in str(error.value)
        assert "short" not in str(error.value).replace(str(file), "")
    file.write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="UTF-8"):
        read_keys(file)
    with pytest.raises(OSError, match="no-file"):
        read_keys(tmp_path / "no-file")


# Hosts and pages


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8000",
        "127.0.0.1:8000",
        "10.1.2.3",
        "[::1]:8000",
        "sanseg.example",
        "localhost.",
    ],
)
def test_own_names_and_addresses_are_answered(host: str) -> None:
    check_host(host, ["sanseg.EXAMPLE"])


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[", "a@localhost:b", "[::1"],
)
def test_other_names_are_not(segmenter: Segmenter, host: str) -> None:
    """A page that gives its own name this machine's address (DNS rebinding) learns nothing."""
    if host != "a@localhost:b":
        with pytest.raises(Problem):
            check_host(host, [])
    with client(segmenter) as asker:
        for path in ("/", "/v1/models", "/healthz"):
            if host and "@" not in host:
                assert_problem(asker.get(path, headers={"host": host}), 421, "--name")


def test_pages_of_other_servers_may_not_ask(segmenter: Segmenter) -> None:
    """Browsers send simple requests without asking first: they would cost this machine's time."""
    with client(segmenter) as asker:
        for origin in ("https://evil.example", "null", "http://localhost.evil.example", "http://localhost:1"):
            response = asker.post(
                "/v1/segment", files=upload(picture()), data=WORDS, headers={"origin": origin}
            )
            assert_problem(response, 403, "--origin")
            assert "access-control-allow-origin" not in response.headers
            preflight = {"origin": origin, "access-control-request-method": "POST"}
            response = asker.options("/v1/segment", headers=preflight)
            assert response.status_code == 405
            assert "access-control-allow-origin" not in response.headers
        own = asker.post("/v1/images", files=upload(picture()), headers={"origin": "http://localhost"})
        assert own.status_code == 201
    check_origin("https://sanseg.example", "sanseg.example", [])  # behind a proxy that speaks TLS


def test_a_named_page_may_ask(segmenter: Segmenter) -> None:
    friend = "https://friend.example"
    with client(segmenter, origins=(friend,)) as asker:
        preflight = {
            "origin": friend,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        response = asker.options("/v1/segment", headers=preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == friend
        response = asker.post("/v1/segment", files=upload(picture()), data=WORDS, headers={"origin": friend})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == friend
        assert "access-control-allow-credentials" not in response.headers
        enemy = asker.options("/v1/segment", headers={**preflight, "origin": "https://evil.example"})
        assert enemy.headers.get("access-control-allow-origin") is None


@pytest.mark.parametrize(
    "origin", ["*", "friend.example", "https://friend.example/", "ftp://a", "https://*.a", ""]
)
def test_an_origin_is_named_in_full(origin: str) -> None:
    with pytest.raises(ValueError, match=r"https://example\.org"):
        Settings(origins=(origin,))


def test_a_preflight_without_named_origins_is_told_of_the_option(segmenter: Segmenter) -> None:
    with client(segmenter) as asker:
        assert_problem(asker.options("/v1/segment"), 405, "--origin")


def test_every_answer_has_the_headers_of_a_careful_server(segmenter: Segmenter) -> None:
    with client(segmenter) as asker:
        for path in ("/docs", "/v1/models", "/nothing", "/healthz", "/openapi.json", "/docs/swagger-ui.css"):
            headers = asker.get(path).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self';")
            assert "frame-ancestors 'none'" in policy
            assert "unsafe-eval" not in policy
            assert ("unsafe-inline" in policy) == (path == "/docs")
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["cache-control"] in ("no-store", "no-cache")
        page = asker.get("/docs").text
        assert "//" not in page.replace("<!doctype html>", ""), "the documentation asks another server"
