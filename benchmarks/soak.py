"""20,000 requests to one ``ghostzoo serve``, a fifth of them malformed: does memory stay flat, is every one answered?

    .venv/bin/python benchmarks/soak.py

Good requests must have the right answer whatever is sent beside them, malformed ones a 4xx. Prints the server's memory
over the run, and exits with 1 if anything is not as it should be.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import struct
import sys
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

import ghostzoo
from benchmarks.turns import print_machine
from ghostzoo.fetch import fetch
from ghostzoo.terminal import print_table
from tests.fixtures.pictures import encoded, picture
from tests.fixtures.serving import running_server

STEPS = 10
MAX_GROWTH_MB = 20
"""From the first tenth, in which caches and pools fill, to the last."""


@dataclass(frozen=True)
class Case:
    name: str
    path: str
    body: bytes
    headers: dict[str, str]
    expected: object
    """The predictions of a good request, ``None`` for a malformed one."""


def cases(model: str | None) -> tuple[list[Case], list[Case]]:
    images = [encoded(picture(320 + 40 * index, 240), "JPEG") for index in range(8)]
    with ghostzoo.load(model, engine="onnxruntime", threads=1) as classifier:
        answers = [[prediction.to_dict() for prediction in classifier(image)] for image in images]
        side = classifier.bundle.config.image_size
        name = classifier.bundle.name
    good = [
        Case("good", "/v1/classify", image, {"Content-Type": "image/jpeg"}, answer)
        for image, answer in zip(images, answers, strict=True)
    ]
    tensor = {"name": "pixel_values", "shape": [1, 3, side, side], "datatype": "FP32"}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 12 * side * side}}]}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    infer = f"/v2/models/{name}/infer"
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    malformed = [
        Case("truncated image", "/v1/classify", images[0][:900], {}, None),
        Case("text", "/v1/classify", b"no image", {}, None),
        Case("empty", "/v1/classify", b"", {}, None),
        Case("broken JSON", "/v1/classify", b"{", {"Content-Type": "application/json"}, None),
        Case("broken form", "/v1/classify", b"--b\r\nx", form, None),
        Case("unknown model", "/v1/classify?model=none", images[0], {}, None),
        Case("truncated tensor", infer, head + bytes(100), length, None),
        Case("lying header", infer, head, {"Inference-Header-Content-Length": "999999999"}, None),
        Case("lying shape", infer, json.dumps({"inputs": [tensor | {"data": [1.0]}]}).encode(), {}, None),
        Case("unknown place", "/nothing", b"x" * 10_000, {}, None),
        Case("image bomb", "/v1/classify", image_bomb(), {}, None),
        Case("JSON bomb", "/v1/classify", gzip.compress(b'{"images":[%s1]}' % (b"1," * 10**6)), packed, None),
        Case("large header", "/v1/classify", b"", {"X-Large": "a" * 40_000}, None),
    ]
    return good, malformed


def image_bomb() -> bytes:
    """A PNG that says to have 3.6 billion pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


async def soak(url: str, pid: int, plan: list[Case], clients: int) -> tuple[Counter[str], list[float]]:
    counts: Counter[str] = Counter()
    memory: list[float] = []
    remaining = iter(enumerate(plan))

    async def client(session: httpx.AsyncClient) -> None:
        for index, case in remaining:
            if index % (len(plan) // STEPS) == 0:
                memory.append(resident_mb(pid))
            try:
                answer = await session.post(url + case.path, content=case.body, headers=case.headers)
            except httpx.HTTPError as error:
                counts[f"{case.name}: not answered ({type(error).__name__})"] += 1
                continue
            counts[f"{case.name}: {verdict(case, answer)}"] += 1

    async with httpx.AsyncClient(timeout=60) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    memory.append(resident_mb(pid))
    return counts, memory


def verdict(case: Case, answer: httpx.Response) -> str:
    if case.expected is None:
        return "refused" if 400 <= answer.status_code < 500 else f"WRONG, {answer.status_code}"
    if answer.status_code != 200:
        return f"WRONG, {answer.status_code}"
    return "right" if answer.json()["images"][0]["predictions"] == case.expected else "WRONG predictions"


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@click.command()
@click.option("--model", help="A name or a bundle folder.  [default: the model that comes with the package]")
@click.option("--requests", "count", type=click.IntRange(STEPS, 200_000), default=20_000, show_default=True)
@click.option("--clients", type=click.IntRange(1, 64), default=16, show_default=True)
def main(model: str | None, count: int, clients: int) -> None:
    """Send the requests and report."""
    print_machine()
    good, malformed = cases(model)
    rng = random.Random(0)  # noqa: S311
    plan = [rng.choice(malformed if rng.random() < 0.2 else good) for _ in range(count)]
    start = time.perf_counter()
    with running_server("--model", str(fetch(model).path), "--engine", "onnxruntime", "--no-grpc") as server:
        counts, memory = asyncio.run(soak(server.http, server.process.pid, plan, clients))
        status = server.terminate()
        errors = [line for line in server.log() if line["level"] == "error"]
    print_table(["request: outcome", "count"], [(name, str(number)) for name, number in sorted(counts.items())])
    growth = memory[-1] - memory[1]
    print(f"memory in MB: {', '.join(f'{value:.0f}' for value in memory)}; growth after the first tenth {growth:+.1f}")
    print(f"{sum(counts.values())} requests in {time.perf_counter() - start:.0f} s, exit status {status}")
    wrong = [name for name in counts if not name.endswith((": right", ": refused"))]
    if wrong or errors or status != 0 or sum(counts.values()) != count or growth > MAX_GROWTH_MB:
        raise SystemExit(f"not as it should be: {wrong or errors[:3] or 'memory or exit status'}")


if __name__ == "__main__":
    main()
