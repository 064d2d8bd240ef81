"""Measurements that others wrote as JSON, by the model that each is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ghostzoo.bench.results import Results
from ghostzoo.bundle.manifest import parse_json_object
from ghostzoo.errors import BundleError, InputError

_MAX_BYTES = 64 * 2**20


def read_evaluations(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Read reports of ``ghostzoo eval``.

    Returns:
        Model -> its report.

    Raises:
        InputError: a file cannot be read, is no such report, or a model has two.
    """
    reports: dict[str, dict[str, Any]] = {}
    for path in paths:
        report = _read(path)
        try:
            name = str(report["model"])
            if "top1" in report:
                figures = [report[name]["value"] for name in ("top1", "top5")]
            else:  # of a multi-label model
                figures = [report[name] for name in ("mean_average_precision", "micro_f1", "threshold")]
            is_whole = isinstance(report["images"], int) and all(0 <= figure <= 1 for figure in figures)
        except (KeyError, TypeError):
            is_whole = False
        if not is_whole:
            raise InputError(f"{path} is not the report of an evaluation; write one with 'ghostzoo eval --out FOLDER'.")
        if name in reports:
            raise InputError(f"{path} is a second report on {name}; give one.")
        reports[name] = report
    return reports


def read_speeds(paths: Sequence[Path]) -> dict[str, Results]:
    """Read results of ``ghostzoo bench``.

    Returns:
        Model -> the part of the results that is about it.

    Raises:
        InputError: a file cannot be read, is no such result, or a model has two.
    """
    speeds: dict[str, Results] = {}
    for path in paths:
        results = Results.read(path)
        for facts in results.models:
            if facts.name in speeds:
                raise InputError(f"{path} has a second measurement of {facts.name}; give one.")
            own = tuple(item for item in results.measurements if item.cell.model == facts.name)
            if own:
                speeds[facts.name] = replace(results, models=(facts,), measurements=own, left_out=())
    return speeds


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return parse_json_object(file.read(_MAX_BYTES), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; check the path.") from error
    except BundleError as error:
        raise InputError(f"{path} is no JSON; write one with 'ghostzoo eval --out FOLDER'.") from error
