"""``--allow-urls``: what a client may have fetched, and what not."""

from __future__ import annotations

import asyncio
import socket

import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import ImageError
from ghostzoo.serve.options import ServeOptions
from ghostzoo.serve.service import Exchange, Service
from tests.fixtures.server import content, serve
from tests.fixtures.serving import running_server


def test_nothing_of_this_machine_is_fetched(tiny_bundle: Bundle, jpeg: bytes) -> None:
    asked: list[str] = []
    with serve({"/cat.jpg": lambda request: (asked.append(request.path), content(jpeg)(request))}) as address:
        port = address.rpartition(":")[2]
        hosts = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0"]  # noqa: S104
        images = [{"url": f"http://{host}:{port}/cat.jpg"} for host in hosts]
        images += [{"url": "file:///etc/passwd"}, {"url": "http://169.254.169.254/latest"}, {"url": "nonsense"}]
        with running_server("--model", str(tiny_bundle.path), "--allow-urls", "--no-grpc") as server:
            answer = requests.post(f"{server.http}/v1/classify", json={"images": images}, timeout=60)
            assert answer.status_code == 422
            assert all(image["error"] for image in answer.json()["images"])
            old = {"image": images[0]["url"]}
            answer = requests.post(f"{server.http}/image-classification", json=old, timeout=60)
            assert (answer.status_code, "not public" in answer.json()["errorMsg"]) == (422, True)
    assert asked == []


def fetch(monkeypatch: pytest.MonkeyPatch, urls: list[str], seconds: float) -> list[object]:
    """What a server gets for ``urls`` within a deadline, if all addresses are public."""

    async def run() -> list[object]:
        service = Service(ServeOptions(allow_urls=True, grpc_port=None))
        try:
            exchange = Exchange("id", 0.0, asyncio.get_running_loop().time() + seconds)
            return await asyncio.gather(*(service.fetch(url, exchange) for url in urls), return_exceptions=True)
        finally:
            await service.close()

    monkeypatch.setattr("ghostzoo.serve.service.is_public", lambda _: True)
    return asyncio.run(run())


def test_public_addresses_are_fetched(monkeypatch: pytest.MonkeyPatch, jpeg: bytes) -> None:
    with serve({"/cat.jpg": content(jpeg)}) as address:
        found, missing = fetch(monkeypatch, [f"{address}/cat.jpg", f"{address}/dog.jpg"], 30)
        assert found == jpeg
        assert isinstance(missing, ImageError)


def test_more_urls_than_are_fetched_at_once_end_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/cat.jpg"
        results = fetch(monkeypatch, [url] * 20, 0.5)
    assert len(results) == 20
    # The first ones hear it from their own download, whichever is earlier.
    assert all(isinstance(result, ImageError) or getattr(result, "status", None) == 504 for result in results)
    assert any(getattr(result, "status", None) == 504 for result in results)
