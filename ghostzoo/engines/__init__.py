"""Engines: a short file for each, behind the contract of ``base``, and the table of all of them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import FrameType

from .._utils.hardware import has_nvidia_gpu
from ..errors import EngineUnavailableError, GhostZooError, UnknownEngineError, nearest
from .base import Engine


@dataclass(frozen=True)
class EngineRecord:
    """What is known of an engine without importing it."""

    name: str
    module: str
    """In this package; imported only when the engine is used."""
    class_name: str
    distributions: tuple[str, ...]
    """Distributions of its library on the package index; any one of them will do."""
    install: str
    """The command that installs it."""
    builds: str | None = None
    """Folder in the cache folder for builds that take minutes."""
    reads_unchecked: bool = False
    """Whether its library reads a file that cannot be checked first: such an engine is used only if it is named."""
    needs_nvidia_gpu: bool = False
    makes: tuple[str, ...] = ()
    """The precisions that it can make of a bundle's fp32 graph; all others run the graphs that are there."""

    def versions(self) -> dict[str, str]:
        """Return the installed distributions and their versions, from metadata alone."""
        return dict(_installed(self.distributions))

    def why_missing(self) -> tuple[str, str | None]:
        """Say that its library is not installed, and give the command that installs it, where that would help here."""
        if self.needs_nvidia_gpu and not has_nvidia_gpu():
            return "not installed; it needs an NVIDIA GPU, and none was found on this machine", None
        return "not installed", self.install

    def load_class(self) -> type[Engine]:
        """Import the engine.

        Raises:
            EngineUnavailableError: its library cannot be imported here.
        """
        try:
            with interrupts_wait():
                module = import_module(f".{self.module}", __package__)
        except GhostZooError:
            raise
        except Exception as error:  # not installed, half installed, or at odds with this machine
            raise import_failure(self, error) from error
        engine: type[Engine] = getattr(module, self.class_name)
        return engine


# All of them hold the one module ``onnxruntime``, each built for other devices.
_ONNXRUNTIME_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
    "onnxruntime-qnn",
    "onnxruntime-training",
)

# In the order in which they are tried: the quickest to import first.
_ENGINES = {
    record.name: record
    for record in (
        EngineRecord(
            "onnxruntime",
            "onnxruntime",
            "OnnxRuntimeEngine",
            _ONNXRUNTIME_DISTRIBUTIONS,
            "pip install onnxruntime",
        ),
        EngineRecord(
            "native", "native", "NativeEngine", ("ghostzoo-native",), "pip install 'ghostzoo[native]'", makes=("bf16",)
        ),
        EngineRecord(
            "openvino",
            "openvino",
            "OpenVinoEngine",
            ("openvino",),
            "pip install 'ghostzoo[openvino]'",
            makes=("bf16",),
        ),
        EngineRecord(
            "tensorrt",
            "tensorrt",
            "TensorRtEngine",
            ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx"),
            "pip install 'ghostzoo[tensorrt]'",
            builds="tensorrt",
            needs_nvidia_gpu=True,
            makes=("fp16",),
        ),
        EngineRecord("ncnn", "ncnn", "NcnnEngine", ("ncnn",), "pip install 'ghostzoo[ncnn]'"),
        EngineRecord(
            "mnn",
            "mnn",
            "MnnEngine",
            ("MNN",),
            "pip install 'ghostzoo[mnn]'",
            reads_unchecked=True,
        ),
        EngineRecord("litert", "litert", "LiteRtEngine", ("ai-edge-litert",), "pip install 'ghostzoo[litert]'"),
        EngineRecord(
            "paddle",
            "paddle",
            "PaddleEngine",
            ("paddlepaddle", "paddlepaddle-gpu"),
            "pip install 'ghostzoo[paddle]'",
        ),
    )
}


_SYNONYMS = {"ort": "onnxruntime", "ov": "openvino", "trt": "tensorrt", "paddlepaddle": "paddle"}


def engine_names() -> list[str]:
    """Names of all engines, whether usable on this machine or not."""
    return list(_ENGINES)


def engine_record(name: str) -> EngineRecord:
    """Return what is known of the engine ``name``.

    Raises:
        UnknownEngineError: no such engine; the message names the nearest ones.
    """
    if not isinstance(name, str) or name not in _ENGINES:
        raise UnknownEngineError(f"There is no engine named {name!r}. {nearest(name, _ENGINES, _SYNONYMS)}")
    return _ENGINES[name]


def engine_class(name: str) -> type[Engine]:
    """Import and return the class of the engine ``name``.

    Raises:
        UnknownEngineError: no such engine.
        EngineUnavailableError: its library cannot be imported here.
    """
    return engine_record(name).load_class()


def import_failure(record: EngineRecord, error: Exception) -> EngineUnavailableError:
    """Return the error for an engine whose library cannot be imported: it is not installed, or broken."""
    versions = record.versions()
    reason, command = record.why_missing()
    if versions:
        reason = f"installed and cannot be imported ({type(error).__name__}: {' '.join(str(error).split())})"
        if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
            command = f"pip install --force-reinstall {' '.join(versions)}"
        elif not isinstance(error, ImportError):
            command = None
    advice = f'run "{command}"' if command else "use another engine, such as onnxruntime"
    return EngineUnavailableError(f"The engine {record.name} is {reason}; {advice}.")


def installation_conflict() -> str | None:
    """Say which distributions of ONNX Runtime shadow each other and how to fix it, or return ``None``.

    Told from metadata alone; nothing is imported.
    """
    found = [name for name, _ in _installed(_ONNXRUNTIME_DISTRIBUTIONS)]
    if len(found) < 2:
        return None
    remaining = next((name for name in found if name != "onnxruntime"), found[0])
    return (
        f"{' and '.join(found)} are installed together, but they are builds of one module and overwrite each other's "
        f"files. Remove them all with 'pip uninstall {' '.join(found)}', then install the one you need, as in "
        f"'pip install {remaining}'."
    )


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back until the block is left.

    A library that calls Python while it is being imported takes the exception for its own and loses it. Blocking the
    signal would not do: another thread may receive it.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            before(*waiting[0])


def _installed(distributions: Iterable[str]) -> Iterable[tuple[str, str]]:
    from importlib.metadata import PackageNotFoundError, version  # imports a mail parser

    for name in distributions:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
