"""The GPUs of this machine, whether an engine can use them or not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_PCI_DEVICES = Path("/sys/bus/pci/devices")
_DISPLAY_CONTROLLER = "0x03"
"""PCI base class of display controllers."""
_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
"""PCI vendor ids of those whose GPUs an engine may use; a virtual machine's display adapter is none of them."""
_QUERY_SECONDS = 10


def find_gpus(pci_devices: Path = _PCI_DEVICES) -> list[str]:
    """Describe each GPU: NVIDIA's with memory, compute capability and driver, as ``nvidia-smi`` tells, others by id.

    One of NVIDIA's without a working driver is listed by its id too. Empty where there is none, and for GPUs of other
    vendors on systems that do not list PCI devices in ``/sys``.
    """
    nvidia = _ask_nvidia()
    return nvidia + [text for vendor, text in _on_pci(pci_devices) if vendor != "NVIDIA" or not nvidia]


def _ask_nvidia() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = ("name", "memory.total", "compute_cap", "driver_version")
    words = [program, f"--query-gpu={','.join(query)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=_QUERY_SECONDS)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    if answer.returncode != 0:
        return []
    rows = [line.split(", ") for line in answer.stdout.splitlines()]
    return [
        f"{name}, {memory}, compute capability {capability}, driver {driver}"
        for name, memory, capability, driver in (row for row in rows if len(row) == len(query))
    ]


def _on_pci(folder: Path) -> list[tuple[str, str]]:
    found = []
    for device in sorted(folder.glob("*")):
        try:
            kind, vendor, model = ((device / name).read_text().strip() for name in ("class", "vendor", "device"))
        except OSError:
            continue
        if kind.startswith(_DISPLAY_CONTROLLER) and vendor in _VENDORS:
            found.append((_VENDORS[vendor], f"{_VENDORS[vendor]} display controller {vendor[2:]}:{model[2:]}"))
    return found
