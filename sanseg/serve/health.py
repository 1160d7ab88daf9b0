"""What machines that keep the service ask: whether it lives, whether it takes work, and its numbers."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from sanseg.serve import metrics
from sanseg.serve.schema import problems
from sanseg.serve.service import Service

router = APIRouter(tags=["operation"])


@router.get("/healthz", responses={200: {"content": {"application/json": {"example": {"status": "alive"}}}}})
async def healthz() -> Response:
    """200 as long as the process lives."""
    return JSONResponse({"status": "alive"})


@router.get(
    "/readyz",
    responses={200: {"content": {"application/json": {"example": {"status": "ready"}}}}, **problems(503)},
)
async def readyz(request: Request) -> Response:
    """200 once the model is loaded and work is taken; 503 before, and while the service shuts down."""
    service: Service = request.app.state.service
    service.check_open()
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"example": "# HELP ..."}}}, **problems(401)},
)
async def numbers(request: Request) -> Response:
    """Counts and times for Prometheus. With API keys, it needs one."""
    service: Service = request.app.state.service
    service.keys.client(request.headers.get("authorization"))
    return Response(service.metrics.text(), media_type=metrics.TYPE)
