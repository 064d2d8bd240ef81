"""A real Chromium, and the page's own modules on Node. Both are skipped, with the reason, where they are missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from exporters.web.site import RUNTIME, write_site
from ghostzoo.fetch.resolver import fetch

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@pytest.fixture(scope="session")
def node() -> str:
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node.js is not installed")
    return program


@pytest.fixture(scope="module")  # its event loop runs in this thread, where tests of other modules start their own
def chromium() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(_BROWSERS)} is installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def runtime() -> None:
    """What the page and the static site infer with in the browser."""
    if not RUNTIME.is_file():
        pytest.skip("onnxruntime-web was not fetched; 'make web' does it, and needs npm")


class Visit:
    """A page in a browser, with what a person does and sees there."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_selector("#model option", state="attached")

    def choose(self, *files: Path) -> None:
        self.page.set_input_files("#files", [str(file) for file in files])

    def answers(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for ``count`` answers, and return each one's title, labels, scores in percent, and last line."""
        self.page.wait_for_function(
            "count => document.querySelectorAll('#answers article').length === count"
            " && [...document.querySelectorAll('#answers .timings')].every(line => line.textContent !== '…')",
            arg=count,
        )
        return [
            {
                "title": article.query_selector("h2").inner_text(),
                "labels": [item.inner_text() for item in article.query_selector_all(".label")],
                "scores": [float(item.inner_text().split()[0]) for item in article.query_selector_all(".score")],
                "line": article.query_selector(".timings").inner_text(),
            }
            for article in self.page.query_selector_all("#answers article")
        ]


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visit]:
    context = chromium.new_context(viewport={"width": 1000, "height": 900}, permissions=["camera"])
    context.set_default_timeout(60_000)
    yield Visit(context.new_page())
    context.close()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site_url(chromium: Any, runtime: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The static site, behind a plain file server."""
    folder = tmp_path_factory.mktemp("web") / "site"
    write_site(folder, [fetch()])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
