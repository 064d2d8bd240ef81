"""The protocol's own clients, as people use them, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.images.decode import read_image
from ghostzoo.images.transform import preprocess
from ghostzoo.predictions import softmax
from tests.fixtures.pictures import encoded, picture
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow

CLIENTS = Path(__file__).with_name("clients")


@pytest.fixture(scope="module")
def clients_python() -> str:
    python = os.environ.get("GHOSTZOO_CLIENTS_PYTHON")
    if not python:
        pytest.skip("GHOSTZOO_CLIENTS_PYTHON names no Python with tritonclient and kserve; 'make test-all' makes one")
    return python


@pytest.fixture(scope="module")
def own_server(tiny_bundle: Bundle) -> Iterator[ServerProcess]:
    """Its model is unloaded and loaded again."""
    with running_server("--model", str(tiny_bundle.path), "--model-control") as process:
        yield process


@pytest.fixture(scope="module")
def case(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, Any]]:
    """Two images, their pixels, and the logits that a classifier gives them."""
    images = [encoded(picture(90, 70), "PNG"), encoded(picture(70, 90), "JPEG")]
    pixels = np.stack([preprocess(read_image(image), tiny_bundle.preprocessing) for image in images])
    file = tmp_path_factory.mktemp("case") / "case.npz"
    first, second = (np.frombuffer(image, np.uint8) for image in images)
    np.savez(file, pixel_values=pixels, first=first, second=second)
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier:
        return file, classifier.logits(images)


def run_client(python: str, script: str, *arguments: str) -> dict[str, Any]:
    result = subprocess.run([python, str(CLIENTS / script), *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return content


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_tritonclient(
    clients_python: str, own_server: ServerProcess, case: tuple[Path, np.ndarray[Any, Any]], kind: str
) -> None:
    file, logits = case
    address = {"http": own_server.http.removeprefix("http://"), "grpc": str(own_server.grpc)}[kind]
    seen = run_client(clients_python, "triton.py", kind, address, str(file))
    assert seen["live"] is seen["ready"] is seen["model_ready"] is seen["loaded"] is True
    assert seen["other_ready"] is False
    assert seen["server"]["name"] == "ghostzoo"
    assert {tensor["name"] for tensor in seen["model"]["inputs"]} == {"pixel_values", "images"}
    shapes = {tensor["name"]: [int(size) for size in tensor["shape"]] for tensor in seen["model"]["inputs"]}
    assert shapes == {"pixel_values": [-1, 3, 64, 64], "images": [-1]}
    for way in (
        "pixels",
        "images",
        "chosen",
        "after",
        *(("json", "gzip", "deflate", "async") if kind == "http" else ()),
    ):
        np.testing.assert_allclose(seen[way]["logits"], logits, atol=1e-5, err_msg=way)
    scores = softmax(logits)
    np.testing.assert_allclose(seen["pixels"]["scores"], scores, atol=1e-6)
    best = scores.argmax(axis=1)
    assert seen["labels"] == [f"class-{index}" for index in best]
    assert seen["id"] == "seven"
    assert len(seen["classification"]) == 4
    score, index, label = seen["classification"][0].split(":")
    assert (int(index), label) == (best[0], f"class-{best[0]}")
    assert float(score) == pytest.approx(scores[0].max(), abs=1e-5)
    expected = [
        "no model 'other'",
        "no input 'wrong'",
        "[2, 2, 64, 64]",
        "not an image in a supported format",
        "'2'",
        "no model 'other'",
    ]
    assert all(part in str(error) for part, error in zip(expected, seen["errors"], strict=True)), seen["errors"]
    assert [(row["name"], row["state"]) for row in seen["index"]] == [("tiny", "READY")]
    assert seen["unloaded"]["model_ready"] is False
    assert "not loaded" in seen["unloaded"]["error"]


@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_kserve(
    clients_python: str, own_server: ServerProcess, case: tuple[Path, np.ndarray[Any, Any]], kind: str
) -> None:
    file, logits = case
    address = {"rest": own_server.http, "grpc": str(own_server.grpc)}[kind]
    seen = run_client(clients_python, "kserve_client.py", kind, address, str(file))
    assert seen["live"] is seen["ready"] is seen["model_ready"] is True
    for way in ("pixels", "binary", "images"):
        np.testing.assert_allclose(seen[way]["logits"], logits, atol=1e-5, err_msg=way)
        np.testing.assert_allclose(seen[way]["scores"], softmax(logits), atol=1e-6, err_msg=way)
    assert seen["pixels"]["id"] == "seven"
