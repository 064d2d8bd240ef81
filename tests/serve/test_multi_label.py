"""A multi-label model on the server, in every API."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests

import ghostzoo
from ghostzoo import Classifier
from ghostzoo.bundle.folder import Bundle
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tags(multi_label_bundle: Bundle) -> Iterator[ServerProcess]:
    with running_server("--model", str(multi_label_bundle.path), "--no-grpc") as process:
        yield process


@pytest.fixture(scope="module")
def classifier(multi_label_bundle: Bundle) -> Iterator[Classifier]:
    with ghostzoo.load(multi_label_bundle.path, engine="onnxruntime", threads=1) as clf:
        yield clf


def test_classify_gives_all_classes_from_min_score_on(
    http: requests.Session, tags: ServerProcess, classifier: Classifier, jpeg: bytes
) -> None:
    url = f"{tags.http}/v1/classify"
    fourth = classifier(jpeg, min_score=0.25)[3].score
    encoded = {"images": [{"base64": base64.b64encode(jpeg).decode()}]}
    raw = {"data": jpeg, "headers": {"Content-Type": "image/jpeg"}}
    choices: list[dict[str, Any]] = [{}, {"min_score": fourth}, {"min_score": 0, "top_k": 2}, {"min_score": 1}]
    for choice in choices:
        expected = [each.to_dict() for each in classifier(jpeg, **choice)]
        for answer in (
            http.post(url, files=[("files", jpeg)], data=choice),
            http.post(url, params=choice, **raw),
            http.post(url, json=encoded | choice),
            http.post(url, json=encoded | {"top_k": None, "min_score": None} | choice),
        ):
            assert answer.status_code == 200
            assert answer.json()["images"][0]["predictions"] == expected


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "x", ""])
def test_min_score_has_bounds(http: requests.Session, tags: ServerProcess, jpeg: bytes, value: str) -> None:
    url = f"{tags.http}/v1/classify"
    content = {"images": [{"base64": base64.b64encode(jpeg).decode()}], "min_score": value}
    for answer in (http.post(f"{url}?min_score={value}", data=jpeg), http.post(url, json=content)):
        assert answer.status_code == 400
        assert "min_score" in answer.json()["error"]


def test_min_score_works_for_other_models_too(
    http: requests.Session, server: ServerProcess, tiny_bundle: Bundle, jpeg: bytes
) -> None:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as clf:
        expected = [each.to_dict() for each in clf(jpeg, top_k=7)]
    answer = http.post(f"{server.http}/v1/classify", params={"min_score": expected[2]["score"] - 1e-5}, data=jpeg)
    assert answer.json()["images"][0]["predictions"] == expected[:3]
    model = http.get(f"{server.http}/v1/models").json()["models"][0]
    assert model["multi_label"] is False


def test_the_clients_of_the_original_are_answered(
    http: requests.Session, tags: ServerProcess, classifier: Classifier, jpeg: bytes
) -> None:
    image = base64.b64encode(jpeg).decode()
    expected = classifier(jpeg, min_score=0)
    answer = http.post(f"{tags.http}/image-classification", json={"image": image})
    found = [each["id"] for each in answer.json()["result"]["categories"]]
    assert found == [each.index for each in expected if each.score >= 0.5]
    best = http.post(f"{tags.http}/imagenet/prediction", json={"key": ["image"], "value": [image]}).json()
    assert best["value"] == [f"['{expected[0].label}']", f"[{round(expected[0].score, 5)}]"]


def test_the_open_inference_protocol_has_sigmoids(
    http: requests.Session, tags: ServerProcess, classifier: Classifier, jpeg: bytes
) -> None:
    assert http.get(f"{tags.http}/v1/models").json()["models"][0]["multi_label"] is True
    image = base64.b64encode(jpeg).decode()
    content = {
        "inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [image]}],
        "outputs": [{"name": "scores"}, {"name": "labels"}],
    }
    answer = http.post(f"{tags.http}/v2/models/tiny/infer", json=content).json()
    scores, labels = (output["data"] for output in answer["outputs"])
    np.testing.assert_allclose(scores, classifier.probabilities(jpeg)[0], atol=1e-6)
    assert labels == [classifier(jpeg, 1, min_score=0)[0].label]
