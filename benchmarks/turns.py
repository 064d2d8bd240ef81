"""Candidates in processes of their own take turns: round after round, each makes a few calls while the others wait."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.prepare import ROOT, model_folder, python_of
from ghostzoo.bench.machine import describe_machine, machine_line
from ghostzoo.cli.console import print_table

_LIBRARY_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


OTHER_ENGINES = ("ghostzoo-native", "ghostzoo-native-bf16", "ghostzoo-openvino", "ghostzoo-litert")
"""ghostzoo on other engines than ONNX Runtime, as kinds of candidates: the engine, and its precision if not fp32."""


class PeerError(Exception):
    """A candidate cannot take part."""


class Candidate:
    """A process that runs ``peer.py``."""

    def __init__(self, kind: str, model: str, work: str, *, threads: int, batch: int = 1, **extra: Any) -> None:
        python = Path(sys.executable) if kind.startswith("ghostzoo") else python_of(kind.removesuffix("-compiled"))
        if not python.exists():
            raise PeerError(f"{python} is missing; run 'make bench-peers'")
        settings = dict.fromkeys(_LIBRARY_THREADS, str(threads)) if threads else {}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [python, ROOT / "benchmarks" / "peer.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | settings | {"PYTHONPATH": "", "CI": "true"},  # on which OpenVINO sends no usage report
        )
        folder = str(model_folder(model))
        order = {"kind": kind, "work": work, "folder": folder, "threads": threads, "batch": batch, **extra}
        try:
            self.result = self._ask(order)["result"]
        except BaseException:
            self.close()
            raise

    def calls(self, count: int) -> list[float]:
        durations: list[float] = self._ask({"calls": count})["durations"]
        return durations

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise PeerError(f"it ended with status {self._process.wait()}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def close(self) -> None:
        with suppress(OSError):  # it may have ended by itself
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process.wait()
        self._errors.close()


@dataclass
class Turns:
    """Times of candidates that took turns."""

    durations: dict[str, list[float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.durations[name])

    def noise(self, name: str) -> float:
        cuts = statistics.quantiles(self.durations[name], n=4)
        return (cuts[2] - cuts[0]) / 2 / self.median(name)

    def ratio(self, name: str, base: str) -> float:
        """Median of the ratios of the rounds: what slows a whole round down falls out."""
        ours, theirs = self.durations[name], self.durations[base]
        count = len(ours) // self._per_round
        rounds = [slice(index * self._per_round, (index + 1) * self._per_round) for index in range(count)]
        return statistics.median(min(ours[each]) / min(theirs[each]) for each in rounds)

    def figures(self, ours: str) -> dict[str, dict[str, float]]:
        """Times of each candidate, and the ratio of ``ours`` to it."""
        return {
            name: {
                "median_ms": 1000 * self.median(name),
                "noise": self.noise(name),
                "ratio": self.ratio(ours, name),
            }
            for name in self.durations
        }

    def leave(self, name: str, error: PeerError, candidates: dict[str, Candidate]) -> None:
        """Take a candidate out of what is compared; the first one is what all is compared with."""
        if name == next(iter(self.orders)):
            raise SystemExit(f"{name} took no part: {error}")
        self.absent[name] = str(error)
        for each in (self.durations, self.results):
            each.pop(name, None)
        if name in candidates:
            candidates.pop(name).close()

    orders: Mapping[str, Any] = field(default_factory=dict)
    _per_round: int = 1


def take_turns(orders: Mapping[str, Mapping[str, Any]], *, rounds: int, calls: int) -> Turns:
    """Open each candidate (``name -> arguments of Candidate``), let them take turns, close them.

    The first one is what the others are compared with: where it cannot take part, the script ends.
    """
    turns = Turns(orders=orders, _per_round=calls)
    candidates: dict[str, Candidate] = {}
    try:
        for name, order in orders.items():
            try:
                candidates[name] = Candidate(**order)
                candidates[name].calls(2)
                turns.results[name] = candidates[name].result
            except PeerError as error:
                turns.leave(name, error, candidates)
        turns.durations = {name: [] for name in candidates}
        for index in range(rounds):
            names = list(candidates)
            for name in names[index % len(names) :] + names[: index % len(names)]:
                try:
                    turns.durations[name] += candidates[name].calls(calls)
                except PeerError as error:
                    turns.leave(name, error, candidates)
    finally:
        for candidate in candidates.values():
            candidate.close()
    return turns


def show(title: str, turns: Turns, bases: Mapping[str, float | None], ours: str) -> None:
    """Print times, and the ratio of ``ours`` to each of ``bases``, with the ratio aimed at."""
    rows = []
    for name in turns.durations:
        target = bases.get(name)
        is_ours = name == ours or ours not in turns.durations
        rows.append(
            [
                name,
                f"{1000 * turns.median(name):.2f}",
                f"{turns.noise(name):.0%}",
                "" if is_ours else f"{turns.ratio(ours, name):.3f}",
                "" if target is None else f"{target:g}",
            ]
        )
    print_table([title, "median ms", "noise", "ours / it", "target"], rows)
    for name, reason in turns.absent.items():
        print(f"{name}: took no part: {reason}")
    print(flush=True)


def print_machine() -> None:
    print(machine_line(describe_machine()), "\n", flush=True)


def print_peak() -> float:
    """Print what one core reaches in a product of matrices, and return it, in GFLOP/s."""
    from benchmarks.layers import Peak

    peak = Peak.measure().gflops
    print(f"One core at most: {peak:.0f} GFLOP/s in float32\n", flush=True)
    return peak
