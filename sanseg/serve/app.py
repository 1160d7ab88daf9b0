"""The application: pages, and what machines ask about it. What clients ask is in `api.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from sanseg.segmenter import Segmenter
from sanseg.serve import api, docs, health, schema
from sanseg.serve.guard import Guard
from sanseg.serve.problems import Problem
from sanseg.serve.service import Service
from sanseg.serve.settings import Settings
from sanseg.serve.words import explain
from sanseg.version import VERSION

STATIC = Path(str(files("sanseg.serve") / "static"))


def create_app(segmenter: Segmenter | Callable[[], Segmenter], settings: Settings | None = None) -> FastAPI:
    """The service as an ASGI application, for one process with one event loop.

    segmenter: what answers, or a function that loads it; until it has, in the thread that computes, everything that
        needs it is answered with 503. settings: None is the default of each.
    The application's `state.service` is what its requests share.
    """
    load = (lambda: segmenter) if isinstance(segmenter, Segmenter) else segmenter
    service = Service(load, Settings() if settings is None else settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="sanseg",
        summary="Segment anything you can name.",
        description=docs.DESCRIPTION,
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(api.router)
    app.include_router(health.router)
    app.include_router(docs.router)
    app.add_api_route("/", page, methods=["GET"], include_in_schema=False)
    app.openapi = cache(partial(schema.describe, app, bool(service.keys)))  # type: ignore[method-assign]
    if STATIC.is_dir():
        app.mount("/static", Revalidated(directory=STATIC))
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    if service.settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", "Content-Disposition"],
        )
    app.add_middleware(Guard, service=service)
    return app


class Revalidated(StaticFiles):
    """Files that a browser keeps, and asks about each time."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        return response


async def page() -> Response:
    """The page that people try it with."""
    index = STATIC / "index.html"
    if not index.is_file():
        raise Problem(404, "this service has no page: its API is described at /docs")
    return FileResponse(index, headers={"Cache-Control": "no-cache"})


async def _problem(request: Request, error: Exception) -> Response:
    """What the framework raises by itself says too little."""
    assert isinstance(error, HTTPException)
    if isinstance(error, Problem):
        return error.response()
    details = {
        404: "there is nothing at this path: GET /docs shows what there is",
        405: f"{request.method[:20]} is not taken here: GET /docs shows what is",
    }
    if request.method == "OPTIONS":  # a browser asks so before a page of another server may
        details[405] = (
            "OPTIONS is not taken: start the service with --origin for each server whose pages may ask"
        )
    headers = {**(error.headers or {})}
    if error.status_code == 405:  # the framework names the methods of the first function at this path alone
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    detail = details.get(error.status_code, str(error.detail))
    return Problem(error.status_code, detail, headers).response()


def _methods(request: Request) -> set[str]:
    return {
        method
        for path, operations in request.app.openapi()["paths"].items()
        for method in map(str.upper, operations)
        if compile_path(path)[0].match(request.scope["path"])
    } or {"GET"}


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return Problem(422, explain(error.errors())).response()
