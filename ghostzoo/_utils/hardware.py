"""The CPU, and how many this process may really use: not the host's count, but what affinity and container allow."""

from __future__ import annotations

import math
import os
import platform
from functools import lru_cache
from pathlib import Path

from ..errors import OptionError

MOST_THREADS_PER_CPU = 16
"""More threads than this for each CPU of the machine are taken for a mistake."""
_PROC_CGROUP = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CPU_INFO = Path("/proc/cpuinfo")
_FEATURES = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Instruction sets that decide how fast a network runs, by the kernel's names, on x86 and on Arm."""
_CPU_FACTS = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part")  # x86 and Arm


@lru_cache(maxsize=1)
def cpu_info() -> dict[str, str]:
    """Return what the system tells of its first CPU, by the kernel's own names; empty where it tells nothing."""
    try:
        first = _CPU_INFO.read_text().split("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def cpu_name() -> str:
    """Name the CPU as the system does."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """Return the instruction sets for networks that this CPU has; empty where the system does not list them."""
    info = cpu_info()
    present = set((info.get("flags") or info.get("Features") or "").split())
    return tuple(name for name in _FEATURES if name in present)


def cpu_facts() -> tuple[str, ...]:
    """Return what distinguishes this CPU: its model and instruction sets, if the system lists them."""
    facts = [f"{name}={value}" for name, value in cpu_info().items() if name in _CPU_FACTS]
    return platform.machine(), *(facts or [platform.processor()])


def usable_cpus() -> int:
    """Return the number of CPUs for this process, at least 1: the least of affinity mask and cgroup quota."""
    counts = [_affinity_cpus()]
    quota = cgroup_quota(_PROC_CGROUP, _CGROUP_ROOT)
    if quota is not None:
        counts.append(math.ceil(quota))
    return max(1, min(counts))


def check_thread_count(name: str, count: int) -> None:
    """Refuse more threads than anybody can want on this machine.

    Raises:
        OptionError: there are; the message tells the option's ``name``.
    """
    cpus = os.cpu_count() or 1
    if count > MOST_THREADS_PER_CPU * cpus:
        raise OptionError(
            f"{name}={count} is too many for {cpus} CPUs; at most {MOST_THREADS_PER_CPU * cpus} threads are started, "
            f"and more than {usable_cpus()} are no faster here."
        )


def _affinity_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(proc_cgroup: Path, root: Path) -> float | None:
    """Return the CPU quota, in CPUs, of the process's control group or of the tightest group above it.

    Args:
        proc_cgroup: lists the groups of the process, as ``/proc/self/cgroup`` does.
        root: where the group file system is mounted; version 1 has its ``cpu`` controller in a folder below.

    Returns:
        ``None`` where there is no limit or no control group.
    """
    try:
        lines = proc_cgroup.read_text(errors="surrogateescape").split("\n")
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, separator, group = rest.partition(":")
        if not separator:
            continue
        if controllers == "":
            quotas += [_read_v2(folder) for folder in _upwards(root, group)]
        elif "cpu" in controllers.split(","):
            quotas += [_read_v1(folder) for mount in (controllers, "cpu") for folder in _upwards(root / mount, group)]
    limits = [quota for quota in quotas if quota is not None]
    return min(limits, default=None)


def _upwards(mount: Path, group: str) -> list[Path]:
    """The group's folder and all above it, up to the mount; in a container the mount itself is the group."""
    folder = mount / group.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))]


def _read_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _read_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


_DEVICES = Path("/dev")
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


def has_nvidia_gpu() -> bool:
    """Whether anything here tells of an NVIDIA GPU: its device file, its driver, or the PCI bus."""
    return (
        any(_DEVICES.glob("nvidia[0-9]*"))
        or any(vendor == "NVIDIA" for vendor, _ in _on_pci(_PCI_DEVICES))
        or bool(_ask_nvidia())
    )


def _ask_nvidia() -> list[str]:
    import shutil
    import subprocess  # opening a model should not wait for it

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
