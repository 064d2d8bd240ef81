"""Engines: one short file each behind the contract of ``base``, and the table of what there is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module

from ..errors import UnknownEngineError, nearest
from .base import Engine


@dataclass(frozen=True)
class EngineRecord:
    """What is known of an engine without importing it."""

    name: str
    module: str
    """In this package; imported when the engine is asked for, not before."""
    class_name: str
    distributions: tuple[str, ...]
    """Distributions of its library on the package index; any one of them will do."""
    install: str
    """The command that installs it."""
    builds: str | None = None
    """Folder in the cache folder for what takes it minutes to build."""
    reads_unchecked: bool = False
    """Whether its library reads a bundle's file that cannot be checked before: it is opened where it is named alone."""

    def versions(self) -> dict[str, str]:
        """Return the installed distributions and their versions, from metadata alone."""
        return dict(_installed(self.distributions))

    def load_class(self) -> type[Engine]:
        """Import the engine.

        Raises:
            EngineUnavailableError: its library cannot be imported here.
        """
        engine: type[Engine] = getattr(import_module(f".{self.module}", __package__), self.class_name)
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

# In the order in which they are tried: what is imported quickly comes first.
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
        EngineRecord("native", "native", "NativeEngine", ("ghostzoo-native",), "pip install 'ghostzoo[native]'"),
        EngineRecord(
            "openvino",
            "openvino",
            "OpenVinoEngine",
            ("openvino",),
            "pip install 'ghostzoo[openvino]'",
        ),
        EngineRecord(
            "tensorrt",
            "tensorrt",
            "TensorRtEngine",
            ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx"),
            "pip install 'ghostzoo[tensorrt]'",
            builds="tensorrt",
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


def engine_names() -> list[str]:
    """Names of all engines, usable on this machine or not."""
    return list(_ENGINES)


def engine_record(name: str) -> EngineRecord:
    """Return what is known of the engine ``name``.

    Raises:
        UnknownEngineError: no such engine; the message names the nearest ones.
    """
    if name not in _ENGINES:
        raise UnknownEngineError(f"There is no engine named {name!r}. {nearest(name, _ENGINES)}")
    return _ENGINES[name]


def engine_class(name: str) -> type[Engine]:
    """Import and return the class of the engine ``name``.

    Raises:
        UnknownEngineError: no such engine.
        EngineUnavailableError: its library cannot be imported here.
    """
    return engine_record(name).load_class()


def installation_conflict() -> str | None:
    """Say which distributions of ONNX Runtime hide one another and what mends it, or return ``None``.

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


def _installed(distributions: Iterable[str]) -> Iterable[tuple[str, str]]:
    from importlib.metadata import PackageNotFoundError, version  # brings a mail parser along

    for name in distributions:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
