"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper ends of the histogram, in seconds."""


class Metrics:
    """The counts of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lc_finetune_requests", "Requests that were answered.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "lc_finetune_request_seconds", "From a request to the end of its response.", ["path"],
            buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "lc_finetune_requests_in_flight", "Requests that are being answered.", registry=self.registry
        )
        self.items = Counter(
            "lc_finetune_items", "Inputs of /predict and questions of /v1/systemone.", ["path", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.reloads = Counter("lc_finetune_reloads", "Exchanges of the models.", ["outcome"], registry=self.registry)

    def text(self) -> bytes:
        """Write all as Prometheus reads it."""
        return generate_latest(self.registry)
