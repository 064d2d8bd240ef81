"""The handlers in this process, with the bundled model, as clients of other servers ask them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.fixtures.pictures import encoded, picture

httpx = pytest.importorskip("httpx", reason="httpx, which asks the application, is not installed here")
pytest.importorskip("fastapi", reason="fastapi, which the server needs, is not installed here")

from ghostzoo.catalog import DEFAULT_MODEL  # noqa: E402
from ghostzoo.converter import convert  # noqa: E402
from ghostzoo.images.preprocessing import Preprocessing  # noqa: E402
from ghostzoo.network.architecture import Architecture  # noqa: E402
from ghostzoo.predictions import top_predictions  # noqa: E402
from ghostzoo.serve.app import create_app  # noqa: E402
from ghostzoo.serve.decoder_pool import DecoderPool  # noqa: E402
from ghostzoo.serve.open_inference import inference  # noqa: E402
from ghostzoo.serve.open_inference.rest_messages import InferInput, InferRequest, tensors_bytes  # noqa: E402
from ghostzoo.serve.options import ServeLimits, ServeOptions  # noqa: E402
from ghostzoo.serve.repository import Repository  # noqa: E402
from ghostzoo.serve.service import RequestInfo, Service  # noqa: E402
from tests.fixtures.networks import random_arrays, write_weights  # noqa: E402

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
    assert [each["optional"] for each in config["input"]] == [True, True]  # a request has one of them
    (fresh,), (stats,) = before["model_stats"], after["model_stats"]
    assert fresh["inference_count"] == 0
    assert {kind: each["ns"] for kind, each in fresh["inference_stats"].items() if each["ns"]} == {}
    whole, parts = stats["inference_stats"]["success"], ("queue", "compute_input", "compute_infer", "compute_output")
    assert sum(stats["inference_stats"][part]["ns"] for part in parts) <= whole["ns"]
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


def test_answers_have_the_shapes_that_the_metadata_tell(ask: Ask) -> None:
    async def talk(client: Any) -> tuple[Any, Any]:
        two = IMAGE | {"shape": [2], "data": [TEXT] * 2}
        return (await client.get(MODEL)).json(), (await client.post(f"{MODEL}/infer", json={"inputs": [two]})).json()

    metadata, answer = ask(talk)
    told = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["outputs"]}
    for output in answer["outputs"]:
        datatype, shape = told.pop(output["name"])
        assert (datatype, shape[0]) == (output["datatype"], -1)  # as the protocol writes any number
        assert [2, *shape[1:]] == output["shape"]
    assert told == {}


@pytest.mark.parametrize(
    ("path", "changed", "status", "said"),
    [
        ("", {"inputs": [IMAGE | {"name": "other"}]}, 400, "no input 'other'; send one of pixel_values and images"),
        ("", {"inputs": [IMAGE] * 2}, 400, "takes one input, pixel_values or images, not 2"),
        ("", {"inputs": [IMAGE | {"data": ["bm8gaW1hZ2U="]}]}, 422, "Image 0: "),
        ("/versions/2", {}, 404, "has version 1 only, not '2'"),
        *(("", {"parameters": {"timeout": wrong}}, 400, "a whole number of microseconds") for wrong in (-1, "1", True)),
        ("", {"parameters": {"timeout": 1}}, 504, "deadline"),
    ],
)
def test_what_cannot_be_answered_is_said(post: Ask, path: str, changed: dict[str, Any], status: int, said: str) -> None:
    answer = post(f"{MODEL}{path}/infer", json={"inputs": [IMAGE]} | changed)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text


def test_pixels_in_each_form_get_the_same_logits(ask: Ask) -> None:
    pixels = np.linspace(-1, 1, 3 * 96 * 96, dtype=np.float32).reshape(1, 3, 96, 96)
    tensor = {"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 96, 96]}
    wanted = [{"name": "logits"}]
    binary = {"inputs": [tensor | {"parameters": {"binary_data_size": pixels.nbytes}}], "outputs": wanted, "id": "7"}
    head = json.dumps(binary).encode()

    async def talk(client: Any) -> list[Any]:
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answers = [await client.post(f"{MODEL}/infer", content=head + pixels.tobytes(), headers=headers)]
        for data in (pixels.ravel().tolist(), pixels.tolist()):
            content = {"inputs": [tensor | {"data": data}], "outputs": wanted}
            answers.append(await client.post(f"{MODEL}/infer", json=content))
        text = json.dumps(content).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}  # which is all there is
        return [*answers, await client.post(f"{MODEL}/infer", content=text, headers=headers)]

    answers = ask(talk)
    assert [answer.status_code for answer in answers] == [200] * 4, answers[0].text
    assert answers[0].json()["id"] == "7"
    first, *others = (answer.json()["outputs"][0]["data"] for answer in answers)
    assert others == [first] * 3


@pytest.mark.parametrize(("images", "status"), [(1500, 422), (1501, 413)])
def test_a_call_has_as_many_images_as_the_server_takes(ask: Ask, images: int, status: int) -> None:
    broken = base64.b64encode(b"no image").decode()
    tensor = IMAGE | {"shape": [images, 1], "data": [[broken]] * images}
    options = {"limits": ServeLimits(max_images=1500), "queue_size": 1500}
    answer = ask(lambda client: client.post(f"{MODEL}/infer", json={"inputs": [tensor]}), **options)
    assert answer.status_code == status, answer.text


def test_a_binary_tensor_is_as_long_as_it_is_said_to_be(post: Ask) -> None:
    blob = len(PNG).to_bytes(4, "little") + PNG
    given = {"name": "images", "datatype": "BYTES", "shape": [1]}
    for difference, status in ((0, 200), (1, 400), (-1, 400)):
        tensor = given | {"parameters": {"binary_data_size": len(blob) + difference}}
        head = json.dumps({"inputs": [tensor]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        assert post(f"{MODEL}/infer", content=head + blob, headers=headers).status_code == status


def test_images_are_counted_as_text_and_as_what_is_decoded_of_it() -> None:
    def of(data: list[Any] | None, blob: bytes = b"", datatype: str = "BYTES") -> int:
        given = InferInput(name="images", shape=[2], datatype=datatype, data=data)
        return tensors_bytes(InferRequest(inputs=[given]), memoryview(blob), 8)

    text = "A" * 4000
    both, flat, blob = of([text, text]), of([text]), of(None, bytes(100))
    assert 2 * flat >= both >= 2 * (4000 + 3000)
    assert of([[text], [text]]) == both  # nested
    assert (blob, of([text], bytes(100))) == (100, flat + 100)  # copied
    assert of([0.5] * 4000, bytes(100), "FP32") == 0  # neither


def test_nested_rows_are_taken_for_as_many_images_as_numbers(post: Ask) -> None:
    images = np.zeros((32, 3, 96, 96), np.uint8)
    tensor = {"name": "pixel_values", "datatype": "FP32", "shape": list(images.shape), "data": images.tolist()}
    answer = post(f"{MODEL}/infer", json={"inputs": [tensor], "outputs": [{"name": "labels"}]})
    assert len(labels(answer)) == 32


def test_many_classes_are_named_beside_the_event_loop(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def noting(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return top_predictions(*arguments)

    monkeypatch.setattr(inference, "top_predictions", noting)

    async def talk(client: Any, images: int) -> Any:
        outputs = [{"name": "scores", "parameters": {"classification": 10}}]
        tensor = IMAGE | {"shape": [images], "data": [TEXT] * images}
        return await client.post(f"{MODEL}/infer", json={"inputs": [tensor], "outputs": outputs})

    for images in (1, 64):
        threads.clear()
        answer = ask(lambda client, images=images: talk(client, images))
        assert answer.json()["outputs"][0]["shape"] == [images, 10]
        assert len(threads) == images
        assert (threading.current_thread().name in threads) == (images == 1)


@pytest.mark.parametrize("fields", [{"model_name": DEFAULT_MODEL}, {"repository_name": DEFAULT_MODEL}])
def test_models_are_controlled_by_triton_and_kserve(fields: dict[str, str]) -> None:
    """KServe's field of the name has the number that Triton's has of the repository."""
    from ghostzoo.serve.open_inference.grpc_server import InferenceService
    from ghostzoo.serve.open_inference.messages import message

    async def run() -> list[str]:
        service = Service(ServeOptions(decode_processes=False, workers=1, model_control=True))
        await service.load()
        control = InferenceService(service)
        info = RequestInfo("id", 0.0, asyncio.get_running_loop().time() + 60)
        states = []
        for change in (control.RepositoryModelUnload, control.RepositoryModelLoad):
            name = change.__name__
            answer = await change(message(f"{name}Request")(**fields), info)
            assert answer.model_name == DEFAULT_MODEL
            states += [each["state"] for each in service.repository.index(only_ready=False)]
        assert await service.close()
        return states

    assert asyncio.run(run()) == ["UNAVAILABLE", "READY"]


def test_equal_scores_come_by_index_whatever_k_is(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("ties")
    arrays = random_arrays(Architecture.of(0.25, 7))
    arrays["fc_1.weight"][:] = 0
    arrays["fc_1.bias"][:] = [0, 2, 1, 2, 2, 0, 1]
    names = [f"class-{index}" for index in range(7)]
    small = Preprocessing(resize_short=40, crop_size=32)
    bundle = convert(
        write_weights(folder / "ties.pdparams", arrays), folder / "ties", name="ties", labels=names, preprocessing=small
    )
    path = f"/v2/models/{bundle.name}/infer"

    async def talk(client: Any, k: int) -> list[list[int]]:
        own = await client.post("/v1/classify", params={"top_k": k}, content=PNG)
        paddle = await client.post("/image-classification", json={"image": TEXT, "topk": k})
        outputs = [{"name": name, "parameters": {"classification": k}} for name in ("scores", "logits")]
        tensors = await client.post(path, json={"inputs": [IMAGE], "outputs": outputs})
        return [
            [each["index"] for each in own.json()["images"][0]["predictions"]],
            [each["id"] for each in paddle.json()["result"]["categories"]],
            *([int(text.split(":")[1]) for text in output["data"]] for output in tensors.json()["outputs"]),
        ]

    for k in range(1, 8):
        found = ask(lambda client, k=k: talk(client, k), models=(str(bundle.path),))
        assert found == [[1, 3, 4, 2, 6, 0, 5][:k]] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such processes")
def test_decoding_processes_start_while_models_load(monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[DecoderPool] = []
    seen: list[int] = []
    load_all = Repository.load_all

    def noting(*arguments: Any) -> DecoderPool:
        pools.append(DecoderPool(*arguments))
        return pools[0]

    async def load_late(repository: Repository) -> None:
        async with asyncio.timeout(60):
            while len(pools[0].processes) < 2:
                await asyncio.sleep(0.01)
        seen.extend(pools[0].processes)
        await load_all(repository)

    monkeypatch.setattr("ghostzoo.serve.service.DecoderPool", noting)
    monkeypatch.setattr(Repository, "load_all", load_late)

    async def run() -> bool:
        service = Service(ServeOptions(workers=2))
        await service.load()
        assert pools[0].processes == seen
        return await service.close()

    assert asyncio.run(run())
    assert len(seen) == 2
