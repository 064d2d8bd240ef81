"""The examples, each with the library that it is for, and short enough to copy."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ghostzoo
from tests.fixtures.clusters import free_port
from tests.fixtures.serving import running_server

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CHELSEA = EXAMPLES / "chelsea.png"
pytestmark = pytest.mark.slow


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """The module that the test's parameter names, imported as its library imports it."""
    name: str = request.param
    library, _, module = name.partition(":")
    if library == "fiftyone" and shutil.which("mongod") is None:
        pytest.skip("FiftyOne needs MongoDB, and mongod is not in PATH")
    pytest.importorskip(library, reason=f"{library} is not installed here; 'make test-extra' runs this with it")
    monkeypatch.syspath_prepend(str((EXAMPLES / module).parent))
    return importlib.import_module(Path(module).stem)


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_a_screen(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("example", ["gradio:space/app.py"], indirect=True)
def test_gradio(example: ModuleType) -> None:
    from gradio_client import Client, handle_file

    _, url, _ = example.demo.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
    try:
        answer = Client(url, verbose=False).predict(handle_file(str(CHELSEA)), example.BUNDLED, api_name="/classify")
    finally:
        example.demo.close()
    assert answer["label"] == "cat"
    assert answer["confidences"][0]["confidence"] == pytest.approx(0.984, abs=0.001)


@pytest.mark.parametrize("example", ["tritonclient.http:triton_client.py"], indirect=True)
def test_triton_client(example: ModuleType) -> None:
    """Against ghostzoo's own server, which speaks Triton's protocol: there is no Triton to install."""
    with running_server("--no-grpc") as server, ghostzoo.load() as classifier:
        found = example.classify(server.http.removeprefix("http://"), "GhostNet_x0_5_cifar10", [CHELSEA, CHELSEA], 3)
        expected = classifier(CHELSEA, top_k=3)
    for each in found:
        assert [one.label for one in each] == [one.label for one in expected]
        assert [one.score for one in each] == pytest.approx([one.score for one in expected], abs=1e-5)


@pytest.mark.parametrize("example", ["fastapi:fastapi_app.py"], indirect=True)
def test_fastapi(example: ModuleType) -> None:
    from fastapi.testclient import TestClient

    with TestClient(example.app) as client:
        answer = client.post("/classify", files={"file": CHELSEA.read_bytes()})
        assert answer.json()[0]["label"] == "cat"
        assert client.post("/classify", files={"file": b"no picture"}).status_code == 422


@pytest.mark.parametrize("example", ["celery:celery_worker.py"], indirect=True)
def test_celery(example: ModuleType, tmp_path: Path) -> None:
    from celery.contrib.testing.worker import start_worker

    example.app.conf.update(broker_url="memory://", result_backend="cache+memory://")
    with start_worker(example.app, perform_ping_check=False, pool="solo"):
        assert example.classify.delay(str(CHELSEA)).get(timeout=60)[0][0] == "cat"
        (tmp_path / "broken.jpg").write_bytes(b"no picture")
        assert "broken.jpg" in example.classify.delay(str(tmp_path / "broken.jpg")).get(timeout=60)["error"]


def test_streamlit() -> None:
    pytest.importorskip("streamlit", reason="streamlit is not installed here; 'make test-extra' runs this with it")
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_file(str(EXAMPLES / "streamlit_app.py"), default_timeout=60).run()
    assert not app.exception
    app.file_uploader[0].set_value([("chelsea.png", CHELSEA.read_bytes(), "image/png"), ("a.txt", b"x", "text/plain")])
    app.run()
    assert not app.exception
    assert "a.txt" in app.error[0].value


def test_streamlit_serves() -> None:
    pytest.importorskip("streamlit", reason="streamlit is not installed here; 'make test-extra' runs this with it")
    port = str(free_port())
    command = [sys.executable, "-m", "streamlit", "run", str(EXAMPLES / "streamlit_app.py"), "--server.port", port]
    command += ["--server.headless", "true", "--browser.gatherUsageStats", "false"]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        try:
            for _ in range(600):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as answer:
                        assert answer.read() == b"ok"
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                pytest.fail("Streamlit did not start within a minute.")
        finally:
            process.terminate()


@pytest.mark.parametrize("example", ["fiftyone:fiftyone_dataset.py"], indirect=True)
def test_fiftyone(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(CHELSEA.read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    dataset = example.label(str(tmp_path))
    found = {Path(sample.filepath).name: sample for sample in dataset}
    assert found["cat.png"].prediction.label == "cat"
    assert len(found["cat.png"].embedding) == 1280
    assert found["broken.png"].tags == ["unreadable"]


def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed here; 'make test-extra' runs this")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    shown = [shown_by(cell) for cell in notebook.cells]
    assert any(shown), "it was saved without what it shows; 'make pictures' saves it with that"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT / "docs"}}).execute()
    assert [shown_by(cell) for cell in notebook.cells] == shown
    assert "coffee" in shown[-3]


def shown_by(cell: Any) -> str:
    """The lines of text that a cell shows, but for times and machines."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])]
    return "\n".join(line for line in "".join(texts).splitlines() if " a second, " not in line)
