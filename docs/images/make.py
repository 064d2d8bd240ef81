"""Makes the pictures of the guides: ``python docs/images/make.py``; it needs Chromium and what 'make web' fetches."""

from __future__ import annotations

import shutil
import sys
import tempfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import click
import cv2
import numpy as np

import ghostzoo
from exporters.web.site import PAGE, write_site
from ghostzoo.fetch.resolver import fetch

_FOLDER = Path(__file__).parent
_SAMPLES = PAGE / "samples"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_CAMERA = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
_CROPS = 8


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=_FOLDER, show_default=True)
def main(out: Path) -> None:
    """Make why.png, why-page.png, teach-page.png and duplicates.png."""
    from playwright.sync_api import sync_playwright

    draw_maps(out / "why.png")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        write_site(Path(place, "site"), [fetch()])
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=f"{place}/site"))
        Thread(target=server.serve_forever, daemon=True).start()
        program = next(filter(None, map(shutil.which, _BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=program, args=_CAMERA)
        try:
            page = browser.new_page(viewport={"width": 900, "height": 760})
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_selector("#class-list li")
            show_why(page, out / "why-page.png")
            teach(page, Path(place), out / "teach-page.png")
            show_duplicates(page, Path(place), out / "duplicates.png")
        finally:
            browser.close()
            server.shutdown()


def draw_maps(out: Path) -> None:
    """The cat, the map of its class, and the map of what speaks for it rather than for another one."""
    photo = _SAMPLES / "cat.jpg"
    with ghostzoo.load(engine="onnxruntime") as classifier:
        pictures = [
            classifier.read_image(photo),
            classifier.explain(photo, "cat").overlay(photo),
            classifier.explain(photo, "cat", against="dog").overlay(photo),
        ]
    gap = np.full((pictures[0].shape[0], 12, 3), 255, np.uint8)
    row = np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)
    half = cv2.resize(row, None, fx=0.66, fy=0.66, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(out), half[:, :, ::-1])


def show_why(page: Any, out: Path) -> None:
    page.locator(".sample").first.click()
    page.wait_for_selector("#why", state="visible")
    page.click("#why")
    page.wait_for_selector("#map", state="visible")
    page.locator("#single").screenshot(path=str(out))


def teach(page: Any, place: Path, out: Path) -> None:
    page.get_by_text("Teach it classes of your own").click()
    page.click("#add-class")
    rng = np.random.default_rng(0)
    for number, name in enumerate(("cat", "coffee", "rocket")):
        photo = cv2.imread(str(_SAMPLES / f"{name}.jpg"))
        files = []
        for crop in range(_CROPS):
            top, left = rng.integers(0, 100), rng.integers(0, 200)
            files.append(place / f"{name}-{crop}.png")
            cv2.imwrite(str(files[-1]), photo[top : top + 200, left : left + 240])
        row = page.locator("#taught li").nth(number)
        row.locator("input[type=text]").fill(name)
        row.locator("input[type=file]").set_input_files(files)
        row.get_by_text(f"{_CROPS} pictures").wait_for()
        page.wait_for_function("() => !document.querySelector('#teach-state').textContent.includes('Looking')")
    page.set_input_files("#try-file", _SAMPLES / "rocket.jpg")
    page.wait_for_selector("#trial-bars li")
    page.locator("#teach").screenshot(path=str(out))


def show_duplicates(page: Any, place: Path, out: Path) -> None:
    """The report on the photographs, copies of them among others."""
    folder = place / "photos"
    folder.mkdir()
    for path in _SAMPLES.glob("*.jpg"):
        photo = cv2.imread(str(path))
        half = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for name, picture in (
            (path.name, photo),
            (f"{path.stem}-crop.jpg", photo[6:-6, 8:-8]),
            (f"{path.stem}-half.jpg", half),
        ):
            cv2.imwrite(str(folder / name), picture)
    with ghostzoo.load(engine="onnxruntime") as classifier:
        ghostzoo.find_duplicates(classifier, folder).write_report(place / "report.html", classifier)
    page.goto((place / "report.html").as_uri())
    page.screenshot(path=str(out), full_page=True)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    main()
