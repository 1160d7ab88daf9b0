"""What clients ask: pictures, words, and what there is to ask for."""

from __future__ import annotations

from pathlib import PurePosixPath
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from sanseg.data.labelsets import LABELSETS, SHORT_NAMES, read_labelset
from sanseg.devices import name_dtype
from sanseg.formats import FORMATS
from sanseg.serve import answers, schema, words
from sanseg.serve.problems import Problem
from sanseg.serve.service import Service, is_name
from sanseg.serve.store import Kept
from sanseg.vocabulary import MAX_CHARACTERS

router = APIRouter(prefix="/v1")

SETS = {
    name: short for short, name in SHORT_NAMES.items()
}  # what they are called here: short where that is a name

FORM = {
    "type": "object",
    "required": ["image"],
    "additionalProperties": False,
    "properties": {
        "image": {
            "type": "string",
            "format": "binary",
            "example": "@photo.jpg",
            "description": "A picture's file: JPEG, PNG, WebP, ...",
        }
    },
}
ASK_FORM = {
    **FORM,
    "required": ["image", "labels"],
    "properties": {
        **FORM["properties"],  # type: ignore[dict-item]
        "labels": {
            "type": "string",
            "example": "cat, sofa | couch",
            "description": "With commas, as in a text; or a list in JSON, which takes labels whole.",
        },
        "other": {"type": "string", "example": "auto", "description": "auto, none, or words with commas."},
        "threshold": {"type": "string", "example": "0.3", "description": "From 0 to 1."},
        "colours": {"type": "string", "example": '{"cat": "#4488ff"}', "description": "JSON."},
        "format": {"type": "string", "example": "json"},
        "picture": {"type": "string", "example": "cat.jpg"},
    },
}


def _body(type_: str, of: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {type_: {"schema": of}}}}


ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, in the format asked for.",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "sanseg": "0.1.0",
                    "model": "mini",
                    "width": 640,
                    "height": 480,
                    "regions": [
                        {
                            "id": 0,
                            "label": "cat",
                            "pixels": 120000,
                            "share": 0.390625,
                            "mean_confidence": 0.81,
                            "rle": {"size": [480, 640], "counts": "..."},
                        }
                    ],
                    "labels": [{"id": 0, "label": "cat", "synonyms": []}],
                },
            },
            **{
                type_.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
                for type_ in (*answers.TYPES.values(), answers.VIEW_TYPE)
                if type_ != "application/json"
            },
        },
    }
}


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get("/models", tags=["what there is"], responses=schema.problems(503))
async def models(request: Request) -> schema.About:
    """The model, the built-in label sets, the formats, the limits, and whether a key is needed. Needs none."""
    service = service_of(request)
    san = service.worker.segmenter.san
    settings = service.settings
    return schema.About(
        models=[
            schema.Model(
                id=san.config.name,
                default=True,
                device=str(service.worker.segmenter.device),
                dtype=name_dtype(san.nothing.dtype),
            )
        ],
        label_sets=[
            schema.LabelSetName(name=SETS.get(name, name), labels=len(read_labelset(name)))
            for name in LABELSETS
        ],
        formats=[
            schema.FormatName(
                name=name,
                ending=FORMATS[name].ending + (".zip" if FORMATS[name].ending == ".masks" else ""),
                what=FORMATS[name].what,
                type=answers.TYPES[PurePosixPath(f"x{FORMATS[name].ending}").suffix],
            )
            for name in answers.installed()
        ],
        limits=schema.Limits(
            bytes=settings.bytes,
            pixels=settings.pixels,
            labels=settings.labels,
            label_characters=MAX_CHARACTERS,
        ),
        keys=bool(service.keys),
    )


@router.get("/label-sets/{name}", tags=["what there is"], responses=schema.problems(404))
async def label_set(name: str) -> schema.LabelSet:
    """The labels of a built-in set, in the order of their ids. Needs no key."""
    try:
        lines = read_labelset(name)
    except ValueError as error:
        raise Problem(404, str(error)) from error
    names = [line.split(" | ") for line in lines]
    return schema.LabelSet(name=name, labels=[schema.Label(label=one[0], synonyms=one[1:]) for one in names])


@router.post(
    "/images",
    status_code=201,
    tags=["encode once, ask often"],
    openapi_extra=_body("multipart/form-data", FORM),
    responses=schema.problems(400, 401, 403, 408, 413, 415, 422, 503, 504),
)
async def keep(request: Request, response: Response) -> schema.Image:
    """Encodes a picture and keeps it for a while: the expensive half. The same picture again has the same id."""
    service = service_of(request)
    client = service.admit(request, "pictures")
    form = await service.bodies.form(request)
    kept = await service.while_wanted(request, service.keep(client, form.image))
    response.headers["Location"] = request.url_for("describe", id=kept.id).path
    return described(service, kept)


@router.get("/images/{id}", tags=["encode once, ask often"], responses=schema.problems(401, 404, 503))
async def describe(request: Request, id: str) -> schema.Image:
    """What is kept of a picture."""
    service = service_of(request)
    return described(service, service.store.find(id, service.admit(request)))


@router.delete(
    "/images/{id}",
    status_code=204,
    tags=["encode once, ask often"],
    responses=schema.problems(401, 403, 404, 503),
)
async def forget(request: Request, id: str) -> Response:
    """Forgets a picture."""
    service = service_of(request)
    service.store.forget(id, service.admit(request))
    return Response(status_code=204)


@router.post(
    "/images/{id}/segment",
    tags=["encode once, ask often"],
    openapi_extra=_body("application/json", words.Ask.model_json_schema()),
    response_class=Response,
    responses={**ANSWER, **schema.problems(400, 401, 403, 404, 406, 408, 413, 415, 422, 503, 504)},
)
async def ask(request: Request, id: str) -> Response:
    """Asks a kept picture a vocabulary: milliseconds."""
    service = service_of(request)
    client = service.admit(request, "questions")
    kept = service.store.find(id, client)
    asked = words.read_json(await service.bodies.json(request))
    work = service.answer(kept.encoded, asked, request.headers.get("accept", ""))
    return sent(await service.while_wanted(request, work))


@router.post(
    "/segment",
    tags=["at once"],
    openapi_extra=_body("multipart/form-data", ASK_FORM),
    response_class=Response,
    responses={**ANSWER, **schema.problems(400, 401, 403, 406, 408, 413, 415, 422, 503, 504)},
)
async def segment(request: Request) -> Response:
    """A picture and words in one call. Nothing is kept."""
    service = service_of(request)
    service.admit(request, "pictures")
    form = await service.bodies.form(request, words.FIELDS)
    asked = words.read_fields(form.fields)
    name = form.name if form.name is not None and is_name(form.name) else None
    work = service.encode_and_answer(form.image, name, asked, request.headers.get("accept", ""))
    return sent(await service.while_wanted(request, work))


def described(service: Service, kept: Kept) -> schema.Image:
    height, width = kept.encoded.geometry.original
    return schema.Image(
        id=kept.id,
        width=width,
        height=height,
        model=service.worker.segmenter.san.config.name,
        bytes=kept.bytes,
        seconds_left=max(0, round(kept.until - monotonic())),
    )


def sent(answer: answers.Answer) -> Response:
    return Response(answer.content, media_type=answer.type, headers=answer.headers)
