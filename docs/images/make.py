"""Makes the pictures of the documentation, and runs its notebook: ``make pictures``, or some by their names.

It needs Chromium and what 'make web' brings; of labelled pictures (--data) it takes CIFAR-10's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from benchmarks import figures
from exporters.web.site import write_site
from ghostzoo.fetch.resolver import fetch
from ghostzoo.serve.page_files import PAGE
from tests.fixtures.serving import running_server

_FOLDER = Path(__file__).parent
_NOTEBOOK = _FOLDER.parent / "tutorial.ipynb"
_SAMPLES = PAGE / "samples"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_CAMERA = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
_CROPS = 8
_DESKTOP, _PHONE = {"width": 900, "height": 760}, {"width": 390, "height": 844}
_PHOTOS, _LOSSLESS = 82, 101  # qualities of WebP
_PALE = 250


@click.command()
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), default=_FOLDER, show_default=True)
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), help="Labelled pictures of the bundled model's classes."
)
def main(names: tuple[str, ...], out: Path, data: Path | None) -> None:
    """Make the pictures NAMES, or all: page, site, why, bench, pareto, speed, duplicates, evaluation, tutorial."""
    makers: dict[str, Callable[[Path], None]] = {
        "page": show_server,
        "site": show_site,
        "why": draw_maps,
        "bench": draw_speed,
        "pareto": draw_choice,
        "speed": draw_peers,
        "duplicates": show_duplicates,
        "tutorial": run_notebook,
    }
    if data is not None:
        makers["evaluation"] = partial(draw_evaluation, data)
    elif not names:
        click.echo("evaluation: left as it is, as there is no --data", err=True)
    for name in names or makers:
        if name not in makers:
            raise click.UsageError(f"There is no picture {name}, but {', '.join(makers)}; evaluation needs --data.")
        makers[name](out)
        click.echo(name, err=True)


def save(picture: Any, out: Path, quality: int = _PHOTOS) -> None:
    """Write RGB pixels, or the bytes of a picture, as WebP."""
    if isinstance(picture, bytes):
        picture = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    cv2.imwrite(str(out), picture[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])


@contextmanager
def opened(url: str, **options: Any) -> Iterator[Any]:
    """The page in a browser, once the classes of the model are shown."""
    with browsed(**options) as page:
        page.goto(url)
        page.wait_for_selector("#class-list li")
        yield page


@contextmanager
def browsed(**options: Any) -> Iterator[Any]:
    """An empty page of a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = next(filter(None, map(shutil.which, _BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=program, args=_CAMERA)
        try:
            yield browser.new_page(**options)
        finally:
            browser.close()


def show_server(out: Path) -> None:
    """The page of the server, by day and by night, and on a phone."""
    with running_server("--no-grpc") as server:
        for name, scheme, size in (
            ("page", "light", _DESKTOP),
            ("page-dark", "dark", _DESKTOP),
            ("page-phone", "light", _PHONE),
        ):
            with opened(server.http, viewport=size, color_scheme=scheme) as page:
                page.check("#in-browser")
                for _ in range(2):  # the first answer of each engine takes longer
                    page.locator(".sample").first.click()
                    page.wait_for_selector("#verdict", state="visible")
                    page.wait_for_timeout(1000)
                save(page.screenshot(full_page=True), out / f"{name}.webp")


def show_site(out: Path) -> None:
    """The page without a server: why a class was chosen, and classes that it was taught."""
    with tempfile.TemporaryDirectory() as place:
        write_site(Path(place, "site"), [fetch()])
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=f"{place}/site"))
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            with opened(f"http://127.0.0.1:{server.server_port}/", viewport=_DESKTOP) as page:
                page.locator(".sample").first.click()
                page.wait_for_selector("#why", state="visible")
                page.click("#why")
                page.wait_for_selector("#map", state="visible")
                save(page.locator("#single").screenshot(), out / "why-page.webp")
                teach(page, Path(place))
                save(page.locator("#teach").screenshot(), out / "teach-page.webp")
        finally:
            server.shutdown()


def teach(page: Any, place: Path) -> None:
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


def draw_maps(out: Path) -> None:
    """The cat, the map of its class, and the map of what speaks for it rather than for another one."""
    photo = _SAMPLES / "cat.jpg"
    with ghostzoo.load(engine="onnxruntime") as classifier:
        pictures = [
            classifier.read_image(photo),
            classifier.explain(photo, "cat").overlay(photo),
            classifier.explain(photo, "cat", against="dog").overlay(photo),
        ]
    gap = np.full((pictures[0].shape[0], 12, 3), _PALE, np.uint8)
    row = np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)
    save(cv2.resize(row, None, fx=0.66, fy=0.66, interpolation=cv2.INTER_AREA), out / "why.webp")


def draw_speed(out: Path) -> None:
    """What ``ghostzoo bench --out`` writes, of the bundled model on the engines that are installed."""
    with tempfile.TemporaryDirectory() as place:
        run("bench", "--threads", "1", "--batch-sizes", "1", "--out", place)
        save(Path(place, "bench.png").read_bytes(), out / "bench.webp", _LOSSLESS)


def draw_choice(out: Path) -> None:
    """What ``ghostzoo list --pareto --out`` writes."""
    with tempfile.TemporaryDirectory() as place:
        run("list", "--pareto", "--out", f"{place}/pareto.png")
        save(Path(place, "pareto.png").read_bytes(), out / "pareto.webp", _LOSSLESS)


def draw_evaluation(data: Path, out: Path) -> None:
    """What ``ghostzoo eval --out`` writes."""
    with tempfile.TemporaryDirectory() as place:
        run("eval", "--data", str(data), "--out", place, "--calibrate", "--calibrated-copy", f"{place}/calibrated")
        save(Path(place, "confusion.png").read_bytes(), out / "confusion.webp", _LOSSLESS)
        save(Path(place, "reliability.png").read_bytes(), out / "reliability.webp", _LOSSLESS)
        mistakes = cv2.imread(f"{place}/mistakes.png")[:, :, ::-1]
        save(mistakes[: mistakes.shape[1] // 2], out / "mistakes.webp")


def draw_peers(out: Path) -> None:
    """The bars of README.md, of what 'make figures' measured."""
    try:
        figures.draw_speed(out / figures.SPEED_PICTURE.name)
    except FileNotFoundError as error:
        click.echo(f"speed: left as it is, as there is no {error.filename}", err=True)


def run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "ghostzoo", *words], check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def run_notebook(out: Path) -> None:
    """Save the tutorial with what it shows today."""
    import nbclient
    import nbformat

    notebook = nbformat.read(_NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": _NOTEBOOK.parent}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times
    nbformat.write(notebook, _NOTEBOOK)


def show_duplicates(out: Path) -> None:
    """The report of ``ghostzoo dedup --out`` on the photographs, copies of them among others."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
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
        report = Path(place, "report.html")
        with ghostzoo.load(engine="onnxruntime") as classifier:
            ghostzoo.find_duplicates(classifier, folder).write_report(report, classifier)
        with browsed(viewport=_DESKTOP) as page:
            page.goto(report.as_uri())
            save(page.screenshot(full_page=True), out / "duplicates.webp")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    main()
