"""The documentation of the API: Swagger UI, whose files come with a package, so that it works offline."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

from sanseg.serve.guard import POLICY

DESCRIPTION = """\
A picture and words in, a label map out. A picture is encoded once (`POST /v1/images`) and asked any number of
vocabularies (`POST /v1/images/{id}/segment`), each of which takes milliseconds; or both at once (`POST /v1/segment`).

Errors are problem details (RFC 9457): `detail` says in one line what was got, what was wanted, and the remedy.
"""

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sanseg: API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="data:,">
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""

START = """\
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
"""

# Swagger UI styles some elements in place; its icons are data.
DOCS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")

router = APIRouter(prefix="/docs", include_in_schema=False)


@router.get("")
async def page() -> Response:
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": DOCS_POLICY})


@router.get("/start.js")
async def start() -> Response:
    return Response(START, media_type="text/javascript")


@router.get("/swagger-ui.css")
async def style() -> Response:
    return _bundled("swagger-ui.css")


@router.get("/swagger-ui-bundle.js")
async def script() -> Response:
    return _bundled("swagger-ui-bundle.js")


def _bundled(name: str) -> Response:
    """A file of fastapi-offline, which holds Swagger UI as it was released."""
    return FileResponse(Path(str(files("fastapi_offline") / "static" / name)))
