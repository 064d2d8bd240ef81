"""The network in the formats of engines that do not read ONNX: which files they are, and which of them a bundle has."""

from __future__ import annotations

from collections.abc import Container, Mapping

from ..errors import EngineUnavailableError, OptionError
from .folder import CONVERTED_FILES

CONVERTED_INT8_FILES: Mapping[str, tuple[str, ...]] = {"litert": ("litert/model_quantized.tflite",)}
"""The same as ``CONVERTED_FILES`` in int8, for the engines that have that."""


def find_formats(files: Container[str]) -> list[tuple[str, str]]:
    """Return engine and precision of all formats whose files are among ``files``."""
    tables = (("fp32", CONVERTED_FILES), ("int8", CONVERTED_INT8_FILES))
    return [
        (engine, precision)
        for precision, table in tables
        for engine, names in table.items()
        if all(name in files for name in names)
    ]


def describe_formats(files: Container[str]) -> list[str]:
    """Return the formats whose files are among ``files``, in words."""
    return [engine if precision == "fp32" else f"{engine} in {precision}" for engine, precision in find_formats(files)]


def find_files(model: str, files: Container[str], engine: str, precision: str) -> tuple[str, ...]:
    """Return the paths of the files in ``precision`` of an engine that does not read ONNX.

    Args:
        model: name of the model, for messages.
        files: the paths of all files that the model has.
        engine: one of ``CONVERTED_FILES``.
        precision: of ``fp32``, ``fp16``, ``int8`` and ``bf16``.

    Raises:
        OptionError: the model has files for the engine, but in other precisions.
        EngineUnavailableError: it has none for the engine.
    """
    formats = find_formats(files)
    if (engine, precision) in formats:
        return (CONVERTED_FILES if precision == "fp32" else CONVERTED_INT8_FILES)[engine]
    there = [found for name, found in formats if name == engine]
    if there:
        raise OptionError(
            f"{model} has files for {engine} in {' and '.join(there)} only, not in {precision}; take precision "
            f"{' or '.join(there)}, or another engine."
        )
    others = ["engines that read ONNX", *describe_formats(files)]
    raise EngineUnavailableError(
        f"{model} has no files for {engine}, only for {' and '.join(others)}; take onnxruntime or another of these, or "
        f"ask the model's publisher for {engine} files."
    )
