"""What runs models in a browser, side by side: bytes to load, time to the first answer, time of the network an image.

The static site, with Chromium on this machine: loading takes no time of the network that connects them.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from benchmarks.figures import out_option, save
from benchmarks.turns import print_machine
from exporters.web.site import write_site
from ghostzoo.catalog import DEFAULT_MODEL
from ghostzoo.cli.console import print_table
from ghostzoo.errors import InputError
from ghostzoo.fetch.resolver import fetch
from ghostzoo.serve.page_files import runtimes

_IMAGE = Path(__file__).parents[1] / "examples" / "chelsea.png"
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
_CLASSIFY = """async ([folder, image, count]) => {
    const { classifyInBrowser } = await import("./browser.js");
    const file = await (await fetch(image)).blob();
    const start = performance.now();
    const times = [];
    for (let i = 0; i < count; i++) {
        const { runtime, timings } = await classifyInBrowser(folder, file, {});
        times.push({ runtime, at: performance.now() - start, inference: timings.inference });
    }
    return times;
}"""


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--images", default=40, show_default=True, help="Images in each round.")
@click.option("--model", "models", multiple=True, default=[DEFAULT_MODEL], show_default=True)
@out_option
def main(rounds: int, images: int, models: tuple[str, ...], out: Path | None) -> None:
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise InputError("Chromium is not installed; install the package chromium.")
    print_machine()
    bundles = [fetch(model) for model in models]
    rows = []
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        site = Path(scratch, "site")
        write_site(site, bundles)
        shutil.copy(_IMAGE, site)
        handler = functools.partial(_Handler, directory=str(site))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        for bundle in bundles:
            first: dict[str, list[float]] = {name: [] for name in runtimes()}
            network: dict[str, list[float]] = {name: [] for name in runtimes()}
            loaded = dict.fromkeys(runtimes(), 0)
            for _ in range(rounds):
                for name in runtimes():
                    page = browser.new_context().new_page()
                    asked: list[str] = []
                    page.on("request", lambda request: asked.append(request.url))  # noqa: B023
                    page.goto(f"http://127.0.0.1:{server.server_port}/?runtime={name}")
                    times = page.evaluate(_CLASSIFY, [f"models/{bundle.name}/", _IMAGE.name, images])
                    assert {each["runtime"] for each in times} == {name}
                    first[name].append(times[0]["at"])
                    network[name] += [each["inference"] for each in times[1:]]
                    paths = {url.rpartition(f":{server.server_port}/")[2].partition("?")[0] for url in asked}
                    files = [path for path in paths if path.startswith("vendor/") or path.endswith(".wasm")]
                    loaded[name] = sum((site / path).stat().st_size for path in files)
                    page.context.close()
            for name in runtimes():
                row = {
                    "model": bundle.name,
                    "runtime": name,
                    "megabytes": round(loaded[name] / 1e6, 2),
                    "first_answer_ms": round(min(first[name])),
                    "network_ms": round(statistics.median(network[name]), 2),
                    "fastest_ms": round(min(network[name]), 2),
                }
                rows.append(row)
        browser.close()
        server.shutdown()
    head = ("model", "runtime", "MB to load", "first answer, ms", "network, ms", "fastest, ms")
    print_table(head, [[str(value) for value in row.values()] for row in rows])
    save(out, {f"{row['model']}, {row['runtime']}": row for row in rows})


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site so that the page may use threads, as 'ghostzoo serve' does, and says nothing."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    main()
