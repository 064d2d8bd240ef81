from __future__ import annotations

import pytest

from exporters.flops import count_flops
from ghostzoo.catalog import get_model, list_official_models
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.graph import build_graph
from tests.fixtures.networks import random_arrays


@pytest.mark.parametrize("name", list_official_models())
def test_the_graph_counts_as_published(name: str) -> None:
    model = get_model(name)
    architecture = Architecture.of(model.width, 1000)
    graph = build_graph(
        random_arrays(architecture), architecture, model_name=name, weights_sha256="0" * 64, image_size=224
    )
    counts = count_flops(graph, architecture)
    report = counts.to_report(model.published)
    assert report["parameters_agree"]
    assert report["multiply_adds_agree"]
    assert counts.trainable_parameters == architecture.count_parameters()
    assert counts.multiply_adds == architecture.count_multiply_adds(224)
    assert counts.padded_multiply_adds > counts.multiply_adds


def test_another_network_does_not_count_as_published() -> None:
    architecture = Architecture.of(0.6, 1000)
    graph = build_graph(
        random_arrays(architecture), architecture, model_name="x", weights_sha256="0" * 64, image_size=224
    )
    report = count_flops(graph, architecture).to_report(get_model("GhostNet_x0_5").published)
    assert not report["parameters_agree"]
    assert not report["multiply_adds_agree"]
    assert "parameters_agree" not in count_flops(graph, architecture).to_report(None)


def test_the_graph_must_be_that_of_the_architecture() -> None:
    architecture = Architecture.of(0.5, 10)
    graph = build_graph(
        random_arrays(architecture), architecture, model_name="x", weights_sha256="0" * 64, image_size=64
    )
    with pytest.raises(ValueError, match=r"shape|not the graph"):
        count_flops(graph, Architecture.of(0.6, 10))


def test_dead_channels_are_no_padding() -> None:
    architecture = Architecture.of(0.5, 10)
    arrays = random_arrays(architecture)
    key = next(key for key in arrays if key.endswith("primary_conv._conv.weight"))
    dead = {**arrays, key: arrays[key] * 0}
    counted = [
        count_flops(
            build_graph(weights, architecture, model_name="x", weights_sha256="0" * 64, image_size=64), architecture
        )
        for weights in (arrays, dead)
    ]
    assert counted[0] == counted[1]
