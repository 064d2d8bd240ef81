"""Models that are loaded anew and unloaded while requests for them come in."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter

import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from tests.fixtures.serving import running_server

pytestmark = pytest.mark.slow

IMAGES = {"name": "images", "shape": [1], "datatype": "BYTES"}


def test_no_request_notices_that_its_model_is_loaded_anew(tiny_bundle: Bundle, jpeg: bytes) -> None:
    statuses: Counter[int] = Counter()
    done = threading.Event()

    def post(url: str) -> None:
        with requests.Session() as session:
            while not done.is_set():
                statuses[session.post(url, data=jpeg, timeout=60).status_code] += 1

    with running_server("--model", str(tiny_bundle.path), "--no-grpc", "--model-control") as server:
        threads = [threading.Thread(target=post, args=(f"{server.http}/v1/classify",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            url = f"{server.http}/v2/repository/models/tiny/load"
            assert requests.post(url, timeout=60).status_code == 200
        done.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}


def test_a_request_whose_body_is_on_its_way_gets_the_new_model(tiny_bundle: Bundle, jpeg: bytes) -> None:
    content = json.dumps({"inputs": [{**IMAGES, "parameters": {"binary_data_size": 4 + len(jpeg)}}]}).encode()
    body = content + len(jpeg).to_bytes(4, "little") + jpeg
    head = (
        f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {len(content)}\r\n\r\n"
    ).encode()
    with running_server("--model", str(tiny_bundle.path), "--no-grpc", "--model-control") as server:
        repository = f"{server.http}/v2/repository/models/tiny"
        for change, status in (("load", b"200"), ("unload", b"503")):
            with socket.create_connection(server.host_and_port, timeout=30) as connection:
                connection.sendall(head + body[:100])
                assert requests.post(f"{repository}/{change}", timeout=60).status_code == 200
                connection.sendall(body[100:])
                with connection.makefile("rb") as answer:
                    assert answer.readline().split()[1] == status
