"""TensorRT, and TensorRT-RTX, on NVIDIA GPUs.

``engine_options``: ``library`` (``tensorrt`` or ``tensorrt_rtx``; by default the first one that is installed),
``max_batch_size`` (largest batch of one run, 8 by default; larger ones are run in parts), and ``engine_file``: an
engine that ``ghostzoo build-engine`` has made of this very model, instead of one that is built here.

An engine is built once for each model, precision, range of batch sizes, library, version and GPU, and kept in
ghostzoo's cache folder.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .._utils.cache import read_cached
from ..errors import EngineError, OptionError
from ..network.architecture import EMBEDDING_SIZE
from .base import Engine, EngineOptions, Output
from .cuda import Stream, cuda_gpus, find_gpu, use_gpu
from .pool import Pool
from .tensorrt_build import make_logger
from .tensorrt_plan import DEFAULT_DEVICE, Plan, cache_name, cached_engine

if TYPE_CHECKING:
    from ..bundle.folder import Bundle

_INPUT = "pixel_values"


class TensorRtEngine(Engine):
    """An engine on one GPU (``cuda`` or ``cuda:1``); a context, a stream and buffers for each concurrent caller."""

    name = "tensorrt"
    default_device = DEFAULT_DEVICE
    opens_after_fork: ClassVar[bool] = False  # as CUDA has it

    def __init__(self, model: bytes, options: EngineOptions, plan: Plan, num_classes: int) -> None:
        """Load the serialised engine ``model``, which was built for ``plan``."""
        super().__init__(model, options)
        self._gpu = find_gpu(self.device)
        self._plan = plan
        use_gpu(self._gpu.index)
        logger = make_logger(plan.library)
        runtime = plan.library.module.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(model)
        if engine is None:
            raise EngineError(
                f"{plan.library.name} {plan.library.version} refuses the engine on {self._gpu.name} "
                f"({self._gpu.architecture}): {logger.faults()}"
            )
        if engine.name != plan.engine_name:
            raise OptionError(
                f"The engine was built for {engine.name!r}, not for {plan.engine_name!r}; build one of this model with "
                "'ghostzoo build-engine'."
            )
        profile = [tuple(shape) for shape in engine.get_tensor_profile_shape(_INPUT, 0)]
        self._smallest, self._largest = profile[0][0], profile[2][0]
        self._image_shape = profile[2][1:]
        if not self._smallest <= (options.batch_size or 1) <= self._largest:
            raise OptionError(
                f"The engine takes batches of {self._smallest} to {self._largest} images, not of "
                f"{options.batch_size or 1}; give a batch_size that it takes, or build another engine."
            )
        shapes = {
            _INPUT: profile[2],
            "logits": (self._largest, num_classes),
            "embedding": (self._largest, EMBEDDING_SIZE),
        }
        gpu = self._gpu.index  # not self, which must stay collectable
        # The logger has to outlive the runtime, and both of them the engine and its contexts.
        pool: Pool[_Run] = Pool(lambda: _Run(engine, shapes, gpu, (logger, runtime)), drop=_Run.close)
        self._runs: Pool[_Run] | None = pool
        self._free = weakref.finalize(self, pool.close)

    @classmethod
    def _load(cls, bundle: Bundle, options: EngineOptions) -> Self:
        if options.threads is not None:
            raise OptionError("TensorRT runs on a GPU, which has no CPU threads; leave threads out.")
        plan = Plan.of(bundle, options)
        gpu = find_gpu(options.device or cls.default_device)
        use_gpu(gpu.index)
        file = options.engine_options.get("engine_file")
        model = _read_engine(file) if file is not None else cached_engine(bundle, plan, gpu)
        return cls(model, options, plan, bundle.num_classes)

    @classmethod
    def devices(cls) -> list[str]:
        return [f"cuda:{gpu.index}" for gpu in cuda_gpus()]

    @classmethod
    def slow_start(cls, bundle: Bundle, options: EngineOptions) -> str | None:
        plan, gpu = Plan.of(bundle, options), find_gpu(options.device or cls.default_device)
        if read_cached(cache_name(plan, gpu)) is not None:
            return None
        return (
            f"no engine is built yet for {gpu.name}, which takes {plan.library.usual_duration}; "
            f"'ghostzoo build-engine --model {bundle.path}' with the same options builds it."
        )

    def _infer(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        self._check_image_shape(batch, self._image_shape)
        runs = self._runs
        if runs is None:
            raise self._was_closed()
        with runs.lend() as run:
            parts = [run(batch[start : start + self._largest], output) for start in range(0, len(batch), self._largest)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "library": self._plan.library.name,
            "version": self._plan.library.version,
            "device": self.device,
            "gpu": self._gpu.name,
            "architecture": self._gpu.architecture,
            "largest_batch": self._largest,
        }

    def _release(self) -> None:
        self._runs = None
        self._free()


class _Run:
    """What each call needs: an execution context, a stream and buffers."""

    def __init__(self, engine: Any, shapes: dict[str, tuple[int, ...]], gpu: int, keep: tuple[Any, ...]) -> None:
        self._gpu = gpu
        self._engine = engine
        self._keep = keep
        use_gpu(gpu)
        self._stream = Stream(shapes)
        self._context: Any = None
        try:
            self._context = engine.create_execution_context()
            if self._context is None:
                raise EngineError(f"TensorRT made no execution context: {keep[0].faults()}")
            # A context that is not the first one may begin without a profile.
            if self._context.active_optimization_profile != 0:
                self._check(self._context.set_optimization_profile_async(0, self._stream.handle), "profile")
                self._stream.wait()
            for name, address in self._stream.addresses.items():
                self._check(self._context.set_tensor_address(name, address), f"address of {name}")
        except BaseException:
            self.close()
            raise

    def __call__(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        use_gpu(self._gpu)  # a thread's own setting, and threads take turns with a run
        self._check(self._context.set_input_shape(_INPUT, batch.shape), f"batch of shape {batch.shape}")
        self._stream.upload(_INPUT, batch)
        self._check(self._context.execute_async_v3(self._stream.handle), "execution")
        return self._stream.download(output, len(batch))

    def close(self) -> None:
        with suppress(EngineError):  # at the end of the process CUDA may be gone already, and all memory with it
            use_gpu(self._gpu)
        self._stream.close()
        self._context = None

    def _check(self, succeeded: bool, what: str) -> None:
        if not succeeded:
            raise EngineError(f"TensorRT refused the {what}: {self._keep[0].faults()}")


def _read_engine(file: Any) -> bytes:
    try:
        return Path(file).read_bytes()
    except TypeError as error:
        raise OptionError(f"engine_file must be a path, not {file!r}.") from error
    except OSError as error:
        raise OptionError(
            f"The engine file {file} cannot be read: {error.strerror or error}; 'ghostzoo build-engine' makes one."
        ) from error
