"""The command `sanseg`. Whatever loads torch is imported inside the commands, so that --help answers at once."""

from sanseg.cli import models, segment, train  # each adds its commands to the app
from sanseg.cli.shell import app

__all__ = ["app", "main", "models", "segment", "train"]


def main() -> None:
    """The entry point."""
    app()
