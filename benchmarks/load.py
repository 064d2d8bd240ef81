"""Load on a server of this machine: a number of clients, each with one connection, each asking again once answered; or,
with ``--rate``, requests that come at random moments, as from many people who know nothing of each other.

Run by the other benchmarks in a process of its own, so that the servers are measured and not the client. It prints one
JSON object. Loopback addresses only, for a bounded time.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np

MAX_SECONDS = 60
MAX_CLIENTS = 256


def raw_image(data: bytes) -> tuple[bytes, str]:
    return data, "image/jpeg"


def open_inference(data: bytes) -> tuple[bytes, str]:
    text = base64.b64encode(data).decode()
    tensor = {
        "name": "images",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [text],
    }
    return json.dumps({"inputs": [tensor]}).encode(), "application/json"


FORMATS = {"raw": raw_image, "open-inference": open_inference}


class Client(asyncio.Protocol):
    """One connection with one request on its way at most."""

    def __init__(self, tally: dict[str, Any], on_answer: Callable[[Client], object]) -> None:
        self._tally = tally
        self._on_answer = on_answer
        self._received = bytearray()
        self._needed = -1
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def ask(self, request: bytes, since: float) -> None:
        """Send a request, whose time counts from ``since`` on."""
        self._received.clear()
        self._needed = -1
        self._start = since
        self._transport.write(request)

    def close(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._needed < 0:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            self._status = int(head[9:12])
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            self._needed = end + 4 + int(length)
        if len(self._received) >= self._needed:
            if self._status == 200:
                self._tally["latencies"].append(time.perf_counter() - self._start)
            else:
                self._tally["refused"] += 1
            self._on_answer(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._tally["lost"] += 1
            self.done.set_result(None)


async def run_load(
    url: str, images: list[bytes], kind: str, clients: int, seconds: float, rate: float | None = None
) -> dict[str, Any]:
    parts = urlsplit(url)
    requests = itertools.cycle(_requests(parts.path, parts.netloc, images, kind))
    tally: dict[str, Any] = {"latencies": [], "refused": 0, "lost": 0}
    idle: deque[Client] = deque()
    waiting: deque[float] = deque()
    start = time.perf_counter()

    def ask_again(client: Client) -> None:
        now = time.perf_counter()
        if rate is not None and waiting:
            client.ask(next(requests), waiting.popleft())
        elif rate is not None:
            idle.append(client)
        elif now < start + seconds:
            client.ask(next(requests), now)
        else:
            client.close()

    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: Client(tally, ask_again), parts.hostname or "", parts.port or 80))[1]
        for _ in range(clients)
    ]
    for client in made:
        ask_again(client)
    if rate is not None:
        moments = np.cumsum(np.random.default_rng(0).exponential(1 / rate, math.ceil(2 * rate * seconds)))
        for moment in start + moments[moments < seconds]:
            await asyncio.sleep(moment - time.perf_counter())
            waiting.append(moment)
            if idle:
                ask_again(idle.popleft())
        while waiting or len(idle) + tally["lost"] < clients:
            await asyncio.sleep(0.01)
        for client in made:
            client.close()
    await asyncio.wait_for(asyncio.gather(*(client.done for client in made)), seconds + 60)
    return tally | {"seconds": time.perf_counter() - start}


def _requests(path: str, host: str, images: list[bytes], kind: str) -> list[bytes]:
    found = []
    for image in images:
        body, content_type = FORMATS[kind](image)
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n"
        found.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return found


def summary(tally: dict[str, Any]) -> dict[str, Any]:
    milliseconds = 1000 * np.array(tally["latencies"] or [np.nan])
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99]).tolist()
    return {
        "answered": len(tally["latencies"]),
        "images_per_second": len(tally["latencies"]) / tally["seconds"],
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "refused": tally["refused"],
        "lost": tally["lost"],
    }


@click.command()
@click.argument("url")
@click.argument("images", nargs=-1, required=True)
@click.option("--format", "kind", type=click.Choice(list(FORMATS)), default="raw")
@click.option("--clients", type=click.IntRange(1, MAX_CLIENTS), default=1)
@click.option("--seconds", type=click.FloatRange(0.1, MAX_SECONDS), default=5.0)
@click.option("--rate", type=click.FloatRange(min=0.1), help="Requests a second, at random moments.")
def main(url: str, images: tuple[str, ...], kind: str, clients: int, seconds: float, rate: float | None) -> None:
    """Ask URL for each of IMAGES in turn."""
    if not ip_address(urlsplit(url).hostname or "").is_loopback:
        raise click.ClickException("only an address of the loopback interface is put under load")
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        data = [Path(image).read_bytes() for image in images]
        tally = runner.run(run_load(url, data, kind, clients, seconds, rate))
    json.dump(summary(tally), sys.stdout)


if __name__ == "__main__":
    main()
