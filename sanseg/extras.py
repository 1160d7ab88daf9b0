"""Libraries that come with an extra: loaded when they are needed, and named where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def need(module: str, extra: str, purpose: str) -> Any:
    """A module that an extra of ours installs.

    Raises ValueError, which says what to install, where it is missing.
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ValueError(
            f"{purpose} needs {name}, which is not installed: pip install 'sanseg[{extra}]'"
        ) from error
