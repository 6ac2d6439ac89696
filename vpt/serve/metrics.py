"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class ServerMetrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("vpt_requests_total", "requests by status", ["status"], registry=self.registry)
        self.images = Counter("vpt_images_total", "answered images by task", ["task"], registry=self.registry)
        self.latency = Histogram("vpt_request_seconds", "time of a prediction request", registry=self.registry)
        self.batch = Histogram(
            "vpt_batch_images",
            "images in a batch",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=self.registry,
        )
        self.compute = Histogram("vpt_batch_seconds", "time of a batch", registry=self.registry)
        self.waiting = Gauge("vpt_waiting_images", "images in the queue", registry=self.registry)
        self.tasks = Gauge("vpt_tasks", "tasks served", registry=self.registry)
        self.bad = Gauge("vpt_bad_artifacts", "artifacts of the folder that are not served", registry=self.registry)

    def observe_batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.batch.observe(size)
        self.compute.observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text form."""
        return generate_latest(self.registry)
