"""What a service may be told: limits, bounds, and who may ask."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sanseg.vocabulary import MAX_LABELS

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Of one service. All are the whole service's, unless they say otherwise.

    keys: who may ask; () lets anyone.
    origins: pages of other servers that may ask, as "https://example.org".
    hosts: names by which clients may call this service, beside localhost and addresses.
    bytes: of one picture's file, at most. pixels: of one picture, at most.
    labels: of one vocabulary, at most; so many words may compete with them, and of names it may have 4 times as many.
    kept_bytes: of encoded pictures in memory. kept_seconds: how long one that nobody asks for stays.
    waiting: pictures that may be at work or wait, and questions; more are refused with 503.
    requests: that may be open at once, whatever they ask; more are refused with 503.
    receiving_bytes: of bodies in memory that have not fully come.
    batch: pictures that share a pass at most. None: 1 on a CPU, where more gain nothing, else 8.
    batch_seconds: how long a pass waits for another picture that is being decoded.
    seconds: from a whole request to its answer, at most. receiving_seconds: that a request may take to come.

    Raises ValueError for numbers below 1 (`batch_seconds`: 0), for more labels than a label map
    holds, and for what is no origin or no name of a host.
    """

    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    bytes: int = 32 * MEGABYTE
    pixels: int = 25_000_000
    labels: int = 1_000
    kept_bytes: int = 1024 * MEGABYTE
    kept_seconds: float = 3600.0
    waiting: int = 32
    requests: int = 512
    receiving_bytes: int = 512 * MEGABYTE
    batch: int | None = None
    batch_seconds: float = 0.004
    seconds: float = 60.0
    receiving_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("keys", "origins", "hosts") or value is None:
                continue
            least = 0 if field.name.endswith("seconds") else 1
            if not least <= value < float("inf"):
                raise ValueError(f"{field.name} is {value}: give at least {least}")
        for origin in self.origins:
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not rest or {"/", "*", " "} & {*rest}:
                raise ValueError(f"{origin!r} is no origin: give one without a path, as https://example.org")
        for host in self.hosts:
            if "/" in host or host.count(":") == 1:  # an address has more colons, or none
                raise ValueError(f"{host!r} is no name of a host: give it alone, as example.org")
        if self.labels > MAX_LABELS:
            raise ValueError(f"labels is {self.labels}: a label map has room for {MAX_LABELS}")

    @property
    def text_bytes(self) -> int:
        """What a request may hold beside its picture: room for labels and what competes, as JSON escapes them."""
        return self.labels * 1024 + 64 * 1024
