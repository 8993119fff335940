"""Metrics of the service in Prometheus' format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Requests by path and status, seconds of requests to /predict, sizes of batches, items that wait.

    Args:
        waiting: Gives the number of items in the queue.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sft_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "sft_request_seconds", "Seconds of requests to /predict", buckets=SECONDS, registry=self.registry
        )
        self.sizes = Histogram("sft_batch_size", "Samples of a batch", buckets=SIZES, registry=self.registry)
        Gauge("sft_waiting", "Samples that wait", registry=self.registry).set_function(waiting)

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self.registry)
