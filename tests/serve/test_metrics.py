"""What is counted, under which name."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ghostzoo.errors import ImageError
from ghostzoo.serve.metrics import Metrics
from ghostzoo.serve.queueing import Answer, Stages
from tests.serve.test_scheduler import GatedLane


def values(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return values(metrics).get((name, frozenset(labels.items())))


def test_images_are_counted_by_what_became_of_them() -> None:
    metrics, lane = Metrics(), GatedLane("mine")
    stages = Stages(queue=0.1, decode=0.2, batch=0.3, inference=0.4, batch_size=2)
    for _ in range(2):
        metrics.on_image(lane, Answer(np.zeros(3, np.float32), stages))
    metrics.on_image(lane, ImageError("x", "it is bad"))
    of_lane = {"model": "mine", "engine": "test"}
    assert value(metrics, "ghostzoo_images_total", outcome="classified", **of_lane) == 2
    assert value(metrics, "ghostzoo_images_total", outcome="failed", **of_lane) == 1
    for stage, seconds in (("queue", 0.1), ("decode", 0.2), ("batch", 0.3), ("inference", 0.4)):
        assert value(metrics, "ghostzoo_stage_seconds_count", stage=stage, **of_lane) == 2
        assert value(metrics, "ghostzoo_stage_seconds_sum", stage=stage, **of_lane) == pytest.approx(2 * seconds)


def test_batches_are_counted_by_their_images() -> None:
    metrics, lane = Metrics(), GatedLane("mine")
    metrics.on_batch(lane, 3, 0.5)
    metrics.on_batch(lane, 5, 0.5)
    of_lane = {"model": "mine", "engine": "test"}
    assert value(metrics, "ghostzoo_batch_images_count", **of_lane) == 2
    assert value(metrics, "ghostzoo_batch_images_sum", **of_lane) == 8
    assert value(metrics, "ghostzoo_batch_images_bucket", le="3.0", **of_lane) == 1


def test_requests_are_active_until_they_are_answered() -> None:
    metrics = Metrics()
    metrics.on_request("http")
    metrics.on_request("http")
    metrics.on_answer("http", "/v1/classify", "200", 0.25)
    assert value(metrics, "ghostzoo_requests_active", protocol="http") == 1
    asked = {"protocol": "http", "route": "/v1/classify"}
    assert value(metrics, "ghostzoo_requests_total", status="200", **asked) == 1
    assert value(metrics, "ghostzoo_request_seconds_sum", **asked) == 0.25
    metrics.on_rejected()
    metrics.on_decoder_replaced("crashed")
    assert value(metrics, "ghostzoo_rejected_total") == 1
    assert value(metrics, "ghostzoo_decoders_replaced_total", reason="crashed") == 1


def test_what_is_there_now_is_asked_for_when_it_is_read() -> None:
    metrics = Metrics()
    now = {"waiting": 1, "buffered": 2, "dropped": 3}
    metrics.watch(waiting=lambda: now["waiting"], buffered=lambda: now["buffered"])
    metrics.watch_log(lambda: now["dropped"])
    for _ in range(2):
        assert value(metrics, "ghostzoo_queue_images") == now["waiting"]
        assert value(metrics, "ghostzoo_buffered_bytes") == now["buffered"]
        assert value(metrics, "ghostzoo_log_lines_dropped_total") == now["dropped"]
        now = {name: count + 10 for name, count in now.items()}
