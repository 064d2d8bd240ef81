"""ncnn, on the CPU.

``engine_options``: any switch or number of ``ncnn.Option`` by its own name, such as
``{"use_winograd_convolution": False}``. 16-bit arithmetic is off unless it is switched on here.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ncnn
import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, EngineError, OptionError, nearest
from ..network.ncnn_param import check_ncnn
from ..network.wire import RefusedGraphError
from .base import Output
from .edge_formats import ConvertedEngine

if TYPE_CHECKING:
    from ..bundle.folder import Bundle

# pnnx gives a network's inputs and outputs these names, in the order of the graph's.
_INPUT = "in0"
_OUTPUTS: dict[Output, str] = {"logits": "out0", "embedding": "out1"}
_REDUCED = ("use_fp16_", "use_bf16_", "use_int8_")


class NcnnEngine(ConvertedEngine):
    """A network of ncnn. It takes images one by one, so there is no batch size to specialise it for."""

    name = "ncnn"
    gives_features: ClassVar[bool] = True
    max_batch_size: ClassVar[int | None] = 1
    opens_after_fork: ClassVar[bool] = False  # OpenMP would wait for threads that stayed behind

    @classmethod
    def _read(cls, bundle: Bundle, precision: str) -> dict[str, bytes]:
        files = super()._read(bundle, precision)
        param, weights = files
        size, classes = bundle.config.image_size, bundle.num_classes
        try:
            files[param] = check_ncnn(files[param], files[weights], num_classes=classes, image_size=size)
        except RefusedGraphError as error:
            raise BundleError(f"Bundle {bundle.path}: {param} {error}; do not use this bundle.") from error
        return files

    def _open(self, folder: Path) -> None:
        if self.device != "cpu":
            raise OptionError(f"ncnn runs on device 'cpu' here, not on {self.device!r}.")
        self._blobs = dict(_OUTPUTS)
        if self._features is not None:
            self._blobs["features"] = _before_pooling((folder / "model.param").read_text(encoding="ascii"))
        self._net: Any = ncnn.Net()
        self._net.opt.num_threads = self.options.thread_count
        self._net.opt.use_vulkan_compute = False
        for name in _option_names(self._net.opt):
            if name.startswith(_REDUCED):
                setattr(self._net.opt, name, False)
        self._set_options()
        for load, path in ((self._net.load_param, "model.param"), (self._net.load_model, "model.bin")):
            if load(str(folder / path)) != 0:
                raise EngineError(f"ncnn {version('ncnn')} refuses {path}; convert the model again.")

    def _set_options(self) -> None:
        known = _option_names(self._net.opt)
        for name, value in self.options.engine_options.items():
            if name not in known:
                raise OptionError(f"ncnn has no engine option {name!r}. {nearest(str(name), known)}")
            try:
                setattr(self._net.opt, name, value)
            except (TypeError, ValueError) as error:
                reason = str(error).partition("\n")[0]
                raise OptionError(f"ncnn does not take {name} = {value!r}: {reason}") from error

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu"]

    def _compute(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        net = self._net
        if net is None:
            raise self._was_closed()
        rows = []
        for image in batch:
            extractor = net.create_extractor()
            status = extractor.input(_INPUT, ncnn.Mat(image))
            if status == 0:
                status, row = extractor.extract(self._blobs[output])
            if status != 0:
                raise EngineError(f"ncnn failed on an image of shape {image.shape} (status {status}).")
            rows.append(np.array(row))  # copied: the memory is the extractor's
        return np.stack(rows)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "version": version("ncnn"),
            "device": self.device,
            "threads": self.options.thread_count,
        }

    def _release(self) -> None:
        super()._release()
        self._net = None


def _before_pooling(param: str) -> str:
    """Return the name of the blob that is pooled for the embedding; pnnx keeps no names of the graph's tensors.

    A layer's line has type, name, numbers of inputs and outputs, their blobs, and parameters.
    """
    makers: dict[str, list[str]] = {}
    for words in map(str.split, param.splitlines()[2:]):
        inputs, outputs = int(words[2]), int(words[3])
        makers |= dict.fromkeys(words[4 + inputs : 4 + inputs + outputs], words)
    blob = _OUTPUTS["embedding"]
    while (words := makers[blob])[0] != "Pooling":
        blob = words[4]
        if blob not in makers:
            raise EngineError("ncnn's network has no pooling before its embedding; convert the model again.")
    return words[4]


def _option_names(options: Any) -> list[str]:
    """Switches and numbers, without allocators; threads are ghostzoo's own option."""
    names = (name for name in dir(options) if not name.startswith("_") and name != "num_threads")
    return [name for name in names if isinstance(getattr(options, name), int)]
