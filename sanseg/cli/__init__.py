"""The command `sanseg`. Whatever loads torch is imported inside the commands, so that --help answers at once."""

from sanseg.cli import (  # each adds its commands to the app
    bench,
    evaluate,
    export,
    models,
    prepare,
    prepare_benchmarks,
    report,
    segment,
    train,
)
from sanseg.cli.shell import app

__all__ = [
    "app",
    "bench",
    "evaluate",
    "export",
    "main",
    "models",
    "prepare",
    "prepare_benchmarks",
    "report",
    "segment",
    "train",
]


def main() -> None:
    """The entry point."""
    app()
