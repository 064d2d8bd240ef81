"""Whatever is sent over gRPC: a clear refusal, no more memory than the budget, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from ghostzoo.serve import open_inference
from ghostzoo.serve.open_inference.messages import SERVICE, message
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc"),
]

KEY = "0123456789abcdef-test"
WITH_KEY = (("x-api-key", KEY),)
MIB = 2**20
MB60 = 60 * MIB
MANY = 12
"""Messages of that size at the same time: with gRPC's own copies, more than twice the budget."""
BUDGET_MB = 512
HEALTH = "grpc.health.v1.Health"


def peak_mb(server: ServerProcess) -> float:
    """The most memory that the server has had resident, in MiB."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


@contextmanager
def channel_to(server: ServerProcess) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(str(server.grpc), options=options) as channel:
        yield channel


def send(
    server: ServerProcess, data: bytes, method: str = "ModelInfer", service: str = SERVICE, **options: Any
) -> grpc.RpcError | bytes:
    """Send bytes as a message, and return the answer or the error."""
    with channel_to(server) as channel:
        try:
            return bytes(channel.unary_unary(f"/{service}/{method}")(data, **{"timeout": 60, **options}))
        except grpc.RpcError as error:
            return error


def code(answer: grpc.RpcError | bytes) -> str:
    return "OK" if isinstance(answer, bytes) else answer.code().name


def pixels_request(**changes: Any) -> Any:
    tensor = message("ModelInferRequest").InferInputTensor(name="pixel_values", datatype="FP32", shape=[1, 3, 64, 64])
    values = np.linspace(-1, 1, 3 * 64 * 64, dtype=np.float32)
    whole = {"model_name": "tiny", "inputs": [tensor], "raw_input_contents": [values.tobytes()]}
    return message("ModelInferRequest")(**whole | changes)


HONEST = pixels_request().SerializeToString()


def length(size: int) -> bytes:
    """A varint."""
    parts = []
    while size >= 0x80:
        parts.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*parts, size])


def field(number: int, content: bytes) -> bytes:
    return length(number << 3 | 2) + length(len(content)) + content


def in_contents(content: bytes) -> bytes:
    """A request with these contents of its only input."""
    return field(1, b"tiny") + field(5, field(1, b"images") + field(2, b"BYTES") + field(5, content))


class Meanwhile:
    """An honest client that calls again and again, until the block ends."""

    def __init__(self, server: ServerProcess, *, probe: bool = False) -> None:
        self._server = server
        self._probe = probe
        self._ended = False
        self.codes: set[str] = set()
        self.seconds: list[float] = []

    def _call(self) -> None:
        while not self._ended:
            start = time.monotonic()
            given = (b"", "Check", HEALTH) if self._probe else (HONEST,)
            self.codes.add(code(send(self._server, *given, metadata=WITH_KEY)))
            self.seconds.append(time.monotonic() - start)
            time.sleep(0.02)

    def __enter__(self) -> Meanwhile:
        self._pool = ThreadPoolExecutor(1)
        self._done = self._pool.submit(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._done.result(120)
        self._pool.shutdown()


def together(count: int, call: Callable[[], grpc.RpcError | bytes]) -> list[str]:
    with ThreadPoolExecutor(count) as pool:
        return [code(each.result()) for each in [pool.submit(call) for _ in range(count)]]


@pytest.fixture
def locked(tiny_bundle: Bundle) -> Iterator[ServerProcess]:
    """With a key, and the default limits."""
    with running_server("--model", str(tiny_bundle.path), env={"GHOSTZOO_API_KEY": KEY}) as process:
        assert code(send(process, HONEST, metadata=WITH_KEY)) == "OK"
        yield process


@pytest.fixture(scope="module")
def small(tiny_bundle: Bundle) -> Iterator[ServerProcess]:
    limits = ("--max-body-mb", "16", "--max-buffered-mb", "64", "--max-images", "8")
    with running_server("--model", str(tiny_bundle.path), *limits) as process:
        assert code(send(process, HONEST)) == "OK"
        yield process


@pytest.mark.parametrize("method", ["ModelInfer", "ServerMetadata"])
def test_who_shows_no_key_takes_no_memory(locked: ServerProcess, method: str) -> None:
    before = peak_mb(locked)
    with Meanwhile(locked) as honest:
        codes = together(MANY, lambda: send(locked, bytes(MB60), method))
    assert set(codes) == {"UNAUTHENTICATED"}
    assert honest.codes == {"OK"}
    assert peak_mb(locked) - before < 100, peak_mb(locked)


@pytest.mark.parametrize(("service", "method"), [(SERVICE, "ServerReady"), (HEALTH, "Check")])
def test_probes_take_little_memory(locked: ServerProcess, service: str, method: str) -> None:
    before = peak_mb(locked)
    with Meanwhile(locked) as honest:
        codes = together(24, lambda: send(locked, bytes(MB60), method, service))
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert honest.codes == {"OK"}
    assert peak_mb(locked) - before < 2 * BUDGET_MB, peak_mb(locked)


@pytest.mark.parametrize("kind", ["zeros", "images", "raw", "pixels", "compressed"])
def test_large_messages_stay_within_the_budget(locked: ServerProcess, kind: str) -> None:
    images = message("ModelInferRequest").InferInputTensor(name="images", datatype="BYTES", shape=[60])
    options: dict[str, Any] = {}
    if kind == "raw":
        parts = [(len(HONEST).to_bytes(4, "little") + HONEST)] * 59
        parts.append((MB60 - 59 * len(parts[0])).to_bytes(4, "little") + bytes(MB60 - 59 * len(parts[0])))
        data = pixels_request(inputs=[images], raw_input_contents=[b"".join(parts)]).SerializeToString()
    elif kind == "images":
        images.contents.bytes_contents.extend([bytes(MIB)] * 60)
        data = pixels_request(inputs=[images], raw_input_contents=[]).SerializeToString()
    elif kind == "pixels":
        images.name, images.datatype = "pixel_values", "FP32"
        images.shape[:] = [60, 3, 64, 64]
        images.contents.fp32_contents.extend(np.zeros(15 * MIB, np.float32))
        data = pixels_request(inputs=[images], raw_input_contents=[]).SerializeToString()
    else:
        data = bytes(MB60)
    if kind == "compressed":
        options["compression"] = grpc.Compression.Gzip
    before = peak_mb(locked)
    with Meanwhile(locked) as honest:
        codes = together(MANY, lambda: send(locked, data, metadata=WITH_KEY, **options))
    assert set(codes) <= {"INVALID_ARGUMENT", "UNAVAILABLE"}
    assert honest.codes == {"OK"}
    assert peak_mb(locked) - before < 2 * BUDGET_MB, peak_mb(locked)


PARAMETER = field(4, field(1, b"a") + field(2, b"\x08\x01"))


@pytest.mark.parametrize(
    "data",
    [
        in_contents(field(8, b"") * 5_000_000),
        field(7, b"") * 5_000_000,
        field(5, b"") * 5_000_000,
        field(6, b"") * 5_000_000,
        PARAMETER * 1_000_000,
        field(5, PARAMETER * 1_000_000),
        field(6, field(2, b"") * 5_000_000),
        b"".join(field(4, field(1, b"%d" % index)) for index in range(1_000_000)),
        in_contents((b"\x35" + bytes(4)) * 2_000_000),
        in_contents(b"\x18\x01" * 5_000_000),
        field(1, b"tiny") + field(5, field(3, b"\x01" * 10_000_000)),
        field(99, b"") * 5_000_000,
        b"\x20\x01" * 5_000_000,
    ],
    ids=[
        *("empty images", "raw", "inputs", "outputs", "parameters", "input parameters", "output parameters", "names"),
        *("unpacked floats", "unpacked integers", "shape", "unknown", "wrong types"),
    ],
)
def test_small_parts_without_number(small: ServerProcess, data: bytes) -> None:
    before = peak_mb(small)
    with Meanwhile(small) as honest:
        start = time.monotonic()
        answer = send(small, data)
        seconds = time.monotonic() - start
    assert code(answer) == "RESOURCE_EXHAUSTED"
    assert "send" in answer.details()
    assert honest.codes == {"OK"}
    assert peak_mb(small) - before < 2 * 64, peak_mb(small)
    assert seconds < 10


@pytest.mark.parametrize(
    ("data", "method"),
    [
        (b"\xff" * 20, "ModelInfer"),
        (b"\x0b\x0c", "ModelInfer"),
        (b"\x00\x00", "ModelInfer"),
        (field(1, b"\xff\xfe"), "ModelInfer"),
        (HONEST[:-1], "ModelInfer"),
        (field(1, b"tiny") + field(5, b"\x0a\x05a"), "ModelInfer"),
        (field(5, field(5, b"\x32\x05a")), "ModelInfer"),
        (
            field(1, b"tiny")
            + field(
                5, field(1, b"pixel_values") + field(2, b"FP32") + field(3, b"\x01\x03@@") + field(5, field(6, b"abc"))
            ),
            "ModelInfer",
        ),
        (b"\x0a\x05a", "ModelReady"),
        (b"\xff" * 20, "RepositoryIndex"),
        (gzip.compress(HONEST)[:-9], "ModelInfer"),
        (gzip.compress(HONEST) * 2, "ModelInfer"),
        (b"\x1f\x8b\x08\x00abc", "ModelInfer"),
    ],
)
def test_what_cannot_be_decoded_is_said_and_logged(small: ServerProcess, data: bytes, method: str) -> None:
    name = f"broken-{time.monotonic_ns()}"
    answer = send(small, data, method, metadata=(("x-request-id", name),))
    assert code(answer) == "INVALID_ARGUMENT"
    assert "message" in answer.details() or "no input" in answer.details(), answer.details()
    (line,) = small.lines_with(request_id=name)
    assert (line["route"], line["status"]) == (method, "INVALID_ARGUMENT")
    text = requests.get(f"{small.http}/metrics", timeout=20).text
    assert f'ghostzoo_requests_total{{protocol="grpc",route="{method}",status="INVALID_ARGUMENT"}}' in text


def test_messages_beyond_the_limit(small: ServerProcess) -> None:
    before = peak_mb(small)
    for data, compression in (
        (bytes(200 * MIB), None),
        (bytes(200 * MIB), grpc.Compression.Gzip),
        (bytes(200 * MIB), grpc.Compression.Deflate),
    ):
        name = f"large-{time.monotonic_ns()}"
        answer = send(small, data, compression=compression, metadata=(("x-request-id", name),))
        assert (code(answer), "larger than" in answer.details()) == ("RESOURCE_EXHAUSTED", True)
        end = time.monotonic() + 20
        while not (found := [line["status"] for line in small.log() if line.get("request_id") == name]):
            assert time.monotonic() < end
        assert found == ["RESOURCE_EXHAUSTED" if compression else "CANCELLED"]  # gRPC itself refuses what is not packed
    for method in ("ModelReady", "ModelMetadata", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
        assert code(send(small, field(1, bytes(MIB)), method)) == "RESOURCE_EXHAUSTED"
    assert peak_mb(small) - before < 2 * 64, peak_mb(small)


@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_honest_messages_of_each_form(small: ServerProcess, compression: grpc.Compression) -> None:
    answers = []
    packed = pixels_request(raw_input_contents=[])
    packed.inputs[0].contents.fp32_contents.extend(np.linspace(-1, 1, 3 * 64 * 64, dtype=np.float32))
    halves = np.frombuffer(packed.inputs[0].contents.SerializeToString()[-4 * 3 * 64 * 64 :], "<f4").reshape(2, -1)
    split = field(1, b"tiny") + field(
        5,
        field(1, b"pixel_values")
        + field(2, b"FP32")
        + field(3, b"\x01\x03\x40\x40")
        + b"".join(field(5, field(6, half.tobytes())) for half in halves),
    )
    for data in (HONEST, packed.SerializeToString(), split):
        answer = send(small, data, compression=compression)
        assert isinstance(answer, bytes), answer.details()
        answers.append(message("ModelInferResponse").FromString(answer))
    first = np.frombuffer(answers[0].raw_output_contents[0], np.float32)
    for other in answers[1:]:
        np.testing.assert_array_equal(first, np.array(other.outputs[0].contents.fp32_contents, np.float32))


def test_a_stream_is_one_message(small: ServerProcess) -> None:
    with channel_to(small) as channel:
        call = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        assert len(call(iter([HONEST, bytes(MIB), bytes(MIB)]), timeout=20)) > 0
        with pytest.raises(grpc.RpcError) as caught:
            call(iter([]), timeout=20)
        assert (caught.value.code().name, "No message" in caught.value.details()) == ("INVALID_ARGUMENT", True)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_unknown_model_is_not_found(small: ServerProcess) -> None:
    answer = send(small, pixels_request(model_name="other").SerializeToString())
    assert (code(answer), "other" in answer.details()) == ("NOT_FOUND", True)


def test_an_output_is_asked_for_once(small: ServerProcess) -> None:
    request = pixels_request(outputs=[{"name": "logits"}] * 200)
    answer = send(small, request.SerializeToString())
    assert (code(answer), "more than once" in answer.details()) == ("INVALID_ARGUMENT", True)


def test_many_small_calls_are_all_taken(locked: ServerProcess) -> None:
    async def calls() -> list[bytes]:
        async with grpc.aio.insecure_channel(str(locked.grpc)) as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            gate = asyncio.Semaphore(64)

            async def one() -> bytes:
                async with gate:
                    return bytes(await call(HONEST, timeout=60, metadata=WITH_KEY))

            return await asyncio.gather(*(one() for _ in range(640)))

    assert len({len(answer) for answer in asyncio.run(calls())}) == 1


def never() -> Iterator[bytes]:
    time.sleep(60)
    yield b""


@pytest.mark.parametrize("probe", [False, True])
def test_calls_whose_message_does_not_come(locked: ServerProcess, probe: bool) -> None:
    """They have all turns, until others wait."""
    with channel_to(locked) as channel:
        path = f"/{HEALTH}/Check" if probe else f"/{SERVICE}/ModelInfer"
        calls = [channel.stream_unary(path).future(never(), metadata=WITH_KEY, timeout=40) for _ in range(8)]
        time.sleep(0.5)
        given = (b"", "Check", HEALTH) if probe else (HONEST,)
        answers = together(4, lambda: send(locked, *given, metadata=WITH_KEY, timeout=39))
        assert answers == ["OK"] * 4
        for call in calls:
            call.cancel()


STATUS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


def status(answer: bytes) -> str:
    assert answer[:1] in (b"", b"\x08")
    return STATUS[answer[1]] if answer else STATUS[0]


def test_health(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_bundle.path, folder)
    with (
        running_server("--model", str(folder), "--model-control", env={"GHOSTZOO_API_KEY": KEY}) as server,
        channel_to(server) as channel,
    ):

        def check(name: str) -> str:
            answer = send(server, field(1, name.encode()) if name else b"", "Check", HEALTH)
            return status(answer) if isinstance(answer, bytes) else code(answer)

        names = ("", SERVICE, HEALTH)
        assert [check(name) for name in (*names, "other")] == ["SERVING"] * 3 + ["NOT_FOUND"]
        listed = send(server, b"", "List", HEALTH)
        assert isinstance(listed, bytes)
        assert listed.count(field(2, b"\x08\x01")) == 3
        watch = channel.unary_stream(f"/{HEALTH}/Watch")
        seen, unknown = watch(b"", timeout=120), watch(field(1, b"other"), timeout=120)
        assert (status(next(seen)), status(next(unknown))) == ("SERVING", "SERVICE_UNKNOWN")
        control = f"{server.http}/v2/repository/models/tiny"
        headers = {"X-API-Key": KEY}
        assert requests.post(f"{control}/unload", headers=headers, timeout=60).status_code == 200
        (folder / "config.json").rename(tmp_path / "kept")
        assert requests.post(f"{control}/load", headers=headers, timeout=60).status_code != 200
        assert status(next(seen)) == "NOT_SERVING"
        assert [check(name) for name in names] == ["NOT_SERVING"] * 3
        (tmp_path / "kept").rename(folder / "config.json")
        assert requests.post(f"{control}/load", headers=headers, timeout=60).status_code == 200
        assert status(next(seen)) == "SERVING"
        start = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - start < 25  # watchers do not hold up the end, for which there are 30 seconds
        assert [status(each) for each in seen] == ["NOT_SERVING"]


def first_of(watcher: Any) -> str:
    try:
        return status(next(watcher))
    except grpc.RpcError as error:
        return code(error)


def test_watchers_leave_room_for_calls(small: ServerProcess) -> None:
    with channel_to(small) as channel:
        watchers = [channel.unary_stream(f"/{HEALTH}/Watch")(b"", timeout=60) for _ in range(20)]
        seen = Counter(first_of(watcher) for watcher in watchers)
        assert seen == {"SERVING": 16, "UNAVAILABLE": 4}
        for watcher in watchers:
            watcher.cancel()
        end = time.monotonic() + 30
        while code(send(small, HONEST)) != "OK":
            assert time.monotonic() < end


def test_health_is_as_grpc_defines_it(tmp_path: Path) -> None:
    folder = Path(open_inference.__file__).parent
    out = tmp_path / "made"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(folder), "--include_imports"]
    subprocess.run([*command, "--descriptor_set_out", str(out), "health.proto"], check=True)
    assert out.read_bytes() == (folder / "health.binpb").read_bytes()
