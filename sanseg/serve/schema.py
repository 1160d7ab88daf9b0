"""What answers look like, for OpenAPI."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict

from sanseg.serve import problems as problem_details


class ProblemDetails(BaseModel):
    """RFC 9457. detail: what was got, what was wanted, the remedy."""

    type: str
    title: str
    status: int
    detail: str


class Image(BaseModel):
    """An encoded picture. bytes: it takes in memory. seconds_left: it stays, unless it is asked for again."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "6f1c3a0d9be24f7781c5d02e4a9b3f60",
                "width": 640,
                "height": 480,
                "model": "mini",
                "bytes": 4521984,
                "seconds_left": 3600,
            }
        }
    )
    id: str
    width: int
    height: int
    model: str
    bytes: int
    seconds_left: int


class Model(BaseModel):
    id: str
    default: bool
    device: str
    dtype: str


class LabelSetName(BaseModel):
    """labels: how many."""

    name: str
    labels: int


class FormatName(BaseModel):
    """ending: of its files. what: it is. type: of media."""

    name: str
    ending: str
    what: str
    type: str


class Limits(BaseModel):
    bytes: int
    pixels: int
    labels: int
    label_characters: int


class About(BaseModel):
    """keys: whether one is needed to ask."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "models": [{"id": "mini", "default": True, "device": "cpu", "dtype": "float32"}],
                "label_sets": [{"name": "ade150", "labels": 150}],
                "formats": [
                    {
                        "name": "index",
                        "ending": ".index.png",
                        "what": "the label map, with a palette and the names",
                        "type": "image/png",
                    }
                ],
                "limits": {"bytes": 33554432, "pixels": 25000000, "labels": 1000, "label_characters": 256},
                "keys": False,
            }
        }
    )
    models: list[Model]
    label_sets: list[LabelSetName]
    formats: list[FormatName]
    limits: Limits
    keys: bool


class Label(BaseModel):
    label: str
    synonyms: list[str]


class LabelSet(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {"name": "camvid", "labels": [{"label": "sidewalk", "synonyms": ["pavement"]}]}
        }
    )
    name: str
    labels: list[Label]


EXAMPLES = {
    400: "the form cannot be read (Missing boundary in multipart.): send one file and at most 16 fields",
    401: "no key came: send the header Authorization: Bearer KEY, with a key that its owner gave you",
    403: "a page of 'https://example.org' may not ask here: start the service with --origin for it",
    404: "there is no such picture of yours here: it was forgotten, or the service was started anew; send it again"
    " with POST /v1/images",
    406: "Accept is 'video/mp4': take one of application/json, image/png, or name a format in the field format",
    408: "the body did not come within 60 seconds: send it faster",
    413: "the request has 52428800 bytes or more, at most 33554432 are taken: send a smaller picture",
    415: "the body is text/plain: send multipart/form-data with a part image",
    421: "this service is not called 'evil.example': use its address, or start it with --name evil.example",
    422: "this picture of 12 bytes is no picture, or is damaged at its beginning, or in a format other than JPEG, PNG:"
    " convert it to JPEG or PNG",
    500: "the service failed, which is its own mistake: its log says how",
    503: "32 pictures are waiting or at work, the most that may: ask again later",
    504: "there was no answer within 60 seconds: ask again, or send less",
}


def describe(app: FastAPI, keys: bool) -> dict[str, Any]:
    """The OpenAPI of the service. keys: whether they are needed.

    Without what the framework adds by itself: answers in a form of its own, which are never given here.
    """
    told = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
    )
    schemas = told["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operation in (one for path in told["paths"].values() for one in path.values()):
        invalid = operation["responses"].get("422", {}).get("content", {})
        if problem_details.TYPE not in invalid:
            operation["responses"].pop("422", None)
        if keys and "401" in operation["responses"]:
            operation["security"] = [{"key": []}]
    if keys:
        told["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return told


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses of an endpoint that may answer with these problems, beside those that any may."""
    schema = ProblemDetails.model_json_schema()
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {
                problem_details.TYPE: {
                    "schema": schema,
                    "example": {
                        "type": "about:blank",
                        "title": HTTPStatus(status).phrase,
                        "status": status,
                        "detail": EXAMPLES[status],
                    },
                }
            },
            **(
                {"headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}}
                if status == 503
                else {}
            ),
        }
        for status in sorted({*statuses, 421, 500})
    }
