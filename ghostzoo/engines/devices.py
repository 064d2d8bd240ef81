"""Why a device cannot be had, and what to install where that helps."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from .._utils.hardware import find_gpus, has_nvidia_gpu
from ..errors import EngineUnavailableError, OptionError, nearest
from . import engine_record, installation_conflict

_NVIDIA = ("cuda", "nv_tensorrt_rtx", "tensorrt")
_AMD = ("migraphx", "rocm")
_KINDS = ("cpu", "cuda", "gpu", "npu", "auto", "coreml", "dml", "migraphx", "openvino", "qnn", "rocm", "tensorrt")
"""What engines call devices, without a number."""
_SYNONYMS = {"nvidia": "cuda", "cudnn": "cuda", "directml": "dml", "amd": "migraphx", "mps": "coreml"}
_WHEELS = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "dml": "onnxruntime-directml",
    "openvino": "onnxruntime-openvino",
    "migraphx": "onnxruntime-migraphx",
    "qnn": "onnxruntime-qnn",
}


def is_same_device(name: str, other: str) -> bool:
    """Whether two names are of one device: case does not count, and without a number it is the first."""
    plain, plain_other = (re.sub("[:.]0$", "", text.lower()) for text in (name, other))
    return plain == plain_other


def check_device_kind(device: str) -> None:
    """Check that some engine calls a device so.

    Raises:
        OptionError: none does; the message names the nearest ones.
    """
    kind = _kind(device)
    if kind not in _KINDS:
        raise OptionError(f"There is no device {device!r}. {nearest(kind, _KINDS, _SYNONYMS)}")


def missing_device(device: str, found: Sequence[str]) -> EngineUnavailableError:
    """Return the error for a device that cannot be had here.

    Args:
        device: as the caller named it.
        found: the devices that there are.
    """
    kind = _kind(device)
    here = " or ".join(dict.fromkeys(map(str.lower, found))) or "cpu"
    if kind in map(_kind, found):
        return EngineUnavailableError(f"There is no device {device!r} on this machine; use {here}.")
    why = _why_useless(kind)
    if why is not None:
        return EngineUnavailableError(f"Device {device!r} cannot be used: {why}. Use {here}.")
    return EngineUnavailableError(
        f"No installed engine finds device {device!r} here. {_how_to_get(kind)} Or use {here}."
    )


def _kind(device: str) -> str:
    """The name without a number, as in ``cuda:1`` and ``GPU.1``."""
    return re.split("[:.]", device.lower())[0]


def _how_to_get(kind: str) -> str:
    conflict = installation_conflict()
    if conflict is not None:
        return conflict
    if kind == "auto":
        return "It is for the engine openvino; name that too."
    if kind == "gpu" and has_nvidia_gpu():
        return f"NVIDIA's GPUs are called cuda. {_how_to_get('cuda')}"
    if kind in ("gpu", "npu"):
        openvino = engine_record("openvino")
        return "Check its driver." if openvino.versions() else f'Run "{openvino.install}", which knows such devices.'
    if kind not in _WHEELS:
        return "It takes a build of ONNX Runtime that has it."
    if _WHEELS[kind] in engine_record("onnxruntime").versions():
        return "Check its driver."
    return f"Run 'pip uninstall onnxruntime' and then 'pip install {_WHEELS[kind]}'."


def _why_useless(kind: str) -> str | None:
    """Say what this machine lacks, where no installation helps."""
    platform, name = {"dml": ("win32", "Windows"), "coreml": ("darwin", "macOS")}.get(kind, (sys.platform, ""))
    if platform != sys.platform:
        return f"it is for {name} alone"
    if kind in _NVIDIA and not has_nvidia_gpu():
        return "no NVIDIA GPU was found on this machine"
    if kind in ("gpu", *_AMD) and not (find_gpus() or has_nvidia_gpu()):
        return "no GPU was found on this machine"
    return None
