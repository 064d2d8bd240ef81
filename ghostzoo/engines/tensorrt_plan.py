"""Which TensorRT engine a model needs, and where it is kept: everything that needs no GPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .._utils.cache import cache_folder, cache_key, cached, read_cached, write_cached
from .._utils.files import write_atomically
from .._utils.hardware import has_nvidia_gpu
from ..errors import EngineUnavailableError, OptionError, nearest
from .base import EngineOptions, check_count
from .tensorrt_build import RECIPE, BatchRange, Library, build, check_targets, find_library

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from .cuda import Gpu

DEFAULT_DEVICE = "cuda:0"
MAX_BATCH_SIZE = 8
PRECISIONS = ("fp32", "fp16")

_CACHE = "tensorrt"
_OPTIONS = ("library", "max_batch_size", "engine_file")
_log = logging.getLogger("ghostzoo")


@dataclass(frozen=True)
class Plan:
    """Everything that an engine depends on."""

    library: Library
    model_name: str
    graph_hash: str
    precision: str
    batches: BatchRange

    @property
    def engine_name(self) -> str:
        """Stored in the engine, so that it is never used for another model."""
        return f"ghostzoo {self.model_name} {self.precision} {self.graph_hash}"

    @classmethod
    def of(cls, bundle: Bundle, options: EngineOptions) -> Plan:
        """Read the options.

        Raises:
            OptionError: one of them cannot be honoured.
            EngineUnavailableError: the library cannot be imported.
        """
        extra = dict(options.engine_options)
        for name in extra:
            if name not in _OPTIONS:
                raise OptionError(f"TensorRT has no engine option {name!r}. {nearest(str(name), _OPTIONS)}")
        largest = extra.get("max_batch_size", MAX_BATCH_SIZE)
        check_count("max_batch_size", largest)
        decided = "engine_file" in extra or options.batch_size is not None
        if decided and "max_batch_size" in extra:
            raise OptionError("batch_size or engine_file sets the number of images per run; leave max_batch_size out.")
        if options.precision not in PRECISIONS:
            raise OptionError(
                f"TensorRT has no precision {options.precision!r} for {bundle.name}; it has {', '.join(PRECISIONS)}."
            )
        library = find_library(extra.get("library"))
        graph_hash = bundle.model_hash(source_precision(bundle, library, options.precision))
        batches = BatchRange.of(options.batch_size, largest)
        return cls(library, bundle.name, graph_hash, options.precision, batches)

    def build(self, bundle: Bundle, targets: tuple[str, ...] = (), timing_cache: bytes = b"") -> tuple[bytes, bytes]:
        """Build the engine; see ``tensorrt_build.build``."""
        source = source_precision(bundle, self.library, self.precision)
        graph, half = bundle.model(source), self.precision == "fp16"
        if half and source == "fp32" and not self.library.has_fp16_flag:
            from ..network.float16 import to_float16

            graph = to_float16(graph)
        return build(
            self.library,
            graph,
            name=self.engine_name,
            batches=self.batches,
            half=half,
            targets=targets,
            timing_cache=timing_cache,
        )


def source_precision(bundle: Bundle, library: Library, precision: str) -> str:
    """Which of the bundle's graphs an engine is built from: its own float16 one where the library takes one."""
    return "fp16" if precision == "fp16" and "fp16" in bundle.precisions and not library.has_fp16_flag else "fp32"


def cached_engine(bundle: Bundle, plan: Plan, gpu: Gpu) -> bytes:
    """Return the engine for ``gpu``, the current one, built if need be; of several processes one builds it.

    Raises:
        EngineError: the build failed.
    """

    def make() -> bytes:
        _announce(plan, f"{gpu.name}; it is kept in {cache_folder() / _CACHE}, so this is done once")
        timing = f"{_CACHE}/timing-{cache_key(plan.library.name, plan.library.version, gpu.name)}"
        engine, timings = plan.build(bundle, _targets_for(plan.library, gpu), read_cached(timing) or b"")
        if timings:
            write_cached(timing, timings)
        return engine

    return cached(cache_name(plan, gpu), make)


def cache_name(plan: Plan, gpu: Gpu) -> str:
    library = plan.library
    facts = (RECIPE, plan.engine_name, plan.batches, library.name, library.version, gpu.name, gpu.architecture)
    return f"{_CACHE}/{cache_key(*facts)}"


def fill_cache(bundle: Bundle, options: EngineOptions) -> None:
    """Build the engine that ``ghostzoo.load`` would take with these options, unless it is in the cache already.

    Raises:
        OptionError: an option cannot be honoured.
        EngineUnavailableError: there is no such GPU here, or the library is missing.
        EngineError: the build failed.
    """
    plan = Plan.of(bundle, options)
    cached_engine(bundle, plan, _use_gpu(options))


def write_engine(
    bundle: Bundle,
    options: EngineOptions,
    out: str | PathLike[str],
    *,
    targets: Sequence[str] = (),
    overwrite: bool = False,
) -> int:
    """Build an engine and write it to a file, for ``engine_options={"engine_file": out}`` here or on another machine.

    Args:
        bundle: the model.
        options: precision, batch size, engine options, and without ``targets`` also the device to build for.
        out: the file.
        targets: architectures of GPUs that need not be here, as in ``SM86``.
        overwrite: replace a file that exists.

    Returns:
        The size of the file in bytes.

    Raises:
        OptionError: an option cannot be honoured, or the file exists or cannot be written.
        EngineUnavailableError: the library is missing, or without ``targets`` a GPU.
        EngineError: the build failed.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise OptionError(f"{out} exists; choose another file, or ask to overwrite it.")
    if not out.parent.is_dir():
        raise OptionError(f"There is no folder {out.parent}; make it, or choose another file.")
    plan = Plan.of(bundle, options)
    check_targets(plan.library, tuple(targets))
    if not targets:
        targets = _targets_for(plan.library, _use_gpu(options))
    elif options.device is not None:
        raise OptionError("An engine is built for targets or for the GPU that device names; give one of them.")
    _announce(plan, " and ".join(targets) or "the GPU of this machine")
    engine, _ = plan.build(bundle, tuple(targets))
    try:
        write_atomically(out, engine)
    except OSError as error:
        raise OptionError(f"Cannot write {out}: {error.strerror or error}; choose another file.") from error
    return len(engine)


def _use_gpu(options: EngineOptions) -> Gpu:
    from .cuda import find_gpu, use_gpu

    try:
        gpu = find_gpu(options.device or DEFAULT_DEVICE)
    except EngineUnavailableError as error:
        cause = str(error) if has_nvidia_gpu() else "No NVIDIA GPU was found on this machine to build for."
        raise EngineUnavailableError(
            f"{cause} To build for a GPU that is elsewhere, name its architecture and a file, as in "
            "'ghostzoo build-engine --target SM86 --out FILE'."
        ) from error
    use_gpu(gpu.index)
    return gpu


def _targets_for(library: Library, gpu: Gpu) -> tuple[str, ...]:
    """TensorRT-RTX is told even of the GPU that is there; one that it does not list is left to its own choice."""
    return (gpu.architecture,) if gpu.architecture in library.targets else ()


def _announce(plan: Plan, target: str) -> None:
    _log.warning(
        "Building the %s %s engine of %s in %s for %s. This takes %s.",
        plan.library.name,
        plan.library.version,
        plan.model_name,
        plan.precision,
        target,
        plan.library.usual_duration,
    )
