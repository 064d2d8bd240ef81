"""Explanations of a real server, in all the forms that it takes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import requests

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from tests.fixtures.engines import require_engine
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(server: ServerProcess) -> str:
    return f"{server.http}/v1/explain"


@pytest.fixture(scope="module")
def expected(tiny_bundle: Bundle, jpeg: bytes) -> ghostzoo.Explanation:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier:
        return classifier.explain(jpeg, 2, "class-5")


def test_every_form_gets_the_same_map(
    http: requests.Session, url: str, jpeg: bytes, expected: ghostzoo.Explanation
) -> None:
    asked: dict[str, Any] = {"index": 2, "against": "class-5"}
    encoded = {"image": {"base64": base64.b64encode(jpeg).decode()}}
    answers = [
        http.post(url, files={"files": jpeg}, data=asked),
        http.post(url, params=asked, data=jpeg, headers={"Content-Type": "image/jpeg"}),
        http.post(url, json={**encoded, **asked}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["map"] == pytest.approx(expected.map, abs=1e-5)
        assert sum(map(sum, found["map"])) + found["constant"] == pytest.approx(found["logit"], abs=1e-4)
        assert (found["model"], found["label"], found["against"]) == ("tiny", "class-2", 5)
        assert found["seen"] == pytest.approx(64 / 72)


def test_what_cannot_be_explained_is_one_sentence(http: requests.Session, url: str, jpeg: bytes) -> None:
    image = {"Content-Type": "image/jpeg"}
    for status, message, answer in (
        (400, "index=99 is not a class", http.post(url, params={"index": "99"}, data=jpeg, headers=image)),
        (400, "2 images were sent", http.post(url, files=[("files", jpeg), ("files", jpeg)])),
        (400, "Both classes are", http.post(url, params={"index": "1", "against": "1"}, data=jpeg, headers=image)),
        (422, "cannot be read", http.post(url, data=b"no picture", headers=image)),
        (422, "either base64 or url", http.post(url, json={"image": {}})),
        (404, "no model 'other'", http.post(url, params={"model": "other"}, data=jpeg, headers=image)),
        (415, "is not supported", http.post(url, data=b"x", headers={"Content-Type": "text/plain"})),
    ):
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
        assert message in answer.json()["error"]


def test_an_engine_that_cannot_says_so_and_still_classifies(
    http: requests.Session, tiny_bundle: Bundle, jpeg: bytes
) -> None:
    require_engine("native")
    with running_server("--model", str(tiny_bundle.path), "--engine", "native", "--no-grpc") as server:
        answer = http.post(f"{server.http}/v1/explain", data=jpeg, headers={"Content-Type": "image/jpeg"})
        assert answer.status_code == 400
        assert "native does not return the tensor" in answer.json()["error"]
        assert http.post(f"{server.http}/v1/classify", data=jpeg, headers={"Content-Type": "image/jpeg"}).ok
