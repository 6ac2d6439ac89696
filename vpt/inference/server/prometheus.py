"""Prometheus metrics of a server."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Collection, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily


class ServerMetrics:
    """Metrics of one server, in its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("vpt_requests_total", "requests by status", ["status"], registry=self.registry)
        self.latency = Histogram("vpt_request_seconds", "time of a prediction request", registry=self.registry)
        self.batch = Histogram(
            "vpt_batch_images",
            "images in a batch",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=self.registry,
        )
        self.compute = Histogram("vpt_batch_seconds", "time of a batch", registry=self.registry)
        self.waiting = Gauge("vpt_waiting_images", "images in the queue", registry=self.registry)
        self.decoding = Gauge("vpt_decoding_images", "images waiting to be decoded", registry=self.registry)
        self.uploads = Gauge("vpt_upload_bytes", "bytes of uploads in memory", registry=self.registry)
        self.tasks = Gauge("vpt_tasks", "tasks served", registry=self.registry)
        self.bad = Gauge("vpt_bad_artifacts", "artifacts of the folder that are not served", registry=self.registry)
        self.keys_broken = Gauge("vpt_keys_broken", "1 while the key file cannot be read", registry=self.registry)
        self._answered: Counts[str] = Counts()  # images by task; names are not public

    def observe_batch(self, size: int, seconds: float) -> None:
        """Record a batch."""
        self.batch.observe(size)
        self.compute.observe(seconds)

    def count_image(self, task: str) -> None:
        """Count an image answered by a task."""
        self._answered[task] += 1

    def text(self, tasks: Collection[str]) -> bytes:
        """All metrics in Prometheus' text format; counts by task only for these tasks."""
        by_task = CollectorRegistry()
        by_task.register(_Images({task: self._answered[task] for task in tasks if task in self._answered}))
        return generate_latest(self.registry) + generate_latest(by_task)


class _Images:
    """Collector of answered images by task."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts

    def collect(self) -> Iterator[Metric]:
        """Called by a registry."""
        family = CounterMetricFamily("vpt_images", "answered images by task", labels=["task"])
        for task, count in self.counts.items():
            family.add_metric([task], count)
        yield family
