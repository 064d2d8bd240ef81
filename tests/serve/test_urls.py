"""``--allow-urls``: what a client may have fetched, and what not."""

from __future__ import annotations

import requests

from ghostzoo.bundle.folder import Bundle
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
