"""``ghostzoo serve`` under load, against a plain FastAPI handler and MLServer, with one model and the same images.

    .venv/bin/python benchmarks/serve.py --model GhostNet_x1_0
    python3.11 -m venv .venv-mlserver
    .venv-mlserver/bin/pip install mlserver onnxruntime opencv-python-headless
    .venv/bin/python benchmarks/serve.py --model GhostNet_x1_0 --mlserver-python .venv-mlserver/bin/python

All servers run on this machine, and the load comes from a process of its own beside them (``load.py``). In each round
every server is loaded in turn with each number of clients; shown are medians over the rounds. The processor time of an
image (Linux only) hardly depends on what else the machine does.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import requests

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.figures import out_option, save
from benchmarks.turns import print_machine
from ghostzoo.bundle.folder import Bundle
from ghostzoo.cli.console import print_table
from ghostzoo.fetch.resolver import fetch
from tests.fixtures.pictures import encoded, picture
from tests.fixtures.serving import running_server

ROOT = Path(__file__).parents[1]
START_SECONDS = 120
IMAGES = 8


@dataclass(frozen=True)
class Target:
    url: str
    kind: str
    process: int


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def started(command: list[str], ready: str, env: dict[str, str], folder: Path) -> Iterator[int]:
    """Run a server until the block ends, and yield its process; ``ready`` is a URL that answers once it is up."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log, cwd=folder)
    try:
        end = time.monotonic() + START_SECONDS
        while not answers(ready):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{command[0]} did not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


@contextmanager
def ghostzoo_server(bundle: Bundle, arguments: tuple[str, ...]) -> Iterator[Target]:
    with running_server("--model", str(bundle.path), "--engine", "onnxruntime", "--no-grpc", *arguments) as server:
        yield Target(f"{server.http}/v1/classify", "raw", server.process.pid)


def peer_environment(bundle: Bundle) -> dict[str, str]:
    places = (str(ROOT), str(ROOT / "benchmarks" / "peers"))
    return {"BENCHMARK_BUNDLE": str(bundle.path.resolve()), "PYTHONPATH": os.pathsep.join(places)}


@contextmanager
def plain_server(bundle: Bundle, folder: Path) -> Iterator[Target]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "plain_fastapi:app", "--port", str(port), "--log-level", "warning"]
    with started(command, f"http://127.0.0.1:{port}/docs", peer_environment(bundle), folder) as process:
        yield Target(f"http://127.0.0.1:{port}/classify", "raw", process)


@contextmanager
def mlserver_server(bundle: Bundle, folder: Path, python: str) -> Iterator[Target]:
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    (folder / "settings.json").write_text(
        json.dumps({"host": "127.0.0.1", "debug": False, "parallel_workers": 0, **ports})
    )
    model = {
        "name": "model",
        "implementation": "mlserver_runtime.Runtime",
        "max_batch_size": 8,
        "max_batch_time": 0.005,
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(Path(python).absolute().with_name("mlserver")), "start", str(folder)]
    url = f"http://127.0.0.1:{ports['http_port']}/v2/models/model"
    with started(command, f"{url}/ready", peer_environment(bundle), folder) as process:
        yield Target(f"{url}/infer", "open-inference", process)


def load(target: Target, images: list[str], clients: int, seconds: float, rate: float | None = None) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks/load.py"), target.url, *images, "--format", target.kind]
    options = ["--clients", str(clients), "--seconds", str(seconds), *(["--rate", str(rate)] if rate else [])]
    before = cpu_seconds(target.process)
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    content: dict[str, Any] = json.loads(result.stdout)
    return content | {"cpu_ms": 1000 * (cpu_seconds(target.process) - before) / max(1, content["answered"])}


def cpu_seconds(process: int) -> float:
    """What a process and those that it has started have taken of the processors so far; not a number where the system
    does not tell."""
    folder = Path(f"/proc/{process}")
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        children = [int(child) for task in folder.glob("task/*/children") for child in task.read_text().split()]
    except OSError:
        return float("nan")
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children))


@click.command()
@click.option("--model", help="A name or a bundle folder.  [default: the model that comes with the package]")
@click.option("--clients", "counts", multiple=True, type=int, default=[1, 8, 64], show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="Load on each server in each round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--mlserver-python", type=click.Path(exists=True), help="Python of an environment with MLServer.")
@click.option("--serve-option", "serve_options", multiple=True, help="Passed on to ghostzoo serve; may be repeated.")
@out_option
def main(
    model: str | None,
    counts: tuple[int, ...],
    seconds: float,
    rounds: int,
    mlserver_python: str | None,
    serve_options: tuple[str, ...],
    out: Path | None,
) -> None:
    """Print images a second and latencies of each server, and the ratio to the plain handler."""
    print_machine()
    bundle = fetch(model)
    seen: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images = write_images(folder)
        for name in ("plain", "mlserver"):
            (folder / name).mkdir()
        targets = {
            "plain FastAPI": stack.enter_context(plain_server(bundle, folder / "plain")),
            "ghostzoo serve": stack.enter_context(ghostzoo_server(bundle, serve_options)),
        }
        if mlserver_python is not None:
            targets["MLServer"] = stack.enter_context(mlserver_server(bundle, folder / "mlserver", mlserver_python))
        for target in targets.values():
            load(target, images, 2, 1.0)
        for _ in range(rounds):
            for clients in counts:
                for name, target in targets.items():
                    seen[clients, name].append(load(target, images, clients, seconds))
    figures = summary(seen)
    show(bundle.name, figures, rounds)
    save(out, figures)


def write_images(folder: Path) -> list[str]:
    paths = []
    for index in range(IMAGES):
        path = folder / f"{index}.jpg"
        path.write_bytes(encoded(picture(500, 375).rotate(index), "JPEG", quality=90))
        paths.append(str(path))
    return paths


def summary(seen: dict[tuple[int, str], list[dict[str, Any]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over the rounds, by clients and server, and what was not answered in all of them."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (clients, name), results in seen.items():
        values = {key: median(result[key] for result in results) for key in results[0]}
        plain = median(result["images_per_second"] for result in seen[clients, "plain FastAPI"])
        unanswered = sum(result["refused"] + result["lost"] for result in results)
        found[str(clients)][name] = {
            **values,
            "of_plain": values["images_per_second"] / plain,
            "unanswered": unanswered,
        }
    return dict(found)


def show(model: str, figures: dict[str, dict[str, dict[str, float]]], rounds: int) -> None:
    rows = [
        [
            clients,
            name,
            f"{values['images_per_second']:.1f}",
            f"{values['of_plain']:.2f}",
            *(f"{values[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            f"{values['cpu_ms']:.2f}",
            f"{values['unanswered']:g}",
        ]
        for clients, servers in figures.items()
        for name, values in servers.items()
    ]
    columns = ["clients", "server", "images/s", "of plain", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "unanswered"]
    caption = (
        f"{model}, JPEG of 500 x 375 pixels, {platform.machine()}, {os.cpu_count()} CPUs, median of {rounds} rounds"
    )
    print_table(columns, rows, caption=caption)


if __name__ == "__main__":
    main()
