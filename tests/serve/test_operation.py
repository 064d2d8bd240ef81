"""Running the server: probes, metrics, logs, deadlines, load, and its end."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import grpc
import httpx
import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import OptionError
from ghostzoo.serve.open_inference.messages import SERVICE, message
from ghostzoo.serve.options import ServeOptions, find_api_key
from tests.fixtures.pictures import encoded, picture
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow


def test_probes_metrics_and_request_ids(http: requests.Session, server: ServerProcess, jpeg: bytes) -> None:
    assert http.get(f"{server.http}/healthz").status_code == http.get(f"{server.http}/readyz").status_code == 200
    assert http.get(f"{server.http}/v2/health/live").json() == {"live": True}
    assert http.get(f"{server.http}/v2/health/ready").json() == {"ready": True}
    outputs = http.get(f"{server.http}/v2/models/tiny").json()["outputs"]
    assert {each["name"]: each["shape"] for each in outputs}["logits"] == [-1, 7]
    answer = http.post(f"{server.http}/v1/classify", data=jpeg, headers={"X-Request-ID": "my-id.1"})
    assert answer.headers["X-Request-ID"] == "my-id.1"
    forged = http.get(f"{server.http}/healthz", headers={"X-Request-ID": 'a"b c'}).headers["X-Request-ID"]
    assert len(forged) == 32
    text = http.get(f"{server.http}/metrics").text
    for name in (
        'ghostzoo_requests_total{protocol="http",route="/v1/classify",status="200"}',
        'ghostzoo_images_total{engine="onnxruntime",model="tiny",outcome="classified"}',
        "ghostzoo_batch_images_bucket",
        'ghostzoo_stage_seconds_bucket{engine="onnxruntime",le="0.001",model="tiny",stage="inference"}',
        "ghostzoo_queue_images 0.0",
        "process_resident_memory_bytes",
    ):
        assert name in text
    (line,) = server.lines_with(request_id="my-id.1")
    assert (line["path"], line["status"], line["method"]) == ("/v1/classify", "200", "POST")
    assert line["ms"] > 0


def test_metrics_have_no_labels_of_the_clients_choosing(http: requests.Session, server: ServerProcess) -> None:
    http.get(f"{server.http}/a-place-of-my-own?secret=1")
    assert "a-place-of-my-own" not in http.get(f"{server.http}/metrics").text
    assert "secret" not in str(server.lines_with(path="/a-place-of-my-own"))
    assert "secret" not in str(server.log())


def call(server: ServerProcess, method: str, request: Any, answer: str, **options: Any) -> Any:
    with grpc.insecure_channel(server.grpc) as channel:
        run = channel.unary_unary(f"/{SERVICE}/{method}", type(request).SerializeToString, message(answer).FromString)
        return run(request, timeout=20, **options)


def test_configuration_and_statistics_over_grpc(server: ServerProcess, jpeg: bytes) -> None:
    config = call(server, "ModelConfig", message("ModelConfigRequest")(name="tiny"), "ModelConfigResponse").config
    assert (config.name, config.max_batch_size, config.backend) == ("tiny", 64, "onnxruntime")
    assert [(each.name, list(each.dims)) for each in config.input] == [("pixel_values", [3, 64, 64]), ("images", [1])]

    def count() -> int:
        request = message("ModelStatisticsRequest")()
        (stats,) = call(server, "ModelStatistics", request, "ModelStatisticsResponse").model_stats
        assert stats.inference_stats.success.count == stats.inference_count
        return int(stats.inference_count)

    before = count()
    request = infer_request(jpeg)
    request.inputs[0].shape[:] = [1, 1]  # as batching clients of Triton have it
    assert len(call(server, "ModelInfer", request, "ModelInferResponse").outputs) == 3
    assert count() == before + 1


def test_grpc_refuses_lies(server: ServerProcess) -> None:
    infer, tensor = message("ModelInferRequest"), message("ModelInferRequest").InferInputTensor
    pixels = tensor(name="pixel_values", datatype="FP32", shape=[1, 3, 64, 64])
    for inputs, raw in (
        ([pixels], [b"1234"]),
        ([pixels], [b"", b""]),
        ([pixels], []),
        ([tensor(name="pixel_values", datatype="FP32", shape=[2**62, 3, 64, 64])], [b"1234"]),
        ([tensor(name="pixel_values", datatype="FP32", shape=[-1, 3, 64, 64])], [b"1234"]),
        ([tensor(name="images", datatype="BYTES", shape=[1])], [b"\xff\xff\xff\xff1234"]),
        ([tensor(name="other", datatype="BYTES", shape=[1])], [b"1234"]),
        ([], []),
    ):
        request = infer(model_name="tiny", inputs=inputs, raw_input_contents=raw)
        with pytest.raises(grpc.RpcError) as caught:
            call(server, "ModelInfer", request, "ModelInferResponse")
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    with pytest.raises(grpc.RpcError):
        call(server, "ServerLive", message("ServerLiveRequest")(), "ServerLiveResponse", metadata=(("x", "a" * 10**6),))
    assert call(server, "ServerLive", message("ServerLiveRequest")(), "ServerLiveResponse").live


def test_a_key_must_be_long_and_a_queue_hold_a_call(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("short")
    with pytest.raises(OptionError, match="at least 16"):
        find_api_key(str(key_file))
    with pytest.raises(OptionError, match="cannot be read"):
        find_api_key(str(tmp_path / "none"))
    with pytest.raises(OptionError, match=r"queue_size \(3\) must be at least max_images"):
        ServeOptions(queue_size=3)


def test_a_port_must_be_free(tiny_bundle: Bundle, server: ServerProcess) -> None:
    port = str(server.host_and_port[1])
    for arguments, expected in (
        (["--port", port], f"port {port}: Address already in use"),
        (["--port", "0", "--grpc-port", str(server.grpc).rpartition(":")[2]], "--grpc-port"),
    ):
        command = [sys.executable, "-m", "ghostzoo", "serve", "--model", str(tiny_bundle.path), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stdout) == (1, "")
        assert expected in result.stderr
        assert "Traceback" not in result.stderr


def test_two_models(tiny_bundle: Bundle, tmp_path: Path, http: requests.Session, jpeg: bytes) -> None:
    from ghostzoo.bundle.edit import write_bundle

    contents = {name: tiny_bundle.read(name) for name in tiny_bundle.manifest.files}
    other = write_bundle(tmp_path / "other", name="other", contents=contents, weights={}, created_by={}, validation={})
    models = ("--model", str(tiny_bundle.path), "--model", str(other.path))
    with running_server(*models) as server:
        listed = http.get(f"{server.http}/v1/models").json()["models"]
        assert [model["name"] for model in listed] == ["tiny", "other"]
        for name in ("tiny", "other"):
            answer = http.post(f"{server.http}/v1/classify", params={"model": name}, data=jpeg).json()
            assert answer["model"] == name


@pytest.fixture(scope="module")
def slow_image() -> bytes:
    """Takes a tenth of a second or so to decode."""
    return encoded(picture(2400, 1800), "PNG", compress_level=1)


def test_overload_deadlines_and_clients_that_leave(tiny_bundle: Bundle, slow_image: bytes, jpeg: bytes) -> None:
    limits = ("--queue-size", "4", "--max-images", "4", "--workers", "1", "--deadline", "30")

    async def crowd(url: str, count: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
            return await asyncio.gather(*(client.post(url, content=slow_image) for _ in range(count)))

    with running_server("--model", str(tiny_bundle.path), *limits) as server:
        url = f"{server.http}/v1/classify"
        answers = asyncio.run(crowd(url, 12))
        statuses = {answer.status_code for answer in answers}
        assert statuses <= {200, 503, 504}
        assert {200, 503} <= statuses
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert refused.headers["Retry-After"] == "1"
        assert "queue is full" in refused.json()["error"]
        head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(slow_image)}\r\n\r\n".encode()
        gone = [socket.create_connection(server.host_and_port) for _ in range(4)]
        for connection in gone:
            connection.sendall(head + slow_image)
        for connection in gone:
            connection.close()
        end = time.monotonic() + 20
        while requests.post(url, data=jpeg, timeout=60).status_code != 200:
            assert time.monotonic() < end
        assert server.lines_with(status="499")
        image = base64.b64encode(slow_image).decode()
        short = {
            "inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": [image]}],
            "parameters": {"timeout": 1000},
        }
        assert requests.post(f"{server.http}/v2/models/tiny/infer", json=short, timeout=60).status_code == 504
        encoded_image = len(slow_image).to_bytes(4, "little") + slow_image
        late = message("ModelInferRequest")(model_name="tiny", raw_input_contents=[encoded_image])
        late.inputs.add(name="images", datatype="BYTES", shape=[1])
        late.parameters["timeout"].int64_param = 1000
        with pytest.raises(grpc.RpcError) as caught:
            call(server, "ModelInfer", late, "ModelInferResponse")
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def read_answer(stream: BinaryIO) -> tuple[int, dict[bytes, bytes]]:
    """Read a whole answer of HTTP and return its status and headers."""
    status = stream.readline()
    headers = {}
    while (header := stream.readline().strip()) != b"":
        name, _, value = header.partition(b": ")
        headers[name.lower()] = value
    if b"content-length" not in headers or len(stream.read(length := int(headers[b"content-length"]))) < length:
        raise EOFError("the answer is not whole")
    return int(status.split()[1]), headers


def test_sigterm_under_load_loses_no_accepted_request(tiny_bundle: Bundle, jpeg: bytes) -> None:
    answered: list[int] = []
    lost: list[str] = []
    refused = threading.Event()

    def client(server: ServerProcess) -> None:
        """One keep-alive connection after the other, until none is accepted any more."""
        request = (
            f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode() + jpeg
        )
        while True:
            try:
                connection = socket.create_connection(server.host_and_port, timeout=30)
            except ConnectionError:
                refused.set()
                return
            with connection, connection.makefile("rb") as stream:
                closing = False
                while not closing:
                    try:
                        connection.sendall(request)
                        status, headers = read_answer(stream)
                    except (OSError, EOFError) as error:
                        lost.append(repr(error))
                        return
                    answered.append(status)
                    closing = headers.get(b"connection") == b"close"

    with running_server("--model", str(tiny_bundle.path), "--no-grpc") as server:
        threads = [threading.Thread(target=client, args=(server,), daemon=True) for _ in range(16)]
        for thread in threads:
            thread.start()
        while len(answered) < 200:
            time.sleep(0.01)
        assert server.terminate() == 0
        for thread in threads:
            thread.join(30)
        assert refused.is_set()
        assert lost == []
        assert set(answered) == {200}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no process on one CPU")
def test_sigterm_with_requests_that_wait_to_be_accepted(tiny_bundle: Bundle, jpeg: bytes) -> None:
    request = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode() + jpeg
    one_cpu = {min(os.sched_getaffinity(0))}
    with running_server("--model", str(tiny_bundle.path), "--no-grpc") as server, ExitStack() as stack:
        for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), one_cpu)
        for _ in range(3):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
            os.sched_setaffinity(busy.pid, one_cpu)
        connections = [socket.create_connection(server.host_and_port, timeout=60) for _ in range(50)]
        for connection in connections:
            stack.enter_context(connection)
            connection.sendall(request)
        time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        statuses = []
        for connection in connections:
            with connection.makefile("rb") as stream:
                statuses.append(read_answer(stream)[0])
        assert statuses == [200] * 50
        assert server.process.wait(60) == 0


def test_sigterm_lets_a_slow_request_finish(tiny_bundle: Bundle, slow_image: bytes) -> None:
    statuses = []
    with running_server("--model", str(tiny_bundle.path), "--workers", "1") as server:

        def post() -> None:
            files = [("files", (str(index), slow_image)) for index in range(4)]
            statuses.append(requests.post(f"{server.http}/v1/classify", files=files, timeout=60).status_code)

        thread = threading.Thread(target=post)
        thread.start()
        wait_for_the_queue(server, empty=False)
        assert server.terminate() == 0
        thread.join()
    assert statuses == [200]


def infer_request(*images: bytes) -> Any:
    tensor = message("ModelInferRequest").InferInputTensor(name="images", datatype="BYTES", shape=[len(images)])
    tensor.contents.bytes_contents.extend(images)
    return message("ModelInferRequest")(model_name="tiny", inputs=[tensor])


def wait_for_the_queue(server: ServerProcess, *, empty: bool) -> None:
    end = time.monotonic() + 30
    while ("ghostzoo_queue_images 0.0" in requests.get(f"{server.http}/metrics", timeout=20).text) != empty:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_sigterm_lets_a_slow_grpc_request_finish(tiny_bundle: Bundle, slow_image: bytes) -> None:
    with running_server("--model", str(tiny_bundle.path), "--workers", "1") as server:
        with grpc.insecure_channel(server.grpc) as channel:
            infer = message("ModelInferResponse")
            run = channel.unary_unary(
                f"/{SERVICE}/ModelInfer", type(infer_request()).SerializeToString, infer.FromString
            )
            accepted = run.future(infer_request(*[slow_image] * 4), timeout=60)
            wait_for_the_queue(server, empty=False)
            server.process.send_signal(signal.SIGTERM)
            assert list(accepted.result(60).outputs[0].shape) == [4, 7]
            with pytest.raises(grpc.RpcError) as caught:
                run(infer_request(slow_image), timeout=60)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(60) == 0


def test_a_grpc_client_that_cancels_frees_its_places(tiny_bundle: Bundle, slow_image: bytes, jpeg: bytes) -> None:
    limits = ("--workers", "1", "--queue-size", "8", "--max-images", "8")
    with (
        running_server("--model", str(tiny_bundle.path), *limits) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        infer = message("ModelInferResponse")
        run = channel.unary_unary(f"/{SERVICE}/ModelInfer", type(infer_request()).SerializeToString, infer.FromString)
        cancelled = run.future(infer_request(*[slow_image] * 8), timeout=60)
        wait_for_the_queue(server, empty=False)
        cancelled.cancel()
        wait_for_the_queue(server, empty=True)
        assert len(run(infer_request(*[jpeg] * 8), timeout=60).outputs[0].shape) == 2
        classified = 'ghostzoo_images_total{engine="onnxruntime",model="tiny",outcome="classified"} '
        text = requests.get(f"{server.http}/metrics", timeout=20).text
        assert float(text.partition(classified)[2].partition("\n")[0]) < 16  # some of the first eight were never read
        assert server.lines_with(status="CANCELLED")


def test_the_descriptor_is_that_of_the_proto(tmp_path: Path) -> None:
    from ghostzoo.serve import open_inference

    folder = Path(open_inference.__file__).parent
    out = tmp_path / "made"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(folder), "--include_imports"]
    subprocess.run([*command, "--descriptor_set_out", str(out), "open_inference.proto"], check=True)
    assert out.read_bytes() == (folder / "open_inference.binpb").read_bytes()
