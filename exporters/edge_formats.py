"""Conversion of a bundle's graph to the format of an edge engine, checked on the bundle's golden vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, cast

from ghostzoo.bundle.edit import add_files, check_target, write_bundle
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines import engine_class, engine_record
from ghostzoo.engines.base import OUTPUTS, EngineOptions
from ghostzoo.engines.edge_formats import ConvertedEngine
from ghostzoo.errors import EngineUnavailableError, OptionError, ParityError
from ghostzoo.fetch.resolver import fetch
from ghostzoo.parity import ENGINE_TOLERANCE, Agreement, compare_logits

FORMATS = ("ncnn", "mnn", "litert", "paddle")
"""Each has a module ``to_<format>`` with ``convert`` and ``tools``."""
_SECTION = "conversions"
"""Section of the manifest's validation report."""


@dataclass(frozen=True)
class EdgeExport:
    """What was written, and its differences from the golden vectors."""

    bundle: Bundle
    files: Mapping[str, int]
    """Size in bytes by path in the bundle."""
    agreements: Mapping[str, Agreement]
    """By output of the network."""


def export_edge(
    model: str | PathLike[str],
    form: str,
    *,
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
    on_step: Callable[[str], object] = lambda _: None,
) -> EdgeExport:
    """Add the files of an engine that does not read ONNX to a bundle.

    Args:
        model: a bundle folder, or with ``out`` anything else that ``ghostzoo.load`` takes.
        form: one of ``FORMATS``.
        out: write a copy of the bundle there and leave ``model`` unchanged.
        overwrite: replace a bundle at ``out``.
        on_step: called at the start of each of the three steps.

    Raises:
        OptionError: without ``out``, ``model`` is not the user's own folder.
        EngineUnavailableError: the converter or the engine is not installed.
        ParityError: the engine does not reproduce the golden vectors; nothing was written.
        GhostZooError: the bundle cannot be read or written, or the conversion failed; nothing was written.
    """
    if out is not None:
        check_target(Path(out), overwrite)
    bundle = fetch(model)
    if out is None and bundle.origin != "folder":
        raise OptionError(f"{model} is not a folder of your own ({bundle.origin}); give --out, a folder for the copy.")
    engine_type = cast(type[ConvertedEngine], engine_class(form))
    converter = import_converter(form)
    on_step(f"converting to {form}")
    contents: dict[str, bytes] = converter.convert(bundle)
    on_step("comparing with the golden vectors")
    with engine_type(contents, EngineOptions(threads=1), bundle.config.image_size) as engine:
        agreements = _check(engine.run, bundle, form)
    tools: Mapping[str, str] = converter.tools()
    facts = {form: {output: item.to_dict() for output, item in agreements.items()}}
    on_step("writing the files")
    if out is None:
        written = add_files(bundle.path, contents, created_by=tools, section=_SECTION, facts=facts)
    else:
        written = _write_copy(bundle, Path(out), contents, tools, facts, overwrite)
    return EdgeExport(written, {name: len(data) for name, data in contents.items()}, agreements)


def import_converter(form: str) -> Any:
    """Import the module that converts to ``form``.

    Raises:
        EngineUnavailableError: a library that it needs is not installed.
    """
    try:
        return import_module(f".to_{form}", __package__)
    except ImportError as error:
        raise EngineUnavailableError(
            f"Converting to {form} needs a library that is missing ({error}); "
            f"install it with: {engine_record(form).install}"
        ) from error


def _check(run: Callable[..., Any], bundle: Bundle, form: str) -> dict[str, Agreement]:
    golden = bundle.golden()
    agreements: dict[str, Agreement] = {}
    for output in OUTPUTS:
        agreement = compare_logits(getattr(golden, output), run(golden.pixel_values, output), ENGINE_TOLERANCE)
        if not agreement.within(ENGINE_TOLERANCE):
            raise ParityError(
                f"{bundle.name} converted to {form} differs from the golden vectors: {output} {agreement}; at most "
                f"{ENGINE_TOLERANCE:g} is accepted. Nothing was written."
            )
        agreements[output] = agreement
    return agreements


def _write_copy(
    bundle: Bundle,
    out: Path,
    contents: Mapping[str, bytes],
    tools: Mapping[str, str],
    facts: Mapping[str, Any],
    overwrite: bool,
) -> Bundle:
    manifest = bundle.manifest
    return write_bundle(
        out,
        name=manifest.name,
        contents={**{name: bundle.read(name) for name in manifest.files}, **contents},
        weights=manifest.weights,
        created_by={**manifest.created_by, **tools},
        validation={**manifest.validation, _SECTION: {**manifest.validation.get(_SECTION, {}), **facts}},
        overwrite=overwrite,
    )
