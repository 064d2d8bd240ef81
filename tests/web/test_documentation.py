"""The documentation at ``/docs`` in a real browser: its policy lets it work, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from ghostzoo.bundle.folder import Bundle
from tests.fixtures.serving import ServerProcess, running_server
from tests.web.conftest import Visit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(chromium: Any, tiny_bundle: Bundle) -> Iterator[ServerProcess]:
    pytest.importorskip("fastapi")
    with running_server("--model", str(tiny_bundle.path), "--no-grpc") as process:
        yield process


def test_it_is_shown_and_tries_a_request(visit: Visit, server: ServerProcess) -> None:
    page = visit.page
    page.goto(f"{server.http}/docs")
    page.click('.opblock-summary-path[data-path="/v1/models"]')
    page.click("button.execute")
    assert page.wait_for_selector(".live-responses-table .response .response-col_status").inner_text() == "200"
    assert "tiny" in page.inner_text(".live-responses-table")
    assert visit.problems == []
    assert all(request.startswith((server.http, "data:", "blob:")) for request in visit.requests)


def test_a_script_that_is_not_its_own_does_not_run(visit: Visit, server: ServerProcess) -> None:
    page = visit.page
    page.goto(f"{server.http}/docs")
    page.wait_for_selector(".opblock-summary-path")
    assert visit.problems == []
    page.evaluate(
        "() => { const script = document.createElement('script'); script.textContent = 'window.injected = 1';"
        " document.body.append(script); }"
    )
    assert page.evaluate("() => window.injected") is None
    assert any("Content Security Policy" in problem for problem in visit.problems)


class _Framing(BaseHTTPRequestHandler):
    address = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f"<iframe src='{self.address}'></iframe>".encode())

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize("path", ["/docs", "/"])
def test_no_other_page_frames_it(visit: Visit, server: ServerProcess, path: str) -> None:
    handler = type("Framing", (_Framing,), {"address": server.http + path})
    other = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=other.serve_forever, daemon=True).start()
    visit.page.goto(f"http://127.0.0.1:{other.server_port}/", wait_until="load")
    other.shutdown()
    other.server_close()
    (frame,) = visit.page.main_frame.child_frames
    assert frame.url.startswith("chrome-error:")
    assert any("frame-ancestors" in problem for problem in visit.problems)
