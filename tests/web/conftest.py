"""A real Chromium, and the page's own modules on Node. Both are skipped, with the reason, where they are missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest

import ghostzoo
from exporters.web.site import write_site
from ghostzoo.bundle.folder import Bundle
from ghostzoo.converter import convert
from ghostzoo.fetch.resolver import fetch
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.network.architecture import Architecture
from ghostzoo.predictions import Prediction
from ghostzoo.serve.page_files import runtimes
from tests.fixtures.checkpoints import safetensors
from tests.fixtures.networks import random_arrays, write_weights

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
    if not runtimes():
        pytest.skip("there is nothing to run models with in a browser; 'make wasm' and 'make web' bring it")


class Visit:
    """A page in a browser, with what a person does and sees there."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.refused: list[str] = []
        """What was asked for and is not there, or was not given."""
        page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("response", lambda answer: answer.status >= 400 and self.refused.append(answer.url))

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_selector("#model option", state="attached")

    def overflow(self) -> list[str]:
        """Return what reaches beyond the window's right edge, or cannot be reached without scrolling sideways."""
        return self.page.evaluate(
            "() => [...document.querySelectorAll('body *')]"
            ".filter(each => each.getBoundingClientRect().right > innerWidth + 0.5 || each.scrollWidth > innerWidth)"
            ".map(each => each.outerHTML.slice(0, 80))"
        )

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


@dataclass(frozen=True)
class Tags:
    """A multi-label model, a picture that shows some of its classes, and one that shows none."""

    bundle: Bundle
    some: Path
    none: Path
    expected: list[Prediction]
    """Of the first picture."""


@pytest.fixture(scope="session")
def tags(tmp_path_factory: pytest.TempPathFactory) -> Tags:
    folder = tmp_path_factory.mktemp("tags")
    arrays = random_arrays(Architecture.of(0.25, 7))
    arrays["fc_1.bias"] = arrays["fc_1.bias"] - np.float32(0.6)
    sizes = Preprocessing(resize_short=72, crop_size=64)
    names = [f"tag {index}" for index in range(7)]
    weights = write_weights(folder / "tags.pdparams", arrays)
    bundle = convert(weights, folder / "tags", name="tags", labels=names, preprocessing=sizes, multi_label=True)
    rng = np.random.default_rng(0)
    found: dict[bool, tuple[Path, list[Prediction]]] = {}
    with ghostzoo.load(bundle.path, engine="onnxruntime", threads=1) as classifier:
        while len(found) < 2:
            path = folder / f"{len(list(folder.glob('*.png')))}.png"
            cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (90, 70)))
            probabilities = classifier.probabilities(path)[0]
            if abs(probabilities - 0.5).min() > 0.01:  # so that rounding decides nothing
                answer = classifier(path)
                found.setdefault(len(answer) > 0, (path, answer))
    return Tags(bundle, found[True][0], found[False][0], found[True][1])


@pytest.fixture(scope="session")
def relatives(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Models of other families, with timm's preprocessing."""
    folder, bundles = tmp_path_factory.mktemp("relatives"), []
    for name in ("repghostnet_050", "ghostnetv3_050"):
        (folder / f"{name}.safetensors").write_bytes(safetensors(random_arrays(Architecture.named(name, 7))))
        labels = [f"class {index}" for index in range(7)]
        bundles.append(
            convert(
                folder / f"{name}.safetensors",
                folder / name,
                name=name,
                labels=labels,
                preprocessing=Preprocessing.timm(),
            )
        )
    return bundles


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site_url(
    chromium: Any, runtime: None, tags: Tags, relatives: list[Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The static site, behind a plain file server."""
    folder = tmp_path_factory.mktemp("web") / "site"
    write_site(folder, [fetch(), tags.bundle, *relatives])
    with file_server(folder) as url:
        yield url


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Serve a folder's files; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
