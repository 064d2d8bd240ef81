"""What machine a figure was taken on."""

from __future__ import annotations

import os
import platform
from typing import Any

from .._utils.hardware import cpu_features, cpu_name, usable_cpus
from .._version import __version__
from ..engines import engine_names, engine_record

_INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "amx_int8": "AMX"}


def describe_machine() -> dict[str, Any]:
    """Return processor, CPUs, instruction sets, load and versions, as JSON types."""
    return {
        "processor": cpu_name(),
        "instructions": sorted({_INSTRUCTIONS[flag] for flag in cpu_features() if flag in _INSTRUCTIONS}),
        "cpus": usable_cpus(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "ghostzoo": __version__,
        "libraries": {
            name: version for each in engine_names() for name, version in engine_record(each).versions().items()
        },
    }


def machine_line(machine: dict[str, Any]) -> str:
    """Say it in one line."""
    instructions = f" ({', '.join(machine['instructions'])})" if machine["instructions"] else ""
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    load = "" if machine["load"] is None else f", load {machine['load']:g} before the run"
    return f"{machine['processor']}{instructions}, {machine['cpus']} CPUs{load}, {machine['system']}; {libraries}"
