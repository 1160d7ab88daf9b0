"""Encoded pictures in memory, bounded by bytes and by age; which is whose."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from sanseg.segmenter import Encoded
from sanseg.serve.problems import Problem


@dataclass(frozen=True, eq=False)
class Kept:
    """An encoded picture, whose it is, and until when it stays if nobody asks for it."""

    id: str
    client: bytes
    encoded: Encoded
    bytes: int
    until: float


class Store:
    """At most so many bytes; what was not asked for longest goes first, and what nobody asked for in so long.

    An id is a keyed hash of the client and of the picture's file, by a secret that dies with the process: nobody can
    guess another's, and the same picture has the same id for the same client.
    """

    def __init__(self, most_bytes: int, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._most_bytes, self._seconds, self._clock = most_bytes, seconds, clock
        self._secret = secrets.token_bytes(32)
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # in the order of when they were asked for last
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def id(self, client: bytes, data: bytes) -> str:
        """Of a picture's file: 32 hexadecimal digits."""
        told = hmac.new(self._secret, len(client).to_bytes(8, "big") + client, hashlib.sha256)
        told.update(data)
        return told.hexdigest()[:32]

    def put(self, id_: str, client: bytes, encoded: Encoded) -> Kept:
        """Raises Problem for what has no room even alone."""
        size = size_of(encoded)
        if size > self._most_bytes:
            raise Problem(
                413,
                f"the encoded picture takes {size} bytes, and {self._most_bytes} may be kept: make it smaller, or"
                " ask with POST /v1/segment, which keeps nothing",
            )
        self._drop(id_)
        self.sweep()
        while self.bytes + size > self._most_bytes:
            self._drop(next(iter(self._kept)))
        kept = Kept(id_, client, encoded, size, self._clock() + self._seconds)
        self._kept[id_] = kept
        self.bytes += size
        return kept

    def find(self, id_: str, client: bytes) -> Kept:
        """Asked for, it stays. Raises Problem where this client has no such picture."""
        self.sweep()
        kept = self._kept.get(id_)
        if kept is None or not hmac.compare_digest(kept.client, client):
            raise Problem(
                404,
                "there is no such picture of yours here: it was forgotten, or the service was started anew; send"
                " it again with POST /v1/images",
            )
        fresh = Kept(kept.id, kept.client, kept.encoded, kept.bytes, self._clock() + self._seconds)
        self._kept[id_] = fresh
        self._kept.move_to_end(id_)
        return fresh

    def forget(self, id_: str, client: bytes) -> None:
        """Raises Problem where this client has no such picture."""
        self.find(id_, client)
        self._drop(id_)

    def sweep(self) -> None:
        """Drops what is too old."""
        now = self._clock()
        while self._kept and (first := next(iter(self._kept.values()))).until <= now:
            self._drop(first.id)

    def _drop(self, id_: str) -> None:
        kept = self._kept.pop(id_, None)
        if kept is not None:
            self.bytes -= kept.bytes


def size_of(encoded: Encoded) -> int:
    """Bytes in memory."""
    proposals = encoded.proposals
    image = 0 if encoded.image is None else encoded.image.nbytes
    return image + sum(one.numel() * one.element_size() for one in proposals.tensors)
