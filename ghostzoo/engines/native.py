"""ghostzoo's own engine, on the CPU: the C++ library of ``native/``, as the distribution ``ghostzoo-native`` has it.

``engine_options``: ``instructions``, to run with another instruction set than the best of this CPU, such as ``"avx2"``.
A call with several images shares them among its threads; a single image's layers are divided among them.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, ClassVar

import ghostzoo_native
import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, EngineUnavailableError, OptionError, nearest
from ..network.architecture import EMBEDDING_SIZE
from .base import Engine, EngineOptions, Output

try:
    _library = ctypes.CDLL(str(ghostzoo_native.library()))
except OSError as error:  # built for another system
    raise ImportError(str(error)) from error

_OK = 0
_INSTRUCTIONS = ("avx512", "avx2", "neon", "generic")


class _Options(ctypes.Structure):
    """``ghostzoo_options`` of ``ghostzoo.h``."""

    _fields_: ClassVar = [
        ("size", ctypes.c_size_t),
        ("threads", ctypes.c_int),
        ("instructions", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
    ]


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_library, name)
    function.restype, function.argtypes = result, arguments
    return function


_last_error = _declare("ghostzoo_last_error", ctypes.c_char_p)
_version = _declare("ghostzoo_version", ctypes.c_char_p)
_check_options = _declare("ghostzoo_check_options", ctypes.c_int, ctypes.POINTER(_Options))
_network_open = _declare(
    "ghostzoo_network_open",
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.POINTER(_Options),
    ctypes.POINTER(ctypes.c_void_p),
)
_network_close = _declare("ghostzoo_network_close", None, ctypes.c_void_p)
_network_run = _declare(
    "ghostzoo_network_run", ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_void_p] * 2
)
_image_size = _declare("ghostzoo_network_image_size", ctypes.c_int, ctypes.c_void_p)
_num_classes = _declare("ghostzoo_network_num_classes", ctypes.c_int, ctypes.c_void_p)
_instructions = _declare("ghostzoo_network_instructions", ctypes.c_char_p, ctypes.c_void_p)


class _Network:
    """An open network of the library; closed when the last call that uses it has ended."""

    def __init__(self, model: bytes, options: _Options) -> None:
        self.handle = ctypes.c_void_p()
        if _network_open(model, len(model), ctypes.byref(options), ctypes.byref(self.handle)) != _OK:
            raise EngineError(_reason())
        weakref.finalize(self, _network_close, self.handle)

    def run(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        width = _num_classes(self.handle) if output == "logits" else EMBEDDING_SIZE
        result = np.empty((len(batch), width), np.float32)
        outputs = (result.ctypes.data, None) if output == "logits" else (None, result.ctypes.data)
        if _network_run(self.handle, batch.ctypes.data, len(batch), *outputs) != _OK:
            raise EngineError(_reason())
        return result


class NativeEngine(Engine):
    """A network in ghostzoo's own library, on device ``cpu``, in float32, or in bfloat16 on CPUs with AVX512-BF16."""

    name = "native"
    computes_bf16 = True

    def __init__(self, model: bytes, options: EngineOptions) -> None:
        super().__init__(model, options)
        if self.device.lower() != "cpu":
            raise OptionError(f"The native engine runs on device 'cpu', not on {self.device!r}.")
        self.device = "cpu"
        if options.precision not in ("fp32", "bf16"):
            raise OptionError(
                f"The native engine runs in fp32 and bf16, not in {options.precision}; take another engine for that."
            )
        given = _Options(
            ctypes.sizeof(_Options), options.thread_count, _asked_instructions(options), options.precision.encode()
        )
        if _check_options(ctypes.byref(given)) != _OK:
            raise EngineUnavailableError(_reason())
        self._network: _Network | None = _Network(model, given)
        size = _image_size(self._network.handle)
        self._image_shape = (3, size, size)
        self._runs_with: str = _instructions(self._network.handle).decode()

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu"]

    def _infer(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        network = self._network
        if network is None:
            raise EngineError(f"The {self.name} engine was closed; load the model again.")
        if batch.shape[1:] != self._image_shape:
            raise EngineError(f"The model takes images of shape {self._image_shape}, not {batch.shape[1:]}.")
        return network.run(batch, output)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "version": _version().decode(),
            "device": self.device,
            "threads": self.options.thread_count,
            "instructions": self._runs_with,
            "computes_in": self.options.precision,
        }

    def _release(self) -> None:
        self._network = None


def _asked_instructions(options: EngineOptions) -> bytes | None:
    for name in options.engine_options:
        if name != "instructions":
            raise OptionError(f"The native engine has no engine option {name!r}; it has 'instructions'.")
    asked = options.engine_options.get("instructions")
    if asked is None:
        return None
    if asked not in _INSTRUCTIONS:
        raise OptionError(f"There are no instructions {asked!r}. {nearest(str(asked), _INSTRUCTIONS)}")
    return str(asked).encode()


def _reason() -> str:
    return str(_last_error().decode(errors="replace"))
