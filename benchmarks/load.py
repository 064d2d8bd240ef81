"""Load on a server of this machine: a number of clients, each with one connection, each asking again once answered.

Run by the other benchmarks in a process of its own, so that the servers are measured and not the client. It prints one
JSON object. Loopback addresses only, for a bounded time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
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
    """One connection that always has one request on its way."""

    def __init__(self, requests: list[bytes], first: int, end: float, tally: dict[str, Any]) -> None:
        self._requests = requests
        self._next = first
        self._end = end
        self._tally = tally
        self._received = bytearray()
        self._needed = -1
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

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
            self._answered()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._tally["lost"] += 1
            self.done.set_result(None)

    def _send(self) -> None:
        self._received.clear()
        self._needed = -1
        self._start = time.perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1

    def _answered(self) -> None:
        now = time.perf_counter()
        if self._status == 200:
            self._tally["latencies"].append(now - self._start)
        else:
            self._tally["refused"] += 1
        if now < self._end:
            self._send()
        else:
            self.done.set_result(None)
            self._transport.close()


async def run_load(url: str, images: list[bytes], kind: str, clients: int, seconds: float) -> dict[str, Any]:
    parts = urlsplit(url)
    requests = []
    for image in images:
        body, content_type = FORMATS[kind](image)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {content_type}\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    tally: dict[str, Any] = {"latencies": [], "refused": 0, "lost": 0}
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    made = [
        await loop.create_connection(
            lambda index=index: Client(requests, index, start + seconds, tally), parts.hostname, parts.port
        )
        for index in range(clients)
    ]
    await asyncio.wait_for(asyncio.gather(*(client.done for _, client in made)), seconds + 60)
    return tally | {"seconds": time.perf_counter() - start}


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
def main(url: str, images: tuple[str, ...], kind: str, clients: int, seconds: float) -> None:
    """Ask URL for each of IMAGES in turn."""
    if not ip_address(urlsplit(url).hostname or "").is_loopback:
        raise click.ClickException("only an address of the loopback interface is put under load")
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        tally = runner.run(run_load(url, [Path(image).read_bytes() for image in images], kind, clients, seconds))
    json.dump(summary(tally), sys.stdout)


if __name__ == "__main__":
    main()
