"""MNN, on the CPU.

``engine_options``: ``precision_mode``, ``memory_mode`` and ``power_mode``, by MNN's own names for their values, such as
``{"memory_mode": "Low"}``. Without ``precision_mode`` it is ``High``, which alone is float32 on every CPU.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .._utils.locks import opening
from ..errors import EngineError, OptionError, nearest
from .base import OUTPUTS, Output
from .edge_formats import ConvertedEngine
from .pool import Pool


@contextmanager
def _stdout_elsewhere(path: str | None = None) -> Iterator[None]:
    """Send what MNN's C++ code prints to the file ``path``, or else to stderr: stdout is for data.

    Two threads at once would each put back what the other had put there, and a fork would keep it.
    """
    with opening:
        try:
            sys.stdout.flush()
            kept = os.dup(1)
            target = 2 if path is None else os.open(path, os.O_WRONLY)
            os.dup2(target, 1)
            if path is not None:
                os.close(target)
        except (AttributeError, OSError, ValueError):  # there is no stdout, or no stderr
            yield
            return
        try:
            yield
        finally:
            if os.name == "posix":
                ctypes.CDLL(None).fflush(None)  # it may still be in the buffer of C
            os.dup2(kept, 1)
            os.close(kept)


with _stdout_elsewhere(os.devnull):  # it tells which instructions the CPU has
    import MNN
    from MNN import expr, nn

_MODES = {"precision_mode": "PrecisionMode", "memory_mode": "MemoryMode", "power_mode": "PowerMode"}


class MnnEngine(ConvertedEngine):
    """An MNN module, with a clone that shares its weights for each concurrent caller."""

    name = "mnn"
    gives_features: ClassVar[bool] = True  # MNN keeps the names of the ONNX graph's tensors
    opens_after_fork: ClassVar[bool] = False  # its threads are the library's, and it would wait for them

    def _open(self, folder: Path) -> None:
        if self.device != "cpu":
            raise OptionError(f"MNN runs on device 'cpu' here, not on {self.device!r}.")
        modes = {"precision_mode": expr.PrecisionMode.High} | self._modes()
        self._outputs: list[str] = list(OUTPUTS) if self._features is None else [self._features]
        try:
            with _stdout_elsewhere():
                module = nn.load_module_from_file(
                    str(folder / "model.mnn"),
                    ["pixel_values"],
                    self._outputs,
                    backend=expr.Backend.CPU,
                    thread_num=self.options.thread_count,
                    **modes,
                )
        except (SystemError, RuntimeError, ValueError) as error:
            raise EngineError(f"MNN {MNN.version()} refuses model.mnn; convert the model again.") from error
        self._modules: Pool[Any] | None = Pool(module.clone)
        if self.options.batch_size is not None:  # the first batch decides what memory and kernels are laid out for
            self._compute(np.zeros((self.options.batch_size, *self._image_shape), np.float32), OUTPUTS[0])

    def _modes(self) -> dict[str, Any]:
        modes = {}
        for name, value in self.options.engine_options.items():
            if name not in _MODES:
                raise OptionError(f"MNN has no engine option {name!r}. {nearest(str(name), _MODES)}")
            kind = getattr(expr, _MODES[name])
            known = [item for item in dir(kind) if item[0].isupper()]
            if value not in known:
                raise OptionError(f"MNN has no {name} {value!r}. {nearest(str(value), known)}")
            modes[name] = getattr(kind, value)
        return modes

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu"]

    def _compute(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        modules = self._modules
        if modules is None:
            raise self._was_closed()
        try:
            with modules.lend() as module:
                outputs = module.forward([expr.const(batch, list(batch.shape), expr.NCHW)])
                found = outputs[0 if self._features is not None else self._outputs.index(output)]
                if found.data_format == expr.NC4HW4:
                    found = expr.convert(found, expr.NCHW)
                result: NDArray[np.float32] = found.read().copy()
        except (SystemError, RuntimeError, ValueError) as error:
            raise EngineError(f"MNN failed on a batch of shape {batch.shape}: {error}") from error
        return result

    def describe(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "version": MNN.version(),
            "device": self.device,
            "threads": self.options.thread_count,
        }

    def _release(self) -> None:
        super()._release()
        if self._modules is not None:
            self._modules.close()
        self._modules = None
