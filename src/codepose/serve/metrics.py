"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The service's numbers.

    Args:
        waiting: Says how many requests wait.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "codepose_requests", "Requests by path and status", ["path", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "codepose_request_seconds", "From a request to its answer", ["path"], buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.batch = Histogram(
            "codepose_batch_size", "Photos looked at together", buckets=(1, 2, 4, 8, 16, 32), registry=self._registry
        )
        self.detections = Counter("codepose_detections", "Parts found", ["model"], registry=self._registry)
        gauge = Gauge("codepose_waiting_requests", "Requests that wait for the network", registry=self._registry)
        gauge.set_function(waiting)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)
