"""The command `sanseg`. Whatever loads torch is imported inside the commands, so that --help answers at once."""

from sanseg.cli import models, prepare, prepare_benchmarks, segment, train  # each adds its commands to the app
from sanseg.cli.shell import app

__all__ = ["app", "main", "models", "prepare", "prepare_benchmarks", "segment", "train"]


def main() -> None:
    """The entry point."""
    app()
