"""`sanseg serve`: the page and the service."""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path
from typing import Annotated

import typer

from sanseg.cli.model_options import Clip, Device, Dtype, Quiet, what_computes
from sanseg.cli.model_options import Model as ModelOption
from sanseg.cli.shell import BAD_USE, app, complain, mistakes_in_one_line

EXIT_CODES = f"Exit codes: 0 stopped by SIGTERM or Ctrl-C; {BAD_USE} bad use, nothing was served."


@app.command(epilog=EXIT_CODES)
def serve(
    host: Annotated[
        str, typer.Option(help="The address to answer on; 0.0.0.0 is all of them.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    model: ModelOption = "mini",
    clip: Clip = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    keys: Annotated[
        Path | None,
        typer.Option(help="A file of API keys, one a line: only who has one may ask.", show_default=False),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Another server whose pages may ask: https://example.org. Repeatable.", show_default=False
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that clients call this service by, beside localhost and addresses. Repeatable.",
            show_default=False,
        ),
    ] = None,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Of a picture's file.")] = 32,
    max_megapixels: Annotated[int, typer.Option(min=1, help="Of a picture.")] = 25,
    max_labels: Annotated[int, typer.Option(min=1, help="Of a vocabulary.")] = 1_000,
    keep_megabytes: Annotated[int, typer.Option(min=1, help="Of encoded pictures in memory.")] = 1_024,
    keep_minutes: Annotated[
        float, typer.Option(min=0, help="That a picture stays when nobody asks for it.")
    ] = 60,
    max_waiting: Annotated[
        int,
        typer.Option(
            min=1, help="Pictures that may wait or be at work, and as many questions; more get 503."
        ),
    ] = 32,
    max_seconds: Annotated[float, typer.Option(min=0.001, help="That an answer may take; then 504.")] = 60,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures that share a pass, at most.", show_default="1 on a CPU, else 8"),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    quiet: Quiet = False,
) -> None:
    """Serve the page and the API (docs/SERVICE.md), on this machine alone unless --host says otherwise."""
    with mistakes_in_one_line():
        from sanseg.extras import need

        for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "fastapi_offline"):
            need(module, "serve", "sanseg serve")
        import numpy as np

        from sanseg.segmenter import Segmenter, load
        from sanseg.serve import server
        from sanseg.serve.app import create_app
        from sanseg.serve.keys import read_keys
        from sanseg.serve.settings import MEGABYTE, Settings

        settings = Settings(
            keys=() if keys is None else read_keys(keys),
            origins=tuple(origin or ()),
            hosts=(host, *(name or ())),
            bytes=max_megabytes * MEGABYTE,
            pixels=max_megapixels * 10**6,
            labels=max_labels,
            kept_bytes=keep_megabytes * MEGABYTE,
            kept_seconds=keep_minutes * 60,
            waiting=max_waiting,
            seconds=max_seconds,
            batch=batch,
        )

        def warm() -> Segmenter:
            """Loaded, and used once, so that the first picture and words take no longer than the next."""
            segmenter = load(model, device, dtype=dtype, clip=clip)
            segmenter(np.zeros((64, 64, 3), dtype=np.uint8), "sky")
            if not quiet:
                typer.echo(what_computes(model, segmenter))
            return segmenter

        application = create_app(warm, settings)
        bound = server.listen(host, port)
        address = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        if not settings.keys and not _is_loopback(host):
            complain(
                f"sanseg: whoever reaches {address} may ask, for there are no API keys: give --keys FILE, or"
                " --host 127.0.0.1"
            )
        logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s")
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        if not quiet:
            typer.echo(f"{model} at {address} (Ctrl-C stops it)")
        server.run(application, bound, open_address=address if open_ else None)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
