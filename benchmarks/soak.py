"""20,000 requests to one ``ghostzoo serve``, a quarter of them malformed or hostile, beside clients that never read.

    .venv/bin/python benchmarks/soak.py

Each honest request, over HTTP or gRPC, must get the right answer whatever is sent beside it; one that is told to come
back later (503) comes back. Malformed and hostile ones must get a 4xx or 503, or their status of gRPC. The memory of
the server and of the processes that it starts must stay below what they held when they were warm and twice the budget
of ``--max-buffered-mb``. At the end, with clients that still send and others that do not read, SIGTERM must end the
server within ``--drain-timeout`` and five seconds. Prints all this, and exits with 1 if anything is not as it should
be.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import grpc
import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

import ghostzoo
from benchmarks.figures import out_option, save
from benchmarks.turns import print_machine
from ghostzoo.cli.console import print_table
from ghostzoo.fetch.resolver import fetch
from ghostzoo.serve.open_inference.messages import SERVICE, message
from tests.fixtures import hostile
from tests.fixtures.pictures import encoded, picture
from tests.fixtures.serving import ServerProcess, running_server

KEY = "soak-soak-soak-soak"
BUDGET_MB = 256
DRAIN_SECONDS = 10
GRACE_SECONDS = 5
SILENT_CLIENTS = 50
"""Connections that ask for large files and never read."""
HEAVY_AT_ONCE = 4
"""Hostile requests of tens of megabytes that are under way at a time."""


@dataclass(frozen=True)
class Case:
    name: str
    path: str
    body: bytes = field(repr=False)
    headers: dict[str, str]
    expected: object = None
    """The predictions of an honest request, ``None`` for any other."""
    heavy: bool = False
    may_answer: bool = False
    """Whether 200 is right too."""


def honest_cases(model: str | None) -> tuple[list[Case], str, int]:
    """Requests with their right answers, the model's name, and the side of its images in pixels."""
    images = [encoded(picture(320 + 40 * index, 240), "JPEG") for index in range(8)]
    with ghostzoo.load(model, engine="onnxruntime", threads=1) as classifier:
        answers = [[prediction.to_dict() for prediction in classifier(image)] for image in images]
        bundle = classifier.bundle
    header = {"Content-Type": "image/jpeg"}
    cases = [
        Case("honest", "/v1/classify", image, header, answer) for image, answer in zip(images, answers, strict=True)
    ]
    return cases, bundle.name, bundle.config.image_size


def malformed_cases(image: bytes, model: str, side: int) -> list[Case]:
    tensor = {"name": "pixel_values", "shape": [1, 3, side, side], "datatype": "FP32"}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 12 * side * side}}]}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    infer = f"/v2/models/{model}/infer"
    as_json = {"Content-Type": "application/json"}
    packed = as_json | {"Content-Encoding": "gzip"}
    urls = json.dumps({"images": [{"url": f"http://127.0.0.1:{port}/"} for port in range(1, 33)]}).encode()
    return [
        Case("truncated image", "/v1/classify", image[:900], {}),
        Case("text", "/v1/classify", b"no image", {}),
        Case("empty", "/v1/classify", b"", {}),
        Case("broken JSON", "/v1/classify", b"{", as_json),
        Case("broken form", "/v1/classify", b"--b\r\nx", {"Content-Type": "multipart/form-data; boundary=b"}),
        Case("unknown model", "/v1/classify?model=none", image, {}),
        Case("truncated tensor", infer, head + bytes(100), length),
        Case("lying header", infer, head, {"Inference-Header-Content-Length": "999999999"}),
        Case("lying shape", infer, json.dumps({"inputs": [tensor | {"data": [1.0]}]}).encode(), {}),
        Case("unknown place", "/nothing", b"x" * 10_000, {}),
        Case("image bomb", "/v1/classify", hostile.image_bomb(), {}),
        Case("JSON bomb", "/v1/classify", gzip.compress(b'{"images":[%s1]}' % (b"1," * 10**6)), packed),
        Case("large header", "/v1/classify", b"", {"X-Large": "a" * 40_000}),
        Case("animated PNG", "/v1/classify", hostile.animated_png(), {}, may_answer=True),
        Case("scans", "/v1/classify", hostile.jpeg_of_scans(), {}),
        Case("no key", "/v1/classify", image, {"Authorization": "none"}),
        Case("no key, open path", "/static-offline-docs/prediction", image, {"Authorization": "none"}),
        Case("foreign host", "/v1/classify", image, {"Host": "evil.example"}),
        Case("URLs of this machine", "/v1/classify", urls, as_json),
        Case("unloading", f"/v2/repository/models/{model}/unload", b"", as_json),
        Case("gzip bomb", "/v1/classify", hostile.gzip_bomb(), packed, heavy=True),
        Case("JSON of keys", infer, hostile.json_of_keys(), as_json, heavy=True),
        Case("JSON of objects", "/v1/classify", hostile.json_of_objects(), as_json, heavy=True),
        Case("comments of PNM", "/v1/classify", hostile.pnm_of_comments(), {}, heavy=True),
        Case("markers of JPEG", "/v1/classify", hostile.jpeg_of_markers(), {}, heavy=True),
        Case("text of PNG", "/v1/classify", hostile.png_of_text(), {}, heavy=True, may_answer=True),
    ]


@dataclass(frozen=True)
class Call:
    """A call over gRPC."""

    name: str
    request: bytes = field(repr=False)
    key: str
    expected: object = None
    codes: tuple[grpc.StatusCode, ...] = ()
    """What a hostile one may get."""
    heavy: bool = False


def grpc_calls(honest: list[Case], model: str) -> tuple[list[Call], list[Call]]:
    """Honest calls and hostile ones."""
    busy = grpc.StatusCode.UNAVAILABLE
    refused = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, busy)
    without_key = (grpc.StatusCode.UNAUTHENTICATED, busy)

    def request(contents: list[bytes]) -> bytes:
        call = message("ModelInferRequest")(model_name=model)
        call.inputs.add(name="images", datatype="BYTES", shape=[len(contents)]).contents.bytes_contents.extend(contents)
        data: bytes = call.SerializeToString()
        return data

    good = [Call("honest, gRPC", request([case.body]), KEY, case.expected) for case in honest]
    large = request([bytes(60 * hostile.MIB)])
    empty = request([b""] * (57 * hostile.MIB // 2))
    # ModelInferRequest.parameters is field 4: entries of a map.
    parameters = b"".join(b"\x22\x0a\x0a\x04%04x\x12\x02\x08\x01" % index for index in range(2**16)) * 16
    bad = [
        Call("gRPC: large, no key", large, "", codes=without_key, heavy=True),
        Call("gRPC: empty elements", empty, KEY, codes=refused, heavy=True),
        Call("gRPC: parameters", parameters, KEY, codes=refused, heavy=True),
        Call("gRPC: undecodable", b"\xff" * 100, KEY, codes=refused),
        Call("gRPC: no key", good[0].request, "", codes=without_key),
    ]
    return good, bad


class Soak:
    """Sends a plan, and counts what comes of it."""

    def __init__(self, server: ServerProcess, session: httpx.AsyncClient, channel: Any) -> None:
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        """Seconds of an honest request, retries included."""
        self._server = server
        self._session = session
        self._heavy = asyncio.Semaphore(HEAVY_AT_ONCE)
        self._infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")

    async def run(self, plan: list[Case | Call], clients: int) -> None:
        remaining = iter(plan)

        async def client() -> None:
            for case in remaining:
                send: Callable[[Any], Awaitable[str]] = self._post if isinstance(case, Case) else self._call
                start = time.monotonic()
                if case.heavy:
                    async with self._heavy:
                        verdict = await send(case)
                else:
                    verdict = await send(case)
                while verdict == "busy" and case.expected is not None:
                    self.counts[f"{case.name}: told to come back later"] += 1
                    await asyncio.sleep(1)
                    verdict = await send(case)
                if case.expected is not None:
                    self.slowest = max(self.slowest, time.monotonic() - start)
                self.counts[f"{case.name}: {verdict}"] += 1

        await asyncio.gather(*(client() for _ in range(clients)))

    async def _post(self, case: Case) -> str:
        headers = {"Authorization": f"Bearer {KEY}"} | case.headers
        try:
            answer = await self._session.post(self._server.http + case.path, content=case.body, headers=headers)
        except httpx.HTTPError as error:
            return f"not answered ({type(error).__name__})"
        if answer.status_code == 503:
            return "busy"
        if case.expected is None:
            accepted = 400 <= answer.status_code < 500 or (case.may_answer and answer.status_code == 200)
            return "refused" if accepted else f"WRONG, {answer.status_code}"
        if answer.status_code != 200:
            return f"WRONG, {answer.status_code}"
        return "right" if answer.json()["images"][0]["predictions"] == case.expected else "WRONG predictions"

    async def _call(self, call: Call) -> str:
        metadata = (("authorization", f"Bearer {call.key}"),) if call.key else ()
        try:
            data = await self._infer(call.request, metadata=metadata, timeout=60)
        except grpc.RpcError as error:
            code = error.code()
            if code is grpc.StatusCode.UNAVAILABLE:
                return "busy"
            return "refused" if code in call.codes else f"WRONG, {code.name}"
        answer = message("ModelInferResponse").FromString(data)
        labels = next(output for output in answer.outputs if output.name == "labels")
        best = labels.contents.bytes_contents[0].decode()
        return "right" if call.expected and best == call.expected[0]["label"] else "WRONG predictions"  # type: ignore[index]


def silent_clients(server: ServerProcess, path: str) -> list[socket.socket]:
    """Connections that ask for ``path`` over and over and read nothing."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    connections = []
    for _ in range(SILENT_CLIENTS):
        connection = socket.create_connection(server.host_and_port)
        connection.sendall(request * 8)
        connections.append(connection)
    return connections


def tree_mb(pid: int) -> float:
    """Resident memory of a process and of all that it started."""
    total = 0.0
    for process in (pid, *_children(pid)):
        with suppress(OSError):
            status = Path(f"/proc/{process}/status").read_text()
            total += int(status.partition("VmRSS:")[2].split()[0]) / 1024
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_children(child)]
    return found


async def soak(
    server: ServerProcess, plan: list[Case | Call], warm_up: list[Case | Call], clients: int
) -> dict[str, Any]:
    pid = server.process.pid
    memory: list[float] = []

    async def watch() -> None:
        while True:
            memory.append(tree_mb(pid))
            await asyncio.sleep(0.1)

    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as session:
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(str(server.grpc), options=options) as channel:
            await Soak(server, session, channel).run(warm_up, clients)
            warm = tree_mb(pid)
            run = Soak(server, session, channel)
            watching = asyncio.create_task(watch())
            silent = silent_clients(server, "/openapi.json")
            try:
                await run.run(plan, clients)
                # The end: clients that go on sending, and others that read nothing.
                silent += silent_clients(server, "/openapi.json")
                late = asyncio.create_task(Soak(server, session, channel).run(plan[:500], clients))
                await asyncio.sleep(1)
                start = time.monotonic()
                status = await asyncio.to_thread(server.terminate, DRAIN_SECONDS + 60)
                seconds = time.monotonic() - start
                late.cancel()
            finally:
                watching.cancel()
                for connection in silent:
                    connection.close()
    return {
        "counts": run.counts,
        "slowest": run.slowest,
        "warm": warm,
        "peak": max(memory),
        "last": memory[-2:],
        "status": status,
        "seconds": seconds,
    }


@click.command()
@click.option("--model", help="A name or a bundle folder.  [default: the model that comes with the package]")
@click.option("--requests", "count", type=click.IntRange(100, 200_000), default=20_000, show_default=True)
@click.option("--clients", type=click.IntRange(1, 64), default=16, show_default=True)
@out_option
@click.argument("arguments", nargs=-1)
def main(model: str | None, count: int, clients: int, out: Path | None, arguments: tuple[str, ...]) -> None:
    """Send the requests and report. ARGUMENTS go to the server, after ``--``."""
    print_machine()
    honest, name, side = honest_cases(model)
    malformed = malformed_cases(honest[0].body, name, side)
    good_calls, bad_calls = grpc_calls(honest, name)
    rng = random.Random(0)  # noqa: S311
    light: list[Case | Call] = [case for case in (*malformed, *bad_calls) if not case.heavy]
    heavy: list[Case | Call] = [case for case in (*malformed, *bad_calls) if case.heavy]
    good: list[Case | Call] = [*honest, *honest, *good_calls]
    plan = [rng.choice(rng.choices((good, light, heavy), (75, 24, 1))[0]) for _ in range(count)]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        key_file = Path(folder, "key")
        key_file.write_text(KEY)
        options = ("--api-key-file", str(key_file), "--allow-urls", "--max-buffered-mb", str(BUDGET_MB))
        options += ("--drain-timeout", str(DRAIN_SECONDS), "--engine", "onnxruntime", *arguments)
        with running_server("--model", str(fetch(model).path), *options) as server:
            found = asyncio.run(soak(server, plan, good * 10, clients))
            lines = server.log_file.read_text().splitlines()
    not_json = [line for line in lines if not line.startswith("{")]
    errors = [line for line in lines if '"level": "error"' in line]
    counts = found["counts"]
    print_table(["request: outcome", "count"], [(name, str(number)) for name, number in sorted(counts.items())])
    bound = found["warm"] + 2 * BUDGET_MB
    print(f"memory: {found['warm']:.0f} MB warm, {found['peak']:.0f} MB at most, bound {bound:.0f} MB")
    print(f"slowest honest request: {found['slowest']:.1f} s, with coming back")
    print(f"SIGTERM: ended after {found['seconds']:.1f} s with status {found['status']}")
    answered = sum(number for name, number in counts.items() if not name.endswith("later"))
    print(f"{answered} requests in {time.perf_counter() - start:.0f} s; {len(lines)} lines of log")
    wrong = [name for name in counts if not name.endswith((": right", ": refused", ": busy", " later"))]
    faults = {
        "answers": wrong,
        "errors in the log": errors[:3],
        "lines that are no JSON": not_json[:3],
        "exit status": [] if found["status"] == 0 else [found["status"]],
        "memory": [] if found["peak"] <= bound else [found["peak"]],
        "time to end": [] if found["seconds"] <= DRAIN_SECONDS + GRACE_SECONDS else [found["seconds"]],
        "count": [] if answered == count else [answered],
    }
    if any(faults.values()):
        raise SystemExit(f"not as it should be: { {name: what for name, what in faults.items() if what} }")
    figures = {"requests": count, "warm_mb": found["warm"], "peak_mb": found["peak"], "slowest_s": found["slowest"]}
    save(out, figures)  # of a server that did all as it should


if __name__ == "__main__":
    main()
