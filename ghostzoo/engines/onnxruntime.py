"""ONNX Runtime.

``engine_options``: any attribute of ``onnxruntime.SessionOptions`` (``enable_cpu_mem_arena=False``), any session
configuration entry by its dotted name (``{"session.intra_op.allow_spinning": "0"}``), and ``provider_options``, a dict
for the execution provider.

On a CPU without ``engine_options`` the graph is optimised once and kept in ghostzoo's cache folder as optimised for
this machine; its results are the same bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .._utils.cache import CHECKSUM_BYTES, prepare
from ..errors import EngineError, EngineUnavailableError, OptionError, nearest
from . import installation_conflict, interrupts_wait
from .base import Engine, EngineOptions, Output
from .devices import missing_device

if TYPE_CHECKING:
    from ..bundle.folder import Bundle

# Its usage reports (since 1.29) are off unless the user sets this otherwise: nobody asked for them, and the thread that
# sends them keeps a forked process from ending.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    with interrupts_wait():
        import onnxruntime as ort

    ort.InferenceSession  # noqa: B018 - gone where uninstalling one of two wheels took files of the other
except (ImportError, AttributeError) as error:
    raise EngineUnavailableError(
        f"onnxruntime cannot be imported ({error}). "
        + (installation_conflict() or "Reinstall it with 'pip install --force-reinstall onnxruntime'.")
    ) from error

_BATCH_DIMENSION = "batch"
PIECE = 4
"""Images per thread to run at a time: the activations of more do not fit the CPU's caches."""
_LOG_FATAL = 4  # errors are raised, and its warnings about a graph are for the maker of the graph
_CPU = "CPUExecutionProvider"
_SPIN_MICROSECONDS = "200"
"""For how long a thread that waits for work keeps its CPU busy; longer than the gaps within a call. The library's own
10 milliseconds are taken from whatever the caller does between calls. Versions that do not know the entry pass over it.
"""
_SUFFIX = "ExecutionProvider"
_NUMBERED = ("cuda", "dml", "migraphx", "rocm", "tensorrt")
"""Devices of which a machine may have several, told apart by the provider's option ``device_id``."""
_FROM_PACKAGES = ("cuda", "tensorrt")
_REMOTE = ("AzureExecutionProvider",)  # sends inputs to a service
_NO_FALLBACK = "fallback to CPU EP has been explicitly disabled"


class OnnxRuntimeEngine(Engine):
    """A session of ONNX Runtime on ``cpu``, ``cuda``, ``cuda:1``, or another execution provider of this build by the
    short form of its name: ``dml``, ``coreml``, ``tensorrt``, ..."""

    name = "onnxruntime"
    gives_features: ClassVar[bool] = True

    def __init__(self, model: bytes, options: EngineOptions, model_hash: str | None = None) -> None:
        """Open ``model``; ``model_hash`` is its SHA-256 in hexadecimal, where the caller knows it already."""
        super().__init__(model, options)
        self.device = self.device.lower()
        self._provider, self._provider_options = _provider(self.device)
        extra = dict(options.engine_options)
        wanted = extra.pop("provider_options", {})
        if wanted and self._provider == _CPU:
            raise OptionError(f"The CPU takes no provider_options; leave {', '.join(wanted)} out.")
        self._provider_options |= wanted
        if options.threads is not None and "intra_op_num_threads" in extra:
            raise OptionError("threads and intra_op_num_threads mean the same; give one of them.")
        self._piece: int | None = None
        self._open_other: Callable[[int | None], Any] | None = None
        self._others: dict[int | None, Any] = {}
        """Further sessions, by their fixed batch size, or ``None`` for any size."""
        self._opening = threading.Lock()
        try:
            if self._provider == _CPU and not options.engine_options:
                # A fixed size is faster, and most calls are for one image; the first of another size opens a session.
                self._piece = _piece(options)
                size = 1 if options.batch_size is None else self._piece
                self._session: Any = self._open_prepared(model, model_hash, size)
                if options.batch_size is None and self._session.get_inputs()[0].shape[0] == 1:
                    self._open_other = partial(self._open_prepared, model, model_hash)
            else:
                self._session = self._open(model, _session_options(options, self._provider, extra))
        except OptionError:
            raise
        except Exception as error:  # the library's errors have no common public base class
            if _NO_FALLBACK in str(error):
                raise self._elsewhere("the CPU") from error
            raise EngineError(f"ONNX Runtime {ort.__version__} refuses the model or an option: {error}") from error
        self._check_what_runs()

    @classmethod
    def _load(cls, bundle: Bundle, options: EngineOptions) -> Self:
        return cls(bundle.model(options.precision), options, bundle.model_hash(options.precision))

    @classmethod
    def devices(cls) -> list[str]:
        found = [device.ep_name for device in getattr(ort, "get_ep_devices", list)()]  # since 1.22
        names = ["cpu"]
        for provider in dict.fromkeys(found):
            kind = _short(provider)
            if kind in _NUMBERED:
                names += [f"{kind}:{index}" for index in range(found.count(provider))]
            elif provider != _CPU:
                names.append(kind)
        return names

    def _open(self, model: bytes, session_options: Any) -> Any:
        providers = [(self._provider, self._provider_options)]
        # Without the library's fallback, which would hide why this provider failed.
        return ort.InferenceSession(model, session_options, providers=providers, enable_fallback=0)

    def _open_prepared(self, model: bytes, model_hash: str | None, size: int | None) -> Any:
        def session_options() -> Any:
            return _session_options(replace(self.options, batch_size=size), self._provider, {})

        def build(name: str) -> tuple[Any, bytes]:
            import tempfile

            with tempfile.TemporaryDirectory(prefix="ghostzoo-") as folder:
                graph, weights = Path(folder, "optimised.onnx"), Path(folder, name)
                saving = session_options()
                saving.optimized_model_filepath = str(graph)
                saving.add_session_config_entry("session.optimized_model_external_initializers_file_name", name)
                return self._open(model, saving), _join(weights.read_bytes(), graph.read_bytes())

        def restore(path: Path) -> Any:
            ready = session_options()
            ready.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            ready.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
            return self._open(_read_graph(path), ready)

        return prepare(
            self.name,
            (model_hash or hashlib.sha256(model).hexdigest(), ort.__version__, size, self.options.precision),
            build=build,
            restore=restore,
            plain=lambda: self._open(model, session_options()),
        )

    def _check_what_runs(self) -> None:
        running = self._session.get_providers()[0]
        if running != self._provider:
            raise self._elsewhere(running)
        size, batch = self.options.batch_size, self._session.get_inputs()[0].shape[0]
        if size is not None and batch != (self._piece or size):
            raise OptionError(f"This graph cannot be specialised for batch_size={size}: its batch is {batch!r}.")

    def _elsewhere(self, running: str) -> EngineUnavailableError:
        return EngineUnavailableError(
            f"For device {self.device!r} ONNX Runtime would run all or part of the model on {running} instead of "
            f"{self._provider}; check its driver and libraries, or use device 'cpu'."
        )

    def _infer(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        step = self._piece or len(batch)
        pieces = [batch[start : start + step] for start in range(0, len(batch), step)]
        try:
            sessions = [
                self._session_for(len(piece)) for piece in pieces
            ]  # all now: the engine may be closed meanwhile
            results: list[NDArray[np.float32]] = [
                session.run([output], {"pixel_values": piece})[0]
                for session, piece in zip(sessions, pieces, strict=True)
            ]
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed on a batch of shape {batch.shape}: {error}") from error
        # A copy, also of one: the library's memory goes back to the session, which a fork cannot do.
        return np.concatenate(results)

    def _session_for(self, images: int) -> Any:
        """The session for a piece: fixed to one image or to a whole piece, or else the one for any size."""
        open_other, first = self._open_other, self._session  # in the order opposite to that of closing
        if first is None:
            raise self._was_closed()
        if open_other is None or images == 1:
            return first
        size = images if images == self._piece else None
        with self._opening:
            session = self._others.get(size)
            if session is None:
                session = open_other(size)
                if self._session is not None:  # not closed meanwhile
                    self._others[size] = session
        return session

    def describe(self) -> dict[str, Any]:
        session = self._session
        return {
            "engine": self.name,
            "version": ort.__version__,
            "device": self.device,
            "provider": self._provider,
            "threads": session.get_session_options().intra_op_num_threads if session else None,
        }

    def _release(self) -> None:
        self._session = None
        self._open_other = None
        self._others.clear()


_LENGTH = struct.Struct("<Q")


def _join(weights: bytes, graph: bytes) -> bytes:
    """One file of both: the weights first, where the graph looks for them, so that they are mapped and not copied."""
    return weights + graph + _LENGTH.pack(len(graph))


def _read_graph(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-_LENGTH.size - CHECKSUM_BYTES, os.SEEK_END)
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        file.seek(-_LENGTH.size - CHECKSUM_BYTES - length, os.SEEK_END)
        return file.read(length)


def _piece(options: EngineOptions) -> int:
    """How many images of a batch a CPU runs at a time; a batch of fixed size is cut into equal pieces or not at all."""
    piece = PIECE * options.thread_count
    size = options.batch_size
    return piece if size is None or size % piece == 0 else size


def _short(provider: str) -> str:
    return provider.removesuffix(_SUFFIX).lower()


def _provider(device: str) -> tuple[str, dict[str, Any]]:
    """Return the execution provider of a device and its options."""
    kind, colon, index = device.partition(":")
    known = {_short(name): name for name in ort.get_all_providers() if name not in _REMOTE}
    if kind not in known:
        raise OptionError(f"ONNX Runtime has no device {device!r}. {nearest(kind, known)}")
    if colon and (kind not in _NUMBERED or not index.isdecimal()):
        raise OptionError(
            f"ONNX Runtime has no device {device!r}; a number, as in 'cuda:1', goes with {', '.join(_NUMBERED)} only."
        )
    provider = known[kind]
    if provider not in ort.get_available_providers():
        raise missing_device(device, [name for name in known if known[name] in ort.get_available_providers()])
    if kind in _FROM_PACKAGES and hasattr(ort, "preload_dlls"):  # since 1.21
        ort.preload_dlls()  # finds CUDA and cuDNN where they were installed as Python packages
    return provider, {"device_id": int(index or 0)} if kind in _NUMBERED else {}


def _session_options(options: EngineOptions, provider: str, extra: dict[str, Any]) -> Any:
    result = ort.SessionOptions()
    result.intra_op_num_threads = options.thread_count
    result.inter_op_num_threads = 1
    result.log_severity_level = _LOG_FATAL
    if options.thread_count > 1:
        result.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
    if options.precision == "int8":
        # Without it, sums of products overflow 16 bits on x86 CPUs that lack VNNI; on others it changes nothing.
        result.add_session_config_entry("session.x64quantprecision", "1")
    if options.batch_size is not None:
        result.add_free_dimension_override_by_name(_BATCH_DIMENSION, options.batch_size)
    if provider != _CPU:
        result.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    methods = ("_", "add_", "get_", "register_", "set_", "clear_", "has_")
    settable = [name for name in dir(result) if not name.startswith(methods)]
    for name, value in extra.items():
        try:
            if "." in name:
                result.add_session_config_entry(name, str(value))
            elif name in settable:
                setattr(result, name, value)
            else:
                raise OptionError(f"ONNX Runtime has no engine option {name!r}. {nearest(name, settable)}")
        except (TypeError, AttributeError, RuntimeError) as error:
            raise OptionError(f"ONNX Runtime does not take {name} = {value!r}: {error}") from error
    return result
