"""Files that would end or stop the process are answered like any other, by the command line and by the server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from ghostzoo.serve.open_inference.messages import SERVICE, message
from tests.fixtures.hostile_images import HOSTILE, crashing_apng
from tests.fixtures.serving import ServerProcess

pytestmark = pytest.mark.slow


def test_predict_answers_a_crashing_file_and_goes_on(tiny_bundle: Bundle, tmp_path: Path, jpeg: bytes) -> None:
    names = ("crashing.png", "inflates.png", "good.jpg")
    for name, data in zip(names, (crashing_apng(), HOSTILE["png-inflates"][0](), jpeg), strict=True):
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-m", "ghostzoo", "predict", *names, "--model", str(tiny_bundle.path), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 1
    first, second, third = map(json.loads, result.stdout.splitlines())
    assert "predictions" in first
    assert "its compressed data hold far more than its picture" in second["error"]
    assert "predictions" in third
    assert "inflates.png" in result.stderr


@pytest.mark.parametrize("name", ["crashing-apng", "jpeg-scans", "png-inflates", "png-exif", "jpeg2000-precincts"])
def test_the_server_answers_and_lives(server: ServerProcess, http: requests.Session, jpeg: bytes, name: str) -> None:
    data = HOSTILE[name][0]()
    start = time.monotonic()
    answer = http.post(f"{server.http}/v1/classify", data=data, headers={"Content-Type": "image/png"}, timeout=60)
    assert answer.status_code == (200 if name == "crashing-apng" else 422), answer.text
    assert time.monotonic() - start < 30
    assert http.post(f"{server.http}/v1/classify", data=jpeg, timeout=60).status_code == 200
    assert server.process.poll() is None


def test_a_crashing_file_over_grpc(server: ServerProcess, jpeg: bytes) -> None:
    request: Any = message("ModelInferRequest")
    tensor = request.InferInputTensor(name="images", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend([crashing_apng(), jpeg])
    with grpc.insecure_channel(server.grpc) as channel:
        given = request(model_name="tiny", inputs=[tensor])
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", type(given).SerializeToString, message("ModelInferResponse").FromString
        )
        assert list(infer(given, timeout=60).outputs[0].shape) == [2, 7]
    assert server.process.poll() is None
