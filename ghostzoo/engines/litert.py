"""LiteRT, the runtime of phones that was TensorFlow Lite, on the CPU with XNNPACK. It has no ``engine_options``."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from ..errors import BundleError, EngineError, OptionError
from ..network.tflite_check import check_tflite
from ..network.wire import RefusedGraphError
from .base import Output
from .edge_formats import ConvertedEngine
from .pool import Pool

if TYPE_CHECKING:
    from ..bundle.folder import Bundle


class LiteRtEngine(ConvertedEngine):
    """An interpreter of LiteRT for each concurrent caller; each has its own copy of the weights."""

    name = "litert"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")
    reads_files_again: ClassVar[bool] = True

    @classmethod
    def _read(cls, bundle: Bundle, precision: str) -> dict[str, bytes]:
        files = super()._read(bundle, precision)
        ((path, content),) = files.items()
        try:
            check_tflite(content, num_classes=bundle.num_classes, image_size=bundle.config.image_size)
        except RefusedGraphError as error:
            raise BundleError(f"Bundle {bundle.path}: {path} {error}; do not use this bundle.") from error
        return files

    def _open(self, folder: Path) -> None:
        if self.device != "cpu":
            raise OptionError(f"LiteRT runs on device 'cpu' here, not on {self.device!r}.")
        for name in self.options.engine_options:
            raise OptionError(f"LiteRT has no engine option {name!r}; it has none.")
        threads = self.options.thread_count
        (path,) = folder.iterdir()
        self._interpreters: Pool[_Interpreter] | None = Pool(lambda: _Interpreter(path, threads, self._image_shape))
        with self._interpreters.lend() as interpreter:
            interpreter.prepare(self.options.batch_size or 1)

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu"]

    def _compute(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        interpreters = self._interpreters
        if interpreters is None:
            raise EngineError(f"The {self.name} engine was closed; load the model again.")
        with interpreters.lend() as interpreter:
            return interpreter.run(batch, output)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "version": version("ai-edge-litert"),
            "device": self.device,
            "threads": self.options.thread_count,
        }

    def _release(self) -> None:
        if self._interpreters is not None:
            self._interpreters.close()
        self._interpreters = None
        super()._release()  # last: the interpreters map the file


class _Interpreter:
    """LiteRT's own interpreter, which lays out memory for one batch size at a time."""

    def __init__(self, path: Path, threads: int, image_shape: tuple[int, ...]) -> None:
        self._interpreter = Interpreter(str(path), num_threads=threads)
        (image,) = self._interpreter.get_input_details()
        self._image: int = image["index"]
        self._outputs = {item["name"]: item["index"] for item in self._interpreter.get_output_details()}
        self._image_shape = image_shape
        self._batch_size = 0

    def prepare(self, batch_size: int) -> None:
        if batch_size != self._batch_size:
            channels, height, width = self._image_shape
            self._interpreter.resize_tensor_input(self._image, [batch_size, height, width, channels])
            self._interpreter.allocate_tensors()
            self._batch_size = batch_size

    def run(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        self.prepare(len(batch))
        image = self._interpreter.tensor(self._image)()  # a view, not to be kept: the memory may be laid out anew
        for channel in range(batch.shape[1]):  # five times faster than one copy of the transposed batch
            image[..., channel] = batch[:, channel]
        del image
        self._interpreter.invoke()
        result: NDArray[np.float32] = self._interpreter.get_tensor(self._outputs[output])  # a copy
        return result
