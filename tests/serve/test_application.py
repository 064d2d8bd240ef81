"""The handlers in this process, with the bundled model, as clients of other servers ask them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.fixtures.pictures import encoded, picture

httpx = pytest.importorskip("httpx", reason="httpx, which asks the application, is not installed here")
pytest.importorskip("fastapi", reason="fastapi, which the server needs, is not installed here")

from ghostzoo.catalog import DEFAULT_MODEL  # noqa: E402
from ghostzoo.serve.app import create_app  # noqa: E402
from ghostzoo.serve.options import ServeLimits, ServeOptions  # noqa: E402
from ghostzoo.serve.service import Service  # noqa: E402

KEY = "0123456789abcdef-test"
PNG = encoded(picture(90, 70), "PNG")
TEXT = base64.b64encode(PNG).decode()
IMAGE = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
MODEL = f"/v2/models/{DEFAULT_MODEL}"
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Runs what talks with a client of an application; one application serves all who want these options."""
    applications: dict[str, tuple[Service, Any]] = {}

    async def run(talk: Callable[[Any], Awaitable[Any]], options: dict[str, Any]) -> Any:
        if str(options) not in applications:
            service = Service(ServeOptions(engines=("onnxruntime",), decode_processes=False, workers=1, **options))
            await service.load()
            applications[str(options)] = service, create_app(service)
        transport = httpx.ASGITransport(app=applications[str(options)][1])
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await talk(client)

    with asyncio.Runner() as runner:
        yield lambda talk, **options: runner.run(run(talk, options))
        assert all(runner.run(service.close()) for service, _ in applications.values())


@pytest.fixture(scope="module")
def post(ask: Ask) -> Ask:
    return lambda path, **content: ask(lambda client: client.post(path, **content))


def labels(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    (found,) = (each["data"] for each in answer.json()["outputs"] if each["name"] == "labels")
    return list(found)


def test_all_forms_of_an_image_give_one_answer(ask: Ask) -> None:
    async def talk(client: Any) -> list[Any]:
        return [
            await client.post("/v1/classify", content=PNG, headers={"Content-Type": "image/png"}),
            await client.post("/v1/classify", files={"files": PNG}),
            await client.post("/v1/classify", json={"images": [{"base64": TEXT}]}),
            await client.post("/v1/classify", json={"images": [{"base64": TEXT, "url": None}], "top_k": None}),
        ]

    answers = ask(talk)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({str(answer.json()["images"][0]["predictions"]) for answer in answers}) == 1


def test_a_body_is_refused_by_the_length_that_it_says(post: Ask) -> None:
    headers = {"Content-Type": "image/png", "Content-Length": str(10**9)}
    answer = post("/v1/classify", content=PNG, headers=headers)
    assert (answer.status_code, "larger than the" in answer.text) == (413, True)


@pytest.mark.parametrize("form", ["with its length", "in chunks", "gzip"])
def test_a_body_may_be_as_large_as_the_limit_and_no_larger(ask: Ask, form: str) -> None:
    limit = len(PNG) + 1000

    async def talk(client: Any) -> list[int]:
        statuses = []
        for size in (limit, limit + 1):
            body = PNG.ljust(size, b"\0")  # what follows the image's end is not decoded
            headers = {"Content-Type": "image/png"}
            if form == "gzip":
                headers["Content-Encoding"], body = "gzip", gzip.compress(body)
            content = in_chunks(body) if form == "in chunks" else body
            statuses.append((await client.post("/v1/classify", content=content, headers=headers)).status_code)
        return statuses

    async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
        yield body[:100]
        yield body[100:]

    assert ask(talk, limits=ServeLimits(max_body_bytes=limit)) == [200, 413]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"inputs": [IMAGE | {"shape": [1, 1], "data": [[TEXT]]}]},
        {"inputs": [IMAGE | {"shape": [1, 1]}]},
        {"inputs": [IMAGE | {"parameters": None}]},
        {"inputs": [IMAGE | {"parameters": {"binary_data_size": None}}]},
        {"parameters": None, "outputs": None, "id": None},
        {"parameters": {"timeout": None}},
    ],
)
def test_requests_as_clients_of_triton_and_kserve_write_them(post: Ask, changed: dict[str, Any]) -> None:
    assert len(labels(post(f"{MODEL}/infer", json={"inputs": [IMAGE]} | changed))) == 1


@pytest.mark.parametrize("shape", [[1, 2], [2, 1], [1, 1, 1], []])
def test_other_shapes_are_refused(post: Ask, shape: list[int]) -> None:
    assert post(f"{MODEL}/infer", json={"inputs": [IMAGE | {"shape": shape, "data": [TEXT]}]}).status_code == 400


def test_outputs_are_those_that_are_asked_for(ask: Ask) -> None:
    def wanted(*outputs: dict[str, Any]) -> Callable[[Any], Awaitable[Any]]:
        return lambda client: client.post(f"{MODEL}/infer", json={"inputs": [IMAGE], "outputs": outputs})

    def classes(count: int, name: str = "scores") -> dict[str, Any]:
        return {"name": name, "parameters": {"classification": count}}

    good = [
        wanted({"name": "scores"}, {"name": "logits"}),
        wanted({"name": "labels"}, classes(2), classes(1, "logits")),
    ]
    bad = [wanted({"name": "features"}), wanted({"name": "logits"}, {"name": "logits"})]
    bad += [wanted(classes(-1)), wanted(classes(1, "labels"))]

    async def talk(client: Any) -> list[Any]:
        return [await each(client) for each in good + bad]

    values, best, *refused = ask(talk)
    scores, logits = values.json()["outputs"]
    assert [scores["name"], logits["name"], scores["shape"]] == ["scores", "logits", [1, 10]]
    powers = np.exp(logits["data"])
    np.testing.assert_allclose(scores["data"], powers / powers.sum(), rtol=1e-4, atol=1e-6)
    label, by_score, by_logit = best.json()["outputs"]
    first, second = (text.split(":") for text in by_score["data"])
    order = np.argsort(scores["data"])[::-1]
    assert [first[1:], int(second[1])] == [[str(order[0]), label["data"][0]], order[1]]
    assert float(first[0]) == pytest.approx(max(scores["data"]), abs=1e-4)
    assert float(by_logit["data"][0].split(":")[0]) == pytest.approx(max(logits["data"]), abs=1e-4)
    assert [answer.status_code for answer in refused] == [400] * 4
    assert "has no output 'features'; it has logits, scores, labels" in refused[0].text


def test_an_image_as_a_raw_binary_request(post: Ask) -> None:
    headers = {"Inference-Header-Content-Length": "0"}
    assert len(labels(post(f"{MODEL}/infer", content=PNG, headers=headers))) == 1
    assert post(f"{MODEL}/infer", content=b"", headers=headers).status_code == 400
    assert post(f"{MODEL}/infer", content=b"no image", headers=headers).status_code == 422


def test_configuration_and_statistics(ask: Ask) -> None:
    async def talk(client: Any) -> tuple[Any, Any, Any]:
        before = await client.get(f"{MODEL}/stats")
        for content in (PNG, PNG, b"no image"):
            await client.post("/v1/classify", content=content)
        config = await client.get(f"{MODEL}/config")
        async with asyncio.timeout(30):  # an image is counted a moment after its answer
            while True:
                after = await client.get(f"{MODEL}/versions/1/stats")
                if after.json()["model_stats"][0]["inference_stats"]["fail"]["count"]:
                    return config, before, after

    config, before, after = (answer.json() for answer in ask(talk, queue_size=100))  # one that nobody else asks
    assert config["max_batch_size"] == 64
    assert {each["name"]: (each["data_type"], each["dims"]) for each in config["input"]} == {
        "pixel_values": ("TYPE_FP32", [3, 96, 96]),
        "images": ("TYPE_STRING", [1]),
    }
    assert before["model_stats"][0]["inference_count"] == 0
    (stats,) = after["model_stats"]
    assert (stats["inference_count"], stats["execution_count"]) == (2, 2)
    assert (stats["inference_stats"]["success"]["count"], stats["inference_stats"]["fail"]["count"]) == (2, 1)
    assert stats["inference_stats"]["compute_infer"]["ns"] > 0
    assert stats["last_inference"] > 1e12


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/healthz", {}, 200),
        ("GET", "/v1/models", {}, 401),
        ("GET", "/v1/models", {"X-API-Key": KEY}, 200),
        ("GET", "/nothing", {"X-API-Key": KEY}, 404),
        ("DELETE", "/v1/classify", {"X-API-Key": KEY}, 405),
        ("GET", "/healthz", {"Host": "evil.example"}, 421),
        ("POST", "/v1/classify", {"X-API-Key": KEY, "Origin": "https://evil.example"}, 403),
        ("GET", "/", {}, 200),
    ],
)
def test_who_may_ask_what(ask: Ask, method: str, path: str, headers: dict[str, str], status: int) -> None:
    answer = ask(lambda client: client.request(method, path, headers=headers), api_key=KEY)
    assert answer.status_code == status
    assert answer.headers["x-request-id"]


def test_only_what_a_browser_asks_first_needs_no_key(ask: Ask) -> None:
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}

    async def talk(client: Any) -> list[int]:
        answers = [await client.request("OPTIONS", "/v1/classify", headers=asks)]
        answers += [await client.request("POST", "/v1/classify", headers=asks, content=PNG)]
        answers += [await client.request("OPTIONS", "/v1/classify", headers={name: asks[name]}) for name in asks]
        return [answer.status_code for answer in answers]

    assert ask(talk, api_key=KEY, cors_origins=("https://a.example",)) == [200, 401, 401, 401]


def test_the_document_knows_what_handlers_read(ask: Ask) -> None:
    document = ask(lambda client: client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {})
            reference = content.get("application/json", {}).get("schema", {}).get("$ref")
            assert reference is None or reference.rpartition("/")[2] in document["components"]["schemas"], path


def test_a_tensor_comes_in_one_place_and_goes_as_asked(ask: Ask) -> None:
    async def talk(client: Any) -> tuple[Any, Any]:
        twice = IMAGE | {"parameters": {"binary_data_size": len(PNG)}}
        head = json.dumps({"inputs": [twice]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        both = await client.post(f"{MODEL}/infer", content=head + PNG, headers=headers)
        outputs = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "labels"}]
        return both, await client.post(f"{MODEL}/infer", json={"inputs": [IMAGE], "outputs": outputs})

    both, mixed = ask(talk)
    assert both.status_code == 400
    assert "either data or the parameter binary_data_size" in both.text
    size = int(mixed.headers["Inference-Header-Content-Length"])
    logits, labels = json.loads(mixed.content[:size])["outputs"]
    assert logits["parameters"]["binary_data_size"] == len(mixed.content) - size == 40
    assert labels["data"]
