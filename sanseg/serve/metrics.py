"""What a service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Of one service: `route` is the path as documented, never what a client sent."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "sanseg_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "sanseg_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.encode_seconds = Histogram(
            "sanseg_encode_seconds", "The network, for each picture.", buckets=SECONDS, registry=registry
        )
        self.answer_seconds = Histogram(
            "sanseg_answer_seconds",
            "Words of an encoded picture, to its label map.",
            buckets=SECONDS,
            registry=registry,
        )
        self.batch = Histogram(
            "sanseg_batch_pictures",
            "Pictures that shared a pass.",
            buckets=(1, 2, 4, 8, 16),
            registry=registry,
        )

    def gauges(self, values: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        """Numbers that are read when asked for: what they are, and how they are read, by name."""
        for name, (what, read) in values.items():
            Gauge(name, what, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        return generate_latest(self._registry)
