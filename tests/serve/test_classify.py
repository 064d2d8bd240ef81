"""The task API of a real server, in all the forms that it takes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import requests

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from tests.fixtures.pictures import FORMATS, encoded, picture
from tests.fixtures.serving import ServerProcess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(server: ServerProcess) -> str:
    return f"{server.http}/v1/classify"


@pytest.fixture(scope="module")
def expected(tiny_bundle: Bundle, jpeg: bytes) -> list[dict[str, Any]]:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier:
        return [prediction.to_dict() for prediction in classifier(jpeg, top_k=3)]


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_form_with_files(http: requests.Session, url: str, jpeg: bytes, expected: list[dict[str, Any]]) -> None:
    files = [("files", ("a.jpg", jpeg)), ("files", ("b.txt", b"no image")), ("other", ("c.jpg", jpeg))]
    answer = http.post(url, files=files, data={"top_k": "3", "model": "tiny", "engine": ""})
    assert answer.status_code == 200
    first, second, third = answer.json()["images"]
    assert first["predictions"] == third["predictions"] == expected
    assert [image["name"] for image in (first, second, third)] == ["a.jpg", "b.txt", "c.jpg"]
    assert "not an image in a supported format" in second["error"]
    assert "predictions" not in second
    assert first["timing"]["batch_size"] >= 1
    assert first["timing"]["inference_ms"] > 0
    assert answer.json()["total_ms"] == round(answer.json()["total_ms"], 3)


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", None])
def test_a_raw_image(
    http: requests.Session, url: str, jpeg: bytes, expected: list[dict[str, Any]], content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = http.post(url, params={"top_k": 3, "name": "x.jpg"}, data=jpeg, headers=headers)
    (image,) = answer.json()["images"]
    assert image["predictions"] == expected
    assert image["name"] == "x.jpg"


def test_json_with_base64(http: requests.Session, url: str, jpeg: bytes, expected: list[dict[str, Any]]) -> None:
    images = [
        {"base64": as_base64(jpeg), "name": "first"},
        {"base64": "data:image/jpeg;base64," + as_base64(jpeg)},
        {"base64": "no base64!"},
        {},
        {"url": "http://127.0.0.1:9/cat.jpg"},
    ]
    answer = http.post(url, json={"images": images, "top_k": 3})
    assert answer.status_code == 200
    results = answer.json()["images"]
    assert results[0]["predictions"] == results[1]["predictions"] == expected
    assert [result["name"] for result in results[:2]] == ["first", "image-1"]
    assert "not valid base64" in results[2]["error"]
    assert "either base64 or url" in results[3]["error"]
    assert "--allow-urls" in results[4]["error"]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(http: requests.Session, url: str, kind: str) -> None:
    name, options = FORMATS[kind]
    answer = http.post(url, data=encoded(picture(), name, **options))
    assert len(answer.json()["images"][0]["predictions"]) == 5


def test_compressed_bodies(http: requests.Session, url: str, jpeg: bytes) -> None:
    import gzip
    import zlib

    for encoding, body in (("gzip", gzip.compress(jpeg)), ("deflate", zlib.compress(jpeg))):
        answer = http.post(url, data=body, headers={"Content-Encoding": encoding})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"no image", {}, 422, "not an image in a supported format"),
        (b"", {"Content-Type": "image/png"}, 400, "empty"),
        (b"{", {"Content-Type": "application/json"}, 400, "JSON"),
        (b"[]", {"Content-Type": "application/json"}, 400, "JSON"),
        (b'{"images": []}', {"Content-Type": "application/json"}, 400, "images"),
        (b'{"images": [{}], "top_k": 0}', {"Content-Type": "application/json"}, 400, "top_k"),
        (b'{"images": [{}], "topk": 1}', {"Content-Type": "application/json"}, 400, "topk"),
        (b'{"images": [{"base64": ""}], "model": "tinny"}', {"Content-Type": "application/json"}, 404, "tiny"),
        (b'{"images": [{"base64": ""}], "engine": "tvm"}', {"Content-Type": "application/json"}, 404, "onnxruntime"),
        (b"x", {"Content-Type": "text/plain"}, 415, "text/plain"),
        (b"x", {"Content-Encoding": "br"}, 415, "gzip"),
        (b"no gzip", {"Content-Encoding": "gzip"}, 400, "not compressed"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", {"Content-Encoding": "gzip"}, 400, "breaks off"),
        (b"x", {"Content-Type": "multipart/form-data"}, 400, "multipart"),
        (b"x", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "multipart"),
        (b"--b\r\n\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "multipart"),
        (
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nxyz',
            {"Content-Type": "multipart/form-data; boundary=b"},
            400,
            "no end",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n5\r\n--b--\r\n',
            {"Content-Type": "multipart/form-data; boundary=b"},
            400,
            "no file",
        ),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    http: requests.Session, url: str, body: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    answer = http.post(url, data=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert message in answer.text
    if status != 422:
        assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("top_k", ["0", "-1", "1001", "x", "1.5", "99999999999999999999", "\u00b2"])
def test_top_k_has_bounds(http: requests.Session, url: str, jpeg: bytes, top_k: str) -> None:
    answer = http.post(url, params={"top_k": top_k}, data=jpeg)
    assert answer.status_code == 400
    assert "top_k" in answer.json()["error"]


@pytest.mark.parametrize("name", ["coverage", "unknown_below"])
def test_a_model_without_calibration_says_so(http: requests.Session, url: str, jpeg: bytes, name: str) -> None:
    answer = http.post(url, params={name: 0.9}, data=jpeg)
    assert (answer.status_code, "needs a calibrated model" in answer.json()["error"]) == (400, True)
    assert http.post(url, params={"calibrated": "false"}, data=jpeg).status_code == 200


def test_models_and_their_files(http: requests.Session, server: ServerProcess, tiny_bundle: Bundle) -> None:
    (model,) = http.get(f"{server.http}/v1/models").json()["models"]
    assert (model["name"], model["ready"], model["classes"], model["engines"]) == ("tiny", True, 7, ["onnxruntime"])
    for path in model["files"]:
        answer = http.get(f"{server.http}/v1/models/tiny/files/{path}")
        assert answer.content == (tiny_bundle.path / path).read_bytes()
        again = http.get(answer.url, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert http.get(f"{server.http}/v1/models/tiny/files/ghostzoo.json").json()["files"].keys() == set(model["files"])
    for path in ("../../etc/passwd", "..%2f..%2fetc/passwd", "nothing", ""):
        assert http.get(f"{server.http}/v1/models/tiny/files/{path}").status_code == 404
    assert http.get(f"{server.http}/v1/models/other/files/config.json").status_code == 404


def test_page_and_documentation(http: requests.Session, server: ServerProcess) -> None:
    page = http.get(server.http)
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    documentation = http.get(f"{server.http}/docs").text
    assert "https://" not in documentation, "nothing may be loaded from elsewhere"
    assert http.get(f"{server.http}/static-offline-docs/swagger-ui-bundle.js").status_code == 200
    paths = http.get(f"{server.http}/openapi.json").json()["paths"]
    assert set(paths["/v1/classify"]["post"]["requestBody"]["content"]) >= {"multipart/form-data", "application/json"}


def test_the_examples_of_the_documentation_work(http: requests.Session, server: ServerProcess) -> None:
    tried = 0
    for path, operations in http.get(f"{server.http}/openapi.json").json()["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        examples = [
            each for each in content.get("examples", {}).values() if "allow-urls" not in each.get("summary", "")
        ]
        for example in [content["example"]] if "example" in content else [each["value"] for each in examples]:
            answer = http.post(server.http + path.replace("{name}", "tiny"), json=example)
            assert answer.status_code == 200, (path, answer.text)
            tried += 1
    assert tried == 5


def test_unknown_places_and_methods(http: requests.Session, server: ServerProcess) -> None:
    assert http.get(f"{server.http}/nothing").json()["error"].startswith("Not Found")
    assert http.post(f"{server.http}/nothing").status_code == 404
    answer = http.delete(f"{server.http}/v1/classify")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
