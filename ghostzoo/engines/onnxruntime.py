"""ONNX Runtime.

``engine_options``: any attribute of ``onnxruntime.SessionOptions`` (``enable_cpu_mem_arena=False``), any session
configuration entry by its dotted name (``{"session.intra_op.allow_spinning": "0"}``), and ``provider_options``, a dict
for the execution provider.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, EngineUnavailableError, OptionError, nearest
from .base import Engine, EngineOptions, Output

try:
    import onnxruntime as ort
except ImportError as error:  # a broken installation, or one wheel shadowing the other
    raise EngineUnavailableError(
        f"onnxruntime cannot be imported ({error}); reinstall it with 'pip install --force-reinstall onnxruntime'."
    ) from error

_BATCH_DIMENSION = "batch"
_LOG_ERRORS = 3  # its warnings about a graph are for the maker of the graph


class OnnxRuntimeEngine(Engine):
    """A session of ONNX Runtime on the CPU or on one CUDA device (``cuda`` or ``cuda:1``)."""

    name = "onnxruntime"

    def __init__(self, model: bytes, options: EngineOptions) -> None:
        super().__init__(model, options)
        provider, provider_options = _provider(self.device)
        extra = dict(options.engine_options)
        provider_options |= extra.pop("provider_options", {})
        session_options = _session_options(options, extra)
        if provider != "CPUExecutionProvider":
            session_options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session: Any = ort.InferenceSession(model, session_options, providers=[(provider, provider_options)])
        except Exception as error:  # the library raises classes of its own that have no common public base
            raise EngineError(f"ONNX Runtime {ort.__version__} refuses the model or an option: {error}") from error
        running = self._session.get_providers()[0]
        if running != provider:
            raise EngineUnavailableError(
                f"ONNX Runtime would run on {running} instead of {provider} for device {self.device!r}; "
                "check the driver and the CUDA libraries, or use device='cpu'."
            )
        self._provider = provider

    @classmethod
    def devices(cls) -> list[str]:
        found = [device.ep_name for device in ort.get_ep_devices()]
        cuda = [f"cuda:{index}" for index in range(found.count("CUDAExecutionProvider"))]
        return ["cpu", *cuda]

    def _infer(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        session = self._session
        if session is None:
            raise EngineError(f"The {self.name} engine was closed; load the model again.")
        try:
            result: NDArray[np.float32] = session.run([output], {"pixel_values": batch})[0]
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed on a batch of shape {batch.shape}: {error}") from error
        return result

    def describe(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "version": ort.__version__,
            "device": self.device,
            "provider": self._provider,
            "threads": self.options.thread_count,
        }

    def _release(self) -> None:
        self._session = None


def _provider(device: str) -> tuple[str, dict[str, Any]]:
    """Return the execution provider of a device and its options."""
    kind, _, index = device.partition(":")
    if device == "cpu":
        return "CPUExecutionProvider", {}
    if kind != "cuda" or (index and not index.isdecimal()):
        raise OptionError(f"ONNX Runtime has no device {device!r}; use 'cpu', 'cuda' or 'cuda:<number>'.")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise EngineUnavailableError(
            f"This onnxruntime {ort.__version__} has no CUDA support; for device {device!r} run "
            "'pip uninstall onnxruntime' and then 'pip install onnxruntime-gpu', or use device='cpu'."
        )
    return "CUDAExecutionProvider", {"device_id": int(index or 0)}


def _session_options(options: EngineOptions, extra: dict[str, Any]) -> Any:
    result = ort.SessionOptions()
    result.intra_op_num_threads = options.thread_count
    result.inter_op_num_threads = 1
    result.log_severity_level = _LOG_ERRORS
    if options.precision == "int8":
        # Without it, sums of products overflow 16 bits on x86 CPUs that lack VNNI; on others it changes nothing.
        result.add_session_config_entry("session.x64quantprecision", "1")
    if options.batch_size is not None:
        result.add_free_dimension_override_by_name(_BATCH_DIMENSION, options.batch_size)
    settable = [name for name in dir(result) if not name.startswith(("_", "add_", "get_", "register_"))]
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
