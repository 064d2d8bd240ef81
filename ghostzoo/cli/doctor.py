"""``ghostzoo doctor``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Command, print_facts, print_table
from .options import fetch_options, model_option

if TYPE_CHECKING:
    from ..bench.doctor import Finding, Report

_FACTS = {
    "python": "Python",
    "os": "system",
    "cpu": "CPU",
    "cpu_features": "CPU features",
    "cpus_usable": "usable CPUs",
    "cpus_of_machine": "all CPUs",
    "gpus": "GPUs",
}
"""Key in the report -> label, where they differ."""


@click.command(cls=Command)
@model_option
@fetch_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(model: str | None, as_json: bool, **options: Any) -> None:
    """Show what this machine has, and try every engine.

    Is it right, how fast is it, and if it cannot be used, why not? The exit status is 1 if no engine can be used.

    \b
    Examples:
      ghostzoo doctor
      ghostzoo doctor --model GhostNet_x1_0 --json
    """
    from ..bench.doctor import examine
    from ..fetch.options import FetchOptions
    from ..fetch.resolver import fetch

    report = examine(fetch(model, FetchOptions(**options)))
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        _print_report(report)
    if not report.usable:
        sys.exit(1)


def _print_report(report: Report) -> None:
    from ..bench.doctor import BATCH_SIZES

    print_facts("This machine", _machine(report.machine))
    click.echo()
    print_table(
        ["engine", "version", "device", "golden check", *(f"batch {size}" for size in BATCH_SIZES)],
        [_row(finding) for finding in report.findings],
        caption=f"Median time of a call with {report.model}, on all usable CPUs.",
    )
    unusable = [finding for finding in report.findings if not finding.usable]
    if unusable:
        click.echo()
    for finding in unusable:
        remedy = f"; fix it with: {finding.remedy}" if finding.remedy else ""
        device = f" on {finding.device}" if finding.device else ""
        click.echo(f"{finding.engine}{device}: {finding.reason}{remedy}")
    for warning in report.warnings:
        click.echo(f"Warning: {warning}")


def _machine(facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Name the facts that the report has of the machine."""
    for key, value in facts.items():
        if key == "cache":
            yield key, "none" if value is None else Path(value)
        elif isinstance(value, list):
            yield _FACTS.get(key, key), ", ".join(value) or "none"
        else:
            yield _FACTS.get(key, key), value


def _row(finding: Finding) -> list[str]:
    versions = ", ".join(finding.versions.values()) or "-"
    if finding.relative_difference is None:
        return [finding.engine, versions, finding.device or "-", "cannot be used", *["-"] * 2]
    times = [f"{milliseconds:.2f} ms" for milliseconds in finding.milliseconds.values()]
    return [finding.engine, versions, str(finding.device), f"passed, {finding.relative_difference:.1e}", *times]
