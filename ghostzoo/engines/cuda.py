"""The part of CUDA that an engine needs: GPUs, a stream, and buffers on the host and the GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._utils.hardware import has_nvidia_gpu
from ..errors import EngineError, EngineUnavailableError, OptionError
from . import engine_record, import_failure

try:
    from cuda.bindings import runtime as cudart
except ImportError as error:
    raise import_failure(engine_record("tensorrt"), error) from error

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Gpu:
    """A GPU: what determines which programs it can run."""

    index: int
    name: str
    architecture: str
    """Compute capability, as in ``SM86``."""


def cuda_gpus() -> list[Gpu]:
    """Return the GPUs of this machine.

    Raises:
        EngineUnavailableError: there is no driver, or it finds no GPU.
    """
    status, count = cudart.cudaGetDeviceCount()
    if status != cudart.cudaError_t.cudaSuccess or not count:
        if not has_nvidia_gpu():
            raise EngineUnavailableError(
                "TensorRT needs an NVIDIA GPU, and none was found on this machine; use another engine, such as "
                "onnxruntime."
            )
        raise EngineUnavailableError(
            f"CUDA cannot be used here: {_reason(status)}; install or update NVIDIA's driver until 'nvidia-smi' lists "
            "the GPU."
        )
    return [_gpu(index) for index in range(count)]


def find_gpu(device: str) -> Gpu:
    """Return the GPU that ``device`` (``cuda`` or ``cuda:1``) names.

    Raises:
        OptionError: it names no GPU.
        EngineUnavailableError: there is no such GPU here.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()):
        raise OptionError(f"CUDA has no device {device!r}; use 'cuda' or 'cuda:<number>'.")
    gpus = cuda_gpus()
    if int(index or 0) >= len(gpus):
        found = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in gpus)
        raise EngineUnavailableError(f"There is no {device} on this machine; it has {found}.")
    return gpus[int(index or 0)]


def use_gpu(index: int) -> None:
    """Make this GPU current for the calling thread."""
    _call(cudart.cudaSetDevice(index))


class Stream:
    """A CUDA stream with buffers for float32 tensors: page-locked ones here and others on the GPU.

    Serves one thread at a time, which must have called ``use_gpu``.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Allocate.

        Args:
            shapes: largest shape of each tensor by its name; the first axis is that of the batch.

        Raises:
            EngineError: there is not enough memory.
        """
        self.addresses: dict[str, int] = {}
        """Of the tensors on the GPU."""
        self._host: dict[str, NDArray[np.float32]] = {}
        self._pinned: list[int] = []
        self._handle: Any = None
        try:
            # One that does not wait for the default stream, which other libraries in this process may use.
            self._handle = _call(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
            for name, shape in shapes.items():
                size = int(np.prod(shape)) * _FLOAT_BYTES
                pinned = int(_call(cudart.cudaHostAlloc(size, cudart.cudaHostAllocDefault)))
                self._pinned.append(pinned)
                memory = (ctypes.c_float * (size // _FLOAT_BYTES)).from_address(pinned)
                self._host[name] = np.ctypeslib.as_array(memory).reshape(shape)
                self.addresses[name] = int(_call(cudart.cudaMalloc(size)))
        except BaseException:
            self.close()
            raise

    @property
    def handle(self) -> int:
        """The ``cudaStream_t`` as a number."""
        return int(self._handle)

    def upload(self, name: str, values: NDArray[np.float32]) -> None:
        """Start copying ``values``, a contiguous array, to the first rows of the tensor."""
        rows = self._host[name][: len(values)]
        rows[...] = values
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(cudart.cudaMemcpyAsync(self.addresses[name], rows.ctypes.data, rows.nbytes, kind, self._handle))

    def download(self, name: str, count: int) -> NDArray[np.float32]:
        """Wait for the stream, and return a copy of the first ``count`` rows of the tensor."""
        rows = self._host[name][:count]
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(cudart.cudaMemcpyAsync(rows.ctypes.data, self.addresses[name], rows.nbytes, kind, self._handle))
        self.wait()
        return rows.copy()

    def wait(self) -> None:
        """Wait for the stream."""
        _call(cudart.cudaStreamSynchronize(self._handle))

    def close(self) -> None:
        """Wait for the stream, and free it and the buffers. Closing twice is fine."""
        # What fails here has failed before, in a call that raised; freeing goes on with the rest.
        if self._handle is not None:
            cudart.cudaStreamSynchronize(self._handle)
        self._host.clear()
        while self._pinned:
            cudart.cudaFreeHost(self._pinned.pop())
        while self.addresses:
            cudart.cudaFree(self.addresses.popitem()[1])
        if self._handle is not None:
            cudart.cudaStreamDestroy(self._handle)
            self._handle = None


def _gpu(index: int) -> Gpu:
    properties = _call(cudart.cudaGetDeviceProperties(index))
    name = bytes(properties.name).split(b"\0")[0].decode("ascii", "replace")
    return Gpu(index, name, f"SM{properties.major}{properties.minor}")


def _call(result: tuple[Any, ...]) -> Any:
    """Return the results of a CUDA call without its status.

    Raises:
        EngineError: the status is not success.
    """
    status, *values = result
    if status != cudart.cudaError_t.cudaSuccess:
        raise EngineError(f"CUDA failed: {_describe(status)}.")
    return values[0] if values else None


def _reason(status: Any) -> str:
    """Why no GPU was found."""
    if status == cudart.cudaError_t.cudaSuccess:
        return "no GPU is found"
    failed, version = cudart.cudaDriverGetVersion()
    if failed == cudart.cudaError_t.cudaSuccess and version == 0:  # the status itself says that it is too old
        return "there is no NVIDIA driver"
    return _describe(status)


def _describe(status: Any) -> str:
    failed, text = cudart.cudaGetErrorString(status)
    return str(status.name) if failed != cudart.cudaError_t.cudaSuccess else f"{text.decode()} ({status.name})"
