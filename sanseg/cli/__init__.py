"""The command `sanseg`. Whatever loads torch is imported inside the commands, so that --help answers at once."""

from sanseg.cli import (  # each adds its commands to the app
    bench,
    calibrate,
    evaluate,
    export,
    models,
    prepare,
    prepare_benchmarks,
    report,
    segment,
    serve,
    train,
    words,
)
from sanseg.cli.shell import app

__all__ = [
    "app",
    "bench",
    "calibrate",
    "evaluate",
    "export",
    "main",
    "models",
    "prepare",
    "prepare_benchmarks",
    "report",
    "segment",
    "serve",
    "train",
    "words",
]


def main() -> None:
    """The entry point."""
    app()
