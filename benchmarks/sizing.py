"""How many servers a load needs, and what a million pictures cost: figures of this machine, and a simulation of it.

    .venv/bin/python benchmarks/sizing.py check --out costs.json
    .venv/bin/python benchmarks/sizing.py plan costs.json --rate 300 --p99-ms 100 --cpus 4 --price 0.20
    .venv/bin/python benchmarks/sizing.py cost --cpu mine 400 0.10

``check`` measures processor times (of decoding an image, of the network for each size of a batch, of all else for a
request, of the client), lets ``simulation.py`` tell what a server does with them, and puts a real one under the same
loads, as ``serve.py`` does: clients that ask again once answered, and requests at random moments. The simulation gets
the CPUs that the server and its clients had when both were busiest: all of them, on an idle machine.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

import ghostzoo
from benchmarks.figures import out_option, save
from benchmarks.serve import Target, ghostzoo_server, load, write_images
from benchmarks.simulation import Costs, Simulation
from benchmarks.turns import print_machine, print_peak
from ghostzoo._utils.hardware import usable_cpus
from ghostzoo.bundle.folder import Bundle
from ghostzoo.cli.console import print_table
from ghostzoo.fetch.resolver import fetch
from ghostzoo.serve.options import ServeOptions

MAX_BATCH = 8
KEYS = ("images_per_second", "p50_ms", "p95_ms", "p99_ms")
SIMULATED_SECONDS = 60.0
MILLION = 1_000_000
_CALLS = 30
_MOST_SERVERS = 1000


def cpu_of(work: Callable[[], object]) -> float:
    """Processor time of a call, in seconds: the median of many."""
    times: list[float] = []
    for _ in range(_CALLS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return median(times)


def processor_times(bundle: Bundle, images: list[str]) -> tuple[float, tuple[float, ...]]:
    """Processor time of decoding, and of the network for each size of a batch, on one thread."""
    with ghostzoo.load(bundle.path, engine="onnxruntime", threads=1) as classifier:
        tensors = np.stack([classifier.read_tensor(image)[0] for image in images])
        decode = cpu_of(lambda: [classifier.read_tensor(image) for image in images]) / len(images)
        engine = classifier.engine
        batches = [tensors[: size + 1] for size in range(MAX_BATCH)]
        return decode, tuple(cpu_of(partial(engine.run, batch)) for batch in batches)


def measure(
    target: Target, images: list[str], clients: int, seconds: float, rate: float | None = None
) -> dict[str, float]:
    """Put the real server under a load; also returns what the client took for a request, and the CPUs that both had."""
    before, start = client_seconds(), time.perf_counter()
    figures = load(target, images, clients, seconds, rate)
    answered, client = figures["answered"], client_seconds() - before
    cpus = (client + figures["cpu_ms"] * answered / 1000) / (time.perf_counter() - start)
    return figures | {"client_ms": 1000 * client / max(1, answered), "cpus": cpus}


def client_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@click.group()
def main() -> None:
    """Size servers and batch work."""


@main.command()
@click.option("--model", help="A name or a bundle folder.  [default: the model that comes with the package]")
@click.option("--clients", "counts", multiple=True, type=int, default=[1, 8, 64], show_default=True)
@click.option("--load", "shares", multiple=True, type=float, default=[0.4, 0.7], show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="Each load.")
@out_option
def check(
    model: str | None, counts: tuple[int, ...], shares: tuple[float, ...], seconds: float, out: Path | None
) -> None:
    """Measure, simulate, and compare; SHARES are of the pictures a second at the most clients."""
    print_machine()
    peak = print_peak()
    bundle = fetch(model)
    with tempfile.TemporaryDirectory() as place, ghostzoo_server(bundle, ("--max-batch", str(MAX_BATCH))) as target:
        images = write_images(Path(place))
        load(target, images, 2, 1.0)
        decode, network = processor_times(bundle, images)
        measured = {f"{count} clients": measure(target, images, count, seconds) for count in counts}
        fullest = max(measured.values(), key=lambda each: each["images_per_second"])
        rates = {f"{share:.0%} of that": share * fullest["images_per_second"] for share in shares}
        measured |= {name: measure(target, images, 64, seconds, rate) for name, rate in rates.items()}
    rest = fullest["cpu_ms"] / 1000 - decode - network[-1] / MAX_BATCH
    costs = Costs(decode, network, rest, fullest["client_ms"] / 1000)
    cpus = min(usable_cpus(), fullest["cpus"])
    print(f"CPUs: {cpus:.2f}; milliseconds of one:", json.dumps(in_milliseconds(costs)), "\n")
    figures: dict[str, Any] = {}
    for name, each in measured.items():
        simulation = Simulation(costs, cpus, ServeOptions().workers, MAX_BATCH)
        clients = int(name.split()[0]) if name not in rates else 1
        figures[name] = {
            "measured": {key: each[key] for key in KEYS},
            "simulated": told(simulation, simulation.run(SIMULATED_SECONDS, rates.get(name), clients)),
        }
    more = {"workers": ServeOptions().workers, "model": bundle.name, "peak_gflops": peak}
    save(out, figures, costs=asdict(costs), cpus=cpus, **more)
    rows = [
        [name, *(f"{row[of][key]:.1f}" for key in KEYS for of in ("measured", "simulated"))]
        for name, row in figures.items()
    ]
    print_table(["load", "images/s", "sim.", "p50 ms", "sim.", "p95 ms", "sim.", "p99 ms", "sim."], rows)


def told(simulation: Simulation, latencies: list[float]) -> dict[str, float]:
    p50, p95, p99 = (1000 * np.quantile(latencies or [np.nan], (0.5, 0.95, 0.99))).tolist()
    found = {
        "images_per_second": len(simulation.answered) / simulation.now,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
    }
    return {**found, "batch": sum(simulation.batches) / max(1, len(simulation.batches))}


def in_milliseconds(costs: Costs) -> dict[str, Any]:
    return {name: np.round(1000 * np.array(value), 2).tolist() for name, value in asdict(costs).items()}


@main.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--rate", type=float, required=True, help="Pictures a second that come in all, at random moments.")
@click.option("--p99-ms", type=float, required=True, help="What 99 of 100 answers may take in the server.")
@click.option("--cpus", type=int, required=True, help="Of each server, of the kind that FILE was measured on.")
@click.option("--price", type=float, help="Of a server for an hour, in any currency.")
def plan(file: Path, rate: float, p99_ms: float, cpus: int, price: float | None) -> None:
    """Say how many servers keep a promise, by the costs in FILE, which 'check' wrote."""
    content = json.loads(file.read_text())["costs"]
    costs = Costs(content["decode"], tuple(content["network"]), content["request"])
    least = max(1, int(rate * costs.image / cpus))
    for servers in range(least, _MOST_SERVERS):
        simulation = Simulation(costs, cpus, cpus + 1, MAX_BATCH)
        found = told(simulation, simulation.run(SIMULATED_SECONDS, rate / servers))
        if found["p99_ms"] <= p99_ms:
            print(f"{servers} servers of {cpus} CPUs: p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms,")
            print(f"batches of {found['batch']:.1f}; each works {rate / servers * costs.image / cpus:.0%} of the time.")
            if price is not None:
                print(f"A million pictures cost {MILLION / rate / 3600 * servers * price:.2f}.")
            return
    raise SystemExit(f"Not even {_MOST_SERVERS} servers keep {p99_ms} ms: an image alone takes longer.")


@main.command()
@click.option("--cpu", "machines", multiple=True, required=True, type=(str, float, float), metavar="NAME RATE PRICE")
def cost(machines: tuple[tuple[str, float, float], ...]) -> None:
    """Say what a million pictures cost in batch work: RATE is pictures a second, PRICE that of an hour."""
    rows = []
    for name, rate, price in machines:
        hours = MILLION / rate / 3600
        rows.append([name, f"{rate:g}", f"{hours:.2f}", f"{hours * price:.2f}"])
    print_table(["machine", "pictures a second", "hours for a million", "price of a million"], rows)


if __name__ == "__main__":
    main()
