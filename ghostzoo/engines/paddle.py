"""Paddle Inference.

``engine_options``: any switch of ``paddle.inference.Config`` by its method's name, with ``True`` where the method takes
nothing and its argument, or a tuple of them, where it does: ``{"disable_onednn": True}``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import inference

from ..errors import EngineError, EngineUnavailableError, OptionError, WeightsError, nearest
from ..weights.programs import check_json_program, check_params
from .base import OUTPUTS, Output
from .edge_formats import ConvertedEngine
from .pool import Pool

_PROGRAM, _PARAMS = "inference.json", "inference.pdiparams"
_SWITCHES = ("enable_", "disable_", "set_", "switch_")
_GPU_MEMORY_MB = 256
"""MiB of GPU memory that Paddle reserves at first; it grows as needed."""


class PaddleEngine(ConvertedEngine):
    """A predictor of Paddle Inference on ``cpu``, ``gpu`` or ``gpu:1``; a clone of it for each concurrent caller."""

    name = "paddle"
    reads_files_again = True  # when a predictor is cloned

    def _open(self, folder: Path) -> None:
        config = self._config(folder)
        try:
            # The program could have operators that read and write files; what is run is what was checked.
            (folder / _PROGRAM).write_bytes(check_json_program((folder / _PROGRAM).read_bytes()))
            check_params((folder / _PARAMS).read_bytes())
            predictor = inference.create_predictor(config)
        except Exception as error:  # Paddle raises many kinds of errors
            raise EngineError(f"Paddle {paddle.__version__} refuses the model: {_reason(error)}") from error
        self._predictors: Pool[Any] | None = Pool(predictor.clone)
        if self.options.batch_size is not None:  # the kernels are made for the first batch's shape
            self._compute(np.zeros((self.options.batch_size, *self._image_shape), np.float32), "logits")

    def _config(self, folder: Path) -> Any:
        # A folder alone is misread, and without the first two calls enable_memory_optim raises.
        config = inference.Config(str(folder / _PROGRAM), str(folder / _PARAMS))
        config.enable_new_executor()
        config.enable_new_ir(True)
        config.enable_memory_optim()
        config.disable_glog_info()
        gpu = _gpu_index(self.device)
        if gpu is None:
            config.disable_gpu()
            config.set_cpu_math_library_num_threads(self.options.thread_count)
        elif self.options.threads is not None:
            raise OptionError(
                f"Paddle has threads on a CPU only, not on {self.device}; leave threads out or use device 'cpu'."
            )
        else:
            config.enable_use_gpu(_GPU_MEMORY_MB, gpu)
        known = [name for name in dir(config) if name.startswith(_SWITCHES)]
        for name, value in self.options.engine_options.items():
            if name not in known:
                raise OptionError(f"Paddle has no engine option {name!r}. {nearest(str(name), known)}")
            arguments = () if value is True else value if isinstance(value, tuple) else (value,)
            try:
                getattr(config, name)(*arguments)
            except Exception as error:  # wrong arguments, or a build of Paddle without what is asked for
                raise OptionError(f"Paddle does not take {name} = {value!r}: {_reason(error)}") from error
        return config

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu", *(f"gpu:{index}" for index in range(_gpu_count()))]

    def _compute(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        predictors = self._predictors
        if predictors is None:
            raise self._was_closed()
        try:
            with predictors.lend() as predictor:
                image = predictor.get_input_handle(predictor.get_input_names()[0])
                image.reshape(batch.shape)
                image.copy_from_cpu(batch)
                predictor.run()
                name = predictor.get_output_names()[OUTPUTS.index(output)]
                result: NDArray[np.float32] = predictor.get_output_handle(name).copy_to_cpu()
        except Exception as error:  # Paddle raises many kinds of errors
            raise EngineError(f"Paddle failed on a batch of shape {batch.shape}: {_reason(error)}") from error
        return result

    def describe(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"engine": self.name, "version": paddle.__version__, "device": self.device}
        if self.device == "cpu":
            facts["threads"] = self.options.thread_count
        return facts

    def _release(self) -> None:
        super()._release()
        if self._predictors is not None:
            self._predictors.close()
        self._predictors = None


def _gpu_index(device: str) -> int | None:
    """Return the number of the GPU, or ``None`` for the CPU. Asked for what is not there, Paddle itself only logs."""
    if device == "cpu":
        return None
    kind, _, index = device.partition(":")
    if kind != "gpu" or (index and not index.isdecimal()):
        raise OptionError(f"Paddle has no device {device!r}; use 'cpu', 'gpu' or 'gpu:<number>'.")
    if not paddle.is_compiled_with_cuda():
        raise EngineUnavailableError(
            f"This paddlepaddle {paddle.__version__} has no CUDA support; for device {device!r} run "
            "'pip uninstall paddlepaddle' and then 'pip install paddlepaddle-gpu', or use device 'cpu'."
        )
    if int(index or 0) >= _gpu_count():
        raise EngineUnavailableError(f"Paddle finds {_gpu_count()} GPUs here, not {device!r}; use device 'cpu'.")
    return int(index or 0)


def _gpu_count() -> int:
    return int(paddle.device.cuda.device_count()) if paddle.is_compiled_with_cuda() else 0


def _reason(error: Exception) -> str:
    """The message without Paddle's traceback of C++ and frames of dashes."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not set(line) <= set("-=") and "Traceback" not in line]
    said = [line for line in told if "Error:" in line or isinstance(error, WeightsError)] or told[:1]
    return said[0] if said else type(error).__name__
