"""What the server counts and measures, for Prometheus."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import chain

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from .queueing import Answer, Instance, Outcome

_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)

_STAGES = ("queue", "decode", "batch", "inference")


@dataclass(frozen=True)
class ModelCounts:
    """What was counted of one model since the start, over all its engines."""

    images: int
    failed: int
    batches: int
    seconds: dict[str, float]
    """In each stage, of all its images together."""
    last: float
    """When its engine was last called, in seconds since 1970; 0 for never."""


class _DroppedLines(Collector):
    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        text = "Lines of the log that were dropped: they came too fast, or were not read."
        yield CounterMetricFamily("ghostzoo_log_lines_dropped", text, value=self._count())


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
        self._decoders = Counter(
            "ghostzoo_decoders_replaced",
            "Decoding processes that were replaced: overdue (their image took too long), crashed.",
            ("reason",),
            registry=self._registry,
        )
        self._queue = Gauge("ghostzoo_queue_images", "Images that wait.", registry=self._registry)
        self._buffered = Gauge(
            "ghostzoo_buffered_bytes", "Requests and large answers in memory.", registry=self._registry
        )
        self._last: dict[str, float] = {}
        # Looking a child up by its labels takes longer than counting in it.
        self._child = cache(lambda metric, *labels: metric.labels(*labels))

    def watch(self, *, waiting: Callable[[], int], buffered: Callable[[], int]) -> None:
        """Ask for the length of the queue and the size of the bodies in memory whenever the metrics are read."""
        self._queue.set_function(waiting)
        self._buffered.set_function(buffered)

    def watch_log(self, dropped: Callable[[], int]) -> None:
        """Ask for the number of dropped lines of the log whenever the metrics are read."""
        self._registry.register(_DroppedLines(dropped))

    def render(self) -> bytes:
        """Return everything in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)

    def of_model(self, model: str) -> ModelCounts:
        counts: defaultdict[str, float] = defaultdict(float)
        for metric in (self._images, self._batches, self._stages):
            for sample in chain.from_iterable(family.samples for family in metric.collect()):
                if sample.labels.get("model") == model and "le" not in sample.labels:
                    labels = (sample.labels.get("outcome", ""), sample.labels.get("stage", ""))
                    counts[":".join((sample.name, *labels))] += sample.value
        return ModelCounts(
            round(counts["ghostzoo_images_total:classified:"]),
            round(counts["ghostzoo_images_total:failed:"]),
            round(counts["ghostzoo_batch_images_count::"]),
            {stage: counts[f"ghostzoo_stage_seconds_sum::{stage}"] for stage in _STAGES},
            self._last.get(model, 0.0),
        )

    def on_request(self, protocol: str) -> None:
        self._child(self._active, protocol).inc()

    def on_answer(self, protocol: str, route: str, status: str, seconds: float) -> None:
        self._child(self._active, protocol).dec()
        self._child(self._requests, protocol, route, status).inc()
        self._child(self._seconds, protocol, route).observe(seconds)

    def on_rejected(self) -> None:
        self._rejected.inc()

    def on_decoder_replaced(self, reason: str) -> None:
        self._decoders.labels(reason).inc()

    def on_batch(self, instance: Instance, size: int, seconds: float) -> None:
        self._child(self._batches, instance.model, instance.engine).observe(size)
        self._last[instance.model] = time.time()

    def on_image(self, instance: Instance, outcome: Outcome) -> None:
        labels = instance.model, instance.engine
        if not isinstance(outcome, Answer):
            self._child(self._images, *labels, "failed").inc()
            return
        self._child(self._images, *labels, "classified").inc()
        for stage in _STAGES:
            self._child(self._stages, *labels, stage).observe(getattr(outcome.stages, stage))
