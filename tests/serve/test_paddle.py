"""The formats of the original's servers."""

from __future__ import annotations

import base64
import json

import pytest
import requests

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from tests.fixtures.serving import ServerProcess

pytestmark = pytest.mark.slow


def test_paddlex(http: requests.Session, server: ServerProcess, tiny_bundle: Bundle, jpeg: bytes) -> None:
    content = {"image": base64.b64encode(jpeg).decode(), "topk": 2}
    answer = http.post(f"{server.http}/image-classification", json=content)
    assert answer.status_code == 200
    found = answer.json()
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier:
        best = classifier(jpeg, top_k=2)
    assert found["result"]["categories"] == [
        {"id": each.index, "name": each.label, "score": round(each.score, 5)} for each in best
    ]
    assert (found["errorCode"], found["errorMsg"]) == (0, "Success")
    assert found["logId"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("name", ["imagenet", "tiny"])
def test_paddle_serving(
    http: requests.Session, server: ServerProcess, tiny_bundle: Bundle, jpeg: bytes, name: str
) -> None:
    content = {"key": ["image"], "value": [base64.b64encode(jpeg).decode()]}
    answer = http.post(f"{server.http}/{name}/prediction", json=content)
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier:
        best = classifier(jpeg, top_k=1)[0]
    assert answer.json() == {
        "err_no": 0,
        "err_msg": "",
        "key": ["label", "prob"],
        "value": [f"['{best.label}']", f"[{round(best.score, 5)}]"],
        "tensors": [],
    }


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/image-classification", {}, 400),
        ("/image-classification", {"image": "x", "topk": 0}, 400),
        ("/image-classification", {"image": "!"}, 422),
        ("/image-classification", {"image": "aGVsbG8="}, 422),
        ("/image-classification", {"image": "http://127.0.0.1/"}, 422),
        ("/imagenet/prediction", {"key": ["image"], "value": []}, 400),
        ("/imagenet/prediction", {"key": ["x"], "value": ["y"]}, 400),
        ("/imagenet/prediction", {"key": ["image"], "value": ["aGVsbG8="]}, 422),
        ("/other/prediction", {"key": ["image"], "value": ["aGVsbG8="]}, 404),
    ],
)
def test_their_errors(
    http: requests.Session, server: ServerProcess, path: str, content: dict[str, object], status: int
) -> None:
    answer = http.post(server.http + path, json=content)
    found = answer.json()
    assert answer.status_code == status
    assert status == found.get("errorCode", found.get("err_no")), json.dumps(found)
    assert found.get("errorMsg", found.get("err_msg"))
