"""What the engines share that read files in their own format from the bundle, not ONNX."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from .base import Engine, EngineOptions, Output

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from ..network.head import Head


class ConvertedEngine(Engine):
    """An engine whose network the bundle holds in a format of its own.

    The libraries take an image of any size and answer with nonsense, so sizes are checked here.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    """Those that it may have files in."""
    reads_files_again: ClassVar[bool] = False
    """Whether the library needs the files while the network is open."""

    def __init__(
        self, files: Mapping[str, bytes], options: EngineOptions, image_size: int, features: str | None = None
    ) -> None:
        """Open the network.

        Args:
            files: contents by the paths in the bundle.
            options: as for every engine.
            image_size: side of the square images that the network was made for, in pixels.
            features: name in the ONNX graph of the tensor before the pooling, where that is the output that is wanted.

        Raises:
            OptionError: an option has a value that this engine cannot honour.
            EngineUnavailableError: the device is not there, or the library cannot use it.
            EngineError: the library refuses the files.
        """
        super().__init__(b"", options)
        if options.precision not in self.precisions:
            raise OptionError(
                f"{self.name} runs in {' and '.join(self.precisions)} only, not in {options.precision}; use precision "
                f"{' or '.join(self.precisions)}, or another engine."
            )
        self._image_shape = (3, image_size, image_size)
        self._features = features
        # The libraries read only files. These are fresh copies, so that what is read is what was verified.
        folder = Path(tempfile.mkdtemp(prefix="ghostzoo-"))
        self._delete_files = weakref.finalize(self, _delete, folder, os.getpid())
        try:
            for path, content in files.items():
                (folder / PurePosixPath(path).name).write_bytes(content)
            self._open(folder)
        except BaseException:
            self._delete_files()
            raise
        if not self.reads_files_again:
            self._delete_files()

    @classmethod
    def _load(cls, bundle: Bundle, options: EngineOptions) -> Self:
        return cls(cls._read(bundle, options.precision), options, bundle.config.image_size)

    @classmethod
    def _load_features(cls, bundle: Bundle, head: Head, options: EngineOptions) -> Self:
        return cls(cls._read(bundle, options.precision), options, bundle.config.image_size, head.features)

    @classmethod
    def _read(cls, bundle: Bundle, precision: str) -> dict[str, bytes]:
        """Return the contents of the engine's files, checked where they can be; raises as ``Bundle.converted``."""
        return bundle.converted(cls.name, precision)

    @abstractmethod
    def _open(self, folder: Path) -> None:
        """Open the files, which are in ``folder`` under their own names."""

    @abstractmethod
    def _compute(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        """Run one batch of the right size; called from many threads."""

    def _infer(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        self._check_image_shape(batch, self._image_shape)
        return self._compute(batch, output)

    def _release(self) -> None:
        self._delete_files()


def _delete(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not a fork, whose parent may still need them
        shutil.rmtree(folder, ignore_errors=True)
