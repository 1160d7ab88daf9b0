"""Who may ask: API keys, and what tells clients apart."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from sanseg.serve.problems import Problem

SHORTEST = 16  # characters; `openssl rand -hex 16` gives 32
ANYBODY = b""  # the one client of a service without keys


def read_keys(path: Path) -> tuple[str, ...]:
    """From a file, a key a line; blank lines and lines that begin with # are skipped.

    Raises ValueError, which tells the line and never the key, for one that is short or no visible ASCII, and for a
    file without keys or that is no UTF-8; OSError for a file that cannot be read.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}): give a file with a key a line") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    keys = {number: line for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
    for number, key in keys.items():
        if len(key) < SHORTEST or not all("!" <= letter <= "~" for letter in key):
            raise ValueError(
                f"line {number} of {path} is no key: wanted at least {SHORTEST} visible ASCII characters, without"
                " spaces, as `openssl rand -hex 16` gives them"
            )
    if not keys:
        raise ValueError(f"{path} holds no keys: write one a line")
    return tuple(keys.values())


class Keys:
    """Known by their hashes alone."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = tuple(_hashed(key.encode()) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def client(self, authorization: str | None) -> bytes:
        """Who asks, by the header Authorization. Raises Problem for who may not.

        Every key is compared, each in constant time, so that no time tells which was nearly right.
        """
        if not self._hashes:
            return ANYBODY
        kind, _, key = (authorization or "").partition(" ")
        told = _hashed(key.strip().encode("utf-8", "surrogateescape"))
        found = [known for known in self._hashes if hmac.compare_digest(known, told)]
        if kind.lower() != "bearer" or not found:
            got = "no key came" if not authorization else "the key is none of this service's"
            raise Problem(
                401,
                f"{got}: send the header Authorization: Bearer KEY, with a key that its owner gave you",
                {"WWW-Authenticate": 'Bearer realm="sanseg"'},
            )
        return found[0]


def _hashed(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
