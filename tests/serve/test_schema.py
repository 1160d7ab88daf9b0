"""The service keeps what its own OpenAPI promises, asked by schemathesis with valid and with broken requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.specs.openapi.checks import positive_data_acceptance

from sanseg.segmenter import Segmenter
from sanseg.serve.app import create_app
from sanseg.serve.server import Server, listen
from sanseg.serve.settings import Settings
from tests.conftest import TINY, make_san
from tests.serve.asking import picture, service_of, until, upload

# Parts of forms in "binary": pictures among them, so that some requests go all the way.
schemathesis.openapi.format("binary", st.sampled_from([picture(), picture(kind="JPEG")]) | st.binary())

# A picture's bytes and a text's words may be wrong in ways that no schema can say: those are answered with 422.
SAID_BY_NO_SCHEMA = [positive_data_acceptance]

kept = ""  # the id of a picture that is there


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a service in a thread, as uvicorn runs it."""
    global kept
    app = create_app(Segmenter(make_san(TINY)), Settings(labels=50))
    server = Server(app)
    with listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        until(lambda: server.started and service_of(app).worker.ready)
        found = f"http://127.0.0.1:{bound.getsockname()[1]}"
        kept = httpx2.post(f"{found}/v1/images", files=upload(picture())).json()["id"]
        yield found
        service_of(app).close()
        thread.join(30)


def not_loaded() -> Segmenter:
    raise AssertionError("describing a service needs no model")


schema = schemathesis.openapi.from_dict(create_app(not_loaded, Settings(labels=50)).openapi())


@schema.parametrize()
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
def test_the_service_keeps_its_promises(case: Case, address: str) -> None:
    if case.method == "POST" and "id" in (case.path_parameters or {}):
        case.path_parameters["id"] = kept
    case.call_and_validate(base_url=address, excluded_checks=SAID_BY_NO_SCHEMA, timeout=30)


def test_every_endpoint_has_an_example() -> None:
    told = schema.raw_schema
    assert "HTTPValidationError" not in str(told)
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], path
            bodies = operation.get("requestBody", {}).get("content", {})
            for body in bodies.values():
                fields = body["schema"].get("properties", {}).values()
                assert "examples" in body["schema"] or any("example" in one for one in fields), (path, method)
            for status, response in operation["responses"].items():
                if status == "204":
                    continue
                for type_, content in response["content"].items():
                    named = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
                    shape = told["components"]["schemas"].get(named, content.get("schema", {}))
                    binary = shape.get("format") == "binary"
                    assert binary or "example" in content or "example" in shape, (path, method, status, type_)


def test_keys_are_promised_where_they_are_needed(tiny_san: Any) -> None:
    told = create_app(Segmenter(tiny_san), Settings(keys=("a" * 20,))).openapi()
    assert told["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert told["paths"]["/v1/segment"]["post"]["security"] == [{"key": []}]
    assert "security" not in told["paths"]["/v1/models"]["get"]
    assert "security" not in str(create_app(Segmenter(tiny_san)).openapi())
