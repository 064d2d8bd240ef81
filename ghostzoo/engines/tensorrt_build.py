"""ONNX -> a TensorRT engine, with the ``tensorrt`` module (10 or 11) or with ``tensorrt_rtx``.

Both have one interface for building. They differ in what an engine is good for: TensorRT tries out kernels on the GPU
that is there, and its engine is for that GPU; TensorRT-RTX needs no GPU and builds for those that are named.
"""

from __future__ import annotations

import logging
import warnings
from collections import deque
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..errors import EngineError, EngineUnavailableError, OptionError, nearest

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""Modules, in the order in which they are looked for."""
RECIPE = 1
"""Increased when the same graph and options are built differently."""

_INPUT = "pixel_values"
_SHOWN_FAULTS = 4
_log = logging.getLogger("ghostzoo")


@dataclass(frozen=True)
class Library:
    """One of the two modules, and how it differs."""

    name: str
    module: Any

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @property
    def targets(self) -> tuple[str, ...]:
        """Architectures that it builds for without having such a GPU, as in ``SM86``."""
        if self.name != "tensorrt_rtx":
            return ()
        names = (name for name in dir(self.module.ComputeCapability) if name.startswith("SM"))
        return tuple(sorted(names, key=lambda name: int(name[2:])))

    @property
    def has_fp16_flag(self) -> bool:
        """TensorRT 10 chooses precisions itself; later ones and TensorRT-RTX take those of the graph."""
        return hasattr(self.module.BuilderFlag, "FP16")

    @property
    def has_timing_cache(self) -> bool:
        return (
            self.name == "tensorrt"
        )  # TensorRT-RTX times nothing when it builds, and warns that these calls do nothing

    @property
    def usual_duration(self) -> str:
        return "a few seconds" if self.targets else "one to five minutes"


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes that an engine accepts, and the one that it is optimised for."""

    smallest: int
    best: int
    largest: int

    @classmethod
    def of(cls, fixed: int | None, largest: int) -> BatchRange:
        return cls(fixed, fixed, fixed) if fixed is not None else cls(1, 1, largest)


def find_library(name: str | None = None) -> Library:
    """Import the module ``name``, or the first one that is installed.

    Raises:
        OptionError: there is no module of that name.
        EngineUnavailableError: it is not installed, or cannot be imported.
    """
    if name is not None and name not in LIBRARIES:
        raise OptionError(f"There is no TensorRT library {name!r}. {nearest(name, LIBRARIES)}")
    reasons = []
    for candidate in LIBRARIES if name is None else (name,):
        try:
            return Library(candidate, import_module(candidate))
        except ImportError as error:
            reasons.append(str(error))
        except Exception as error:  # a broken installation: its shared libraries are loaded by hand
            reasons.append(f"{candidate} fails to load: {error}")
    extra = "tensorrt-rtx" if name == "tensorrt_rtx" else "tensorrt"
    raise EngineUnavailableError(
        f"TensorRT cannot be imported ({'; '.join(reasons)}); run \"pip install 'ghostzoo[{extra}]'\"."
    )


def make_logger(library: Library) -> Any:
    """Return a logger for the library whose ``faults()`` are what it has complained about.

    Building and loading return ``None`` when they fail, and the reason is in the log alone.
    """
    trt = library.module

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # the base class is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._faults: deque[str] = deque(maxlen=_SHOWN_FAULTS)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._faults.append(message.strip())
            _log.debug("%s: %s", library.name, message)

        def faults(self) -> str:
            return " ".join(dict.fromkeys(self._faults)) or "it gives no reason"

    return Logger()


def build(
    library: Library,
    graph: bytes,
    *,
    name: str,
    batches: BatchRange,
    half: bool,
    targets: tuple[str, ...] = (),
    timing_cache: bytes = b"",
) -> tuple[bytes, bytes]:
    """Build an engine.

    Args:
        library: builds it.
        graph: ONNX with the input ``pixel_values``, the first axis being the batch's.
        name: kept in the engine; ``ICudaEngine.name`` tells it.
        batches: for the optimisation profile.
        half: let TensorRT 10 compute in float16. Others take the precisions of the graph.
        targets: architectures to build for; none for the GPU that is there.
        timing_cache: as an earlier build returned it.

    Returns:
        The serialised engine, and a timing cache for the next build (empty where the library has none).

    Raises:
        OptionError: the library does not build for a target.
        EngineError: it refuses the graph, or the build failed; the message has what the library logged.
    """
    trt = library.module
    logger = make_logger(library)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph) or not network.num_outputs:
        told = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise EngineError(f"{library.name} {library.version} refuses the graph: {told or logger.faults()}.")
    network.name = name
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: float32 with the 10 bits of float16 behind the point
    if half and library.has_fp16_flag:
        config.set_flag(trt.BuilderFlag.FP16)
    _set_targets(library, config, targets)
    _set_profile(builder, config, network, batches)
    timing = _attach_timing_cache(library, config, timing_cache)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineError(f"{library.name} {library.version} could not build the engine: {logger.faults()}")
    return bytes(memoryview(serialized)), bytes(memoryview(timing.serialize())) if timing is not None else b""


def _set_targets(library: Library, config: Any, targets: tuple[str, ...]) -> None:
    check_targets(library, targets)
    if not targets:
        return
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        if not config.set_compute_capability(getattr(library.module.ComputeCapability, target), index):
            raise OptionError(f"{library.name} {library.version} does not take {', '.join(targets)} together.")


def check_targets(library: Library, targets: tuple[str, ...]) -> None:
    """Check names of architectures.

    Raises:
        OptionError: the library does not build for one of them.
    """
    for target in targets:
        if not library.targets:
            raise OptionError(
                f"{library.name} builds for the GPU of this machine only, not for {target}; tensorrt_rtx builds for "
                "GPUs that are elsewhere; install it with: pip install 'ghostzoo[tensorrt-rtx]'"
            )
        if target not in library.targets:
            near = nearest(target, library.targets)
            raise OptionError(f"{library.name} {library.version} does not build for {target!r}. {near}")


def _set_profile(builder: Any, config: Any, network: Any, batches: BatchRange) -> None:
    image = next(item for item in map(network.get_input, range(network.num_inputs)) if item.name == _INPUT)
    profile = builder.create_optimization_profile()
    rows = tuple(image.shape)[1:]
    profile.set_shape(_INPUT, *((size, *rows) for size in (batches.smallest, batches.best, batches.largest)))
    if config.add_optimization_profile(profile) < 0:
        raise OptionError(f"TensorRT does not take batches of {batches.smallest} to {batches.largest} images.")


def _attach_timing_cache(library: Library, config: Any, content: bytes) -> Any:
    if not library.has_timing_cache:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        timing = config.create_timing_cache(content)
        if timing is None or not config.set_timing_cache(timing, False):  # of another GPU or version: begin anew
            timing = config.create_timing_cache(b"")
            config.set_timing_cache(timing, False)
    return timing
