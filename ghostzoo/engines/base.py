"""The contract of an engine: a float32 NCHW batch in, float32 logits or embeddings out; no images, no labels."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from .._utils.hardware import check_thread_count, usable_cpus
from .._utils.locks import never_freed_in_forks
from ..bundle.folder import check_precision
from ..errors import EngineError, EngineUnavailableError, GhostZooError, OptionError
from ..network.architecture import EMBEDDING_SIZE

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from ..network.head import Head

_first_processes: dict[str, int] = {}
"""Engine -> the process that first opened a model with it: this one, or an ancestor by forks."""

Output = Literal["logits", "embedding", "features"]
OUTPUTS: tuple[Output, ...] = ("logits", "embedding")
"""Of every graph; ``features``, the tensor before the pooling, is there only after ``load_features``."""


@dataclass(frozen=True)
class EngineOptions:
    """Options with the same names for every engine; one that an engine cannot honour is an error, never ignored."""

    threads: int | None = None
    """CPU threads within one call; ``None`` takes the CPUs that this process may use."""
    device: str | None = None
    """By the engine's own name for it; ``None`` takes the engine's default device."""
    precision: str = "fp32"
    """Which graph of the bundle is run: ``fp32``, ``fp16`` or ``int8``; or ``bf16``, the first of them in bfloat16."""
    batch_size: int | None = None
    """A fixed batch size to specialise the model for; ``None`` keeps it dynamic."""
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """Passed on to the engine, in the engine's own terms."""

    def __post_init__(self) -> None:
        for name in ("threads", "batch_size"):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value)
        if self.threads is not None:
            check_thread_count("threads", self.threads)
        check_precision(self.precision)
        if not isinstance(self.engine_options, Mapping):
            raise OptionError(f"engine_options must be a dict, not {self.engine_options!r}.")
        object.__setattr__(self, "engine_options", dict(self.engine_options))
        if self.device is not None and (not isinstance(self.device, str) or not self.device):
            raise OptionError(f"device must be a name such as 'cpu', not {self.device!r}.")

    @property
    def thread_count(self) -> int:
        return self.threads if self.threads is not None else usable_cpus()


def check_count(name: str, value: object) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        OptionError: it is none; the message tells the option's ``name``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} must be a whole number of at least 1, not {value!r}.")


class Engine(ABC):
    """A model loaded in one inference library.

    ``run`` may be called from many threads at once, and what it returns belongs to the caller. Subclasses open the
    model in ``__init__``, implement ``_infer`` and drop the library's objects in ``_release``. What libraries raise,
    of whatever class, becomes an ``EngineError`` here.
    """

    name: ClassVar[str]
    default_device: ClassVar[str] = "cpu"
    max_batch_size: ClassVar[int | None] = None
    """Largest ``batch_size`` that it can be specialised for; ``None`` for any."""
    computes_bf16: ClassVar[bool] = False
    """Whether it can compute a float32 graph in bfloat16, on CPUs that have it."""
    opens_after_fork: ClassVar[bool] = True
    """Whether the library can still open a model in a fork of a process that has used it."""
    gives_features: ClassVar[bool] = False
    """Whether it can return the tensor before the pooling."""

    def __init__(self, model: bytes, options: EngineOptions) -> None:
        """Open the ONNX graph ``model``.

        Raises:
            OptionError: an option has a value that this engine cannot honour.
            EngineUnavailableError: the device is not there, or the library cannot use it.
            EngineError: the library refuses the graph.
        """
        limit = self.max_batch_size
        if limit is not None and options.batch_size is not None and options.batch_size > limit:
            raise OptionError(
                f"{self.name} cannot be specialised for a batch size above {limit}; leave batch_size out; "
                "batches of any size still work."
            )
        if options.precision == "bf16" and not self.computes_bf16:
            raise OptionError(
                f"{self.name} does not compute in bf16; take precision fp32, or engine native or openvino."
            )
        self.options = options
        self.device = options.device if options.device is not None else self.default_device
        self._closed = False
        self._shapes: Mapping[Output, tuple[int, ...]] = {}
        self._process = os.getpid()
        if _first_processes.setdefault(self.name, self._process) != self._process and not self.opens_after_fork:
            raise EngineUnavailableError(
                f"{self.name} was used before this process was forked, and cannot be used in a fork; start processes "
                "with 'spawn', or load models only in the forked processes."
            )
        never_freed_in_forks.add(self)

    @classmethod
    def load(cls, bundle: Bundle, options: EngineOptions) -> Self:
        """Open the graph of ``bundle`` in the precision that ``options`` ask for.

        Raises:
            BundleError: the graph is none that engines may open.
            OptionError, EngineUnavailableError, EngineError: as the constructor.
        """
        engine = cls._opened(bundle, partial(cls._load, bundle, options))
        engine._shapes = {"logits": (bundle.num_classes,), "embedding": (EMBEDDING_SIZE,)}
        return engine

    @classmethod
    def load_features(cls, bundle: Bundle, head: Head, options: EngineOptions) -> Self:
        """Open the float32 graph of ``bundle``, whose last layers are ``head``, for the output ``features`` alone.

        Raises:
            EngineUnavailableError: the library gives no other outputs than those that its file or its build has.
            BundleError, OptionError, EngineError: as ``load``.
        """
        if not cls.gives_features:
            raise EngineUnavailableError(
                f"{cls.name} does not return the tensor that explanations are made of; load the model on another "
                "engine, such as engine='onnxruntime'."
            )
        engine = cls._opened(bundle, partial(cls._load_features, bundle, head, options))
        engine._shapes = {"features": head.shape}
        return engine

    @classmethod
    def _opened(cls, bundle: Bundle, load: Callable[[], Self]) -> Self:
        try:
            return load()
        except GhostZooError:
            raise
        except Exception as error:  # libraries raise what they like
            raise EngineError(
                f"The {cls.name} engine refuses {bundle.name}: {_described(error)}; convert the model again, or take "
                "another engine."
            ) from error

    @classmethod
    def _load(cls, bundle: Bundle, options: EngineOptions) -> Self:
        return cls(bundle.model(options.precision), options)

    @classmethod
    def _load_features(cls, bundle: Bundle, head: Head, options: EngineOptions) -> Self:
        """For engines that run any ONNX graph; the graph with the further output is made here, and nowhere kept."""
        from ..network.head import with_features

        return cls(with_features(bundle.model(), head), options)

    def run(self, batch: NDArray[np.float32], output: Output = "logits") -> NDArray[np.float32]:
        """Run the network.

        Args:
            batch: (N, 3, H, W) float32, N >= 1, of the size that the model was made for.
            output: which of the graph's outputs to return.

        Returns:
            (N, classes) logits, (N, 1280) embeddings or (N, C, H, W) features, float32, in memory of the caller's own.

        Raises:
            EngineError: the batch has another type or shape, the engine is closed, or the library failed or gave
                something else than was asked for.
        """
        if self._closed:
            raise self._was_closed()
        if self.is_inherited:
            raise EngineError(
                f"The {self.name} engine was opened before this process was forked, and its threads are in the parent; "
                "load the model in this process."
            )
        outputs = self._shapes or OUTPUTS
        if output not in outputs:
            raise OptionError(f"output must be one of {', '.join(outputs)}, not {output!r}.")
        if not isinstance(batch, np.ndarray) or batch.dtype != np.float32 or batch.ndim != 4 or not batch.size:
            found = f"{batch.dtype} {batch.shape}" if isinstance(batch, np.ndarray) else type(batch).__name__
            raise EngineError(f"The {self.name} engine takes float32 arrays of shape (N, 3, H, W), not {found}.")
        batch = np.ascontiguousarray(batch)
        size = self.options.batch_size
        if size is None or len(batch) == size:
            return self._checked(batch, output)
        parts = [
            self._checked(_fill(batch[start : start + size], size), output) for start in range(0, len(batch), size)
        ]
        return np.concatenate(parts)[: len(batch)].copy()

    def _checked(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        """Run one batch and check the result's type and shape; its values are not checked."""
        try:
            result = np.asarray(self._infer(batch, output))
        except GhostZooError:
            raise
        except Exception as error:  # libraries raise what they like
            raise EngineError(
                f"The {self.name} engine failed on a batch of shape {batch.shape}: {_described(error)}."
            ) from error
        expected = (len(batch), *self._shapes.get(output, result.shape[1:] or (0,)))
        if result.shape != expected or result.dtype != np.float32:
            raise EngineError(
                f"The {self.name} engine gave {output} of shape {result.shape}, {result.dtype}, for {len(batch)} "
                f"images, not {expected}, float32; convert the model again, or take another engine."
            )
        return result

    def _was_closed(self) -> EngineError:
        return EngineError(f"The {self.name} engine was closed; load the model again.")

    def _check_image_shape(self, batch: NDArray[np.float32], expected: tuple[int, ...]) -> None:
        """Refuse images of another size, of which some libraries make nonsense."""
        if batch.shape[1:] != expected:
            shape = ", ".join(map(str, expected))
            raise EngineError(f"This network takes batches of shape (N, {shape}), not {batch.shape}.")

    @classmethod
    @abstractmethod
    def devices(cls) -> list[str]:
        """Return the devices that this engine finds on this machine, by the names that ``device`` takes."""

    @classmethod
    def slow_start(cls, bundle: Bundle, options: EngineOptions) -> str | None:
        """Say why opening ``bundle`` takes too long for automatic selection, or return ``None``."""
        return None

    @abstractmethod
    def _infer(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        """Run one batch, of exactly ``options.batch_size`` images where that is set; called from many threads."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what is actually running: library version, device, threads."""

    def close(self) -> None:
        """Free the model. Calls that are running finish; later ones raise. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            if not self.is_inherited:
                self._release()

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a fork of the one that opened the engine, which cannot run here."""
        return self._process != os.getpid()

    @abstractmethod
    def _release(self) -> None:
        """Drop the library's objects; a call in another thread may still hold its own reference."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _described(error: Exception) -> str:
    """A library's error in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _fill(batch: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Append copies of the last image until there are ``size``."""
    missing = size - len(batch)
    return batch if not missing else np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
