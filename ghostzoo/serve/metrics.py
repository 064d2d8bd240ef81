"""What the server counts and measures, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from .scheduler import Answer, Lane, Outcome

_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """The server's own registry; an observer of the scheduler."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        on_model = ("model", "engine")
        self._requests = Counter(
            "ghostzoo_requests", "Requests answered.", ("protocol", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "ghostzoo_request_seconds",
            "Time from a request's arrival to the end of its answer.",
            ("protocol", "route"),
            buckets=_LATENCIES,
            registry=self._registry,
        )
        self._active = Gauge("ghostzoo_requests_active", "Requests now.", ("protocol",), registry=self._registry)
        self._rejected = Counter(
            "ghostzoo_rejected", "Requests refused because the server was full.", registry=self._registry
        )
        self._images = Counter(
            "ghostzoo_images", "Images by what became of them.", (*on_model, "outcome"), registry=self._registry
        )
        self._batches = Histogram(
            "ghostzoo_batch_images",
            "Images in a call of the engine.",
            on_model,
            buckets=_BATCHES,
            registry=self._registry,
        )
        self._stages = Histogram(
            "ghostzoo_stage_seconds",
            "Time of an image in each stage: queue, decode, batch (waiting for it), inference.",
            (*on_model, "stage"),
            buckets=_LATENCIES,
            registry=self._registry,
        )
        self._queue = Gauge("ghostzoo_queue_images", "Images that wait.", registry=self._registry)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Ask ``waiting`` for the length of the queue whenever the metrics are read."""
        self._queue.set_function(waiting)

    def render(self) -> bytes:
        """Return everything in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)

    def on_request(self, protocol: str) -> None:
        self._active.labels(protocol).inc()

    def on_answer(self, protocol: str, route: str, status: str, seconds: float) -> None:
        self._active.labels(protocol).dec()
        self._requests.labels(protocol, route, status).inc()
        self._seconds.labels(protocol, route).observe(seconds)

    def on_rejected(self) -> None:
        self._rejected.inc()

    def on_batch(self, lane: Lane, size: int, seconds: float) -> None:
        self._batches.labels(lane.model, lane.engine).observe(size)

    def on_image(self, lane: Lane, outcome: Outcome) -> None:
        model, engine = lane.model, lane.engine
        if isinstance(outcome, Answer):
            self._images.labels(model, engine, "classified").inc()
            stages = outcome.stages
            for stage, seconds in (
                ("queue", stages.queue),
                ("decode", stages.decode),
                ("batch", stages.batch),
                ("inference", stages.inference),
            ):
                self._stages.labels(model, engine, stage).observe(seconds)
        else:
            self._images.labels(model, engine, "failed").inc()
