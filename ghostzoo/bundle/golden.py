"""``golden.npz``: a few inputs with the original's outputs, to check any engine on any machine."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, EngineError
from ..network.architecture import EMBEDDING_SIZE
from ..parity import ENGINE_TOLERANCE, Agreement, compare_logits, engine_tolerance

if TYPE_CHECKING:
    import zipfile

MAX_IMAGES = 16
_ARRAYS = ("pixel_values", "logits", "embedding")
_MAX_NPY_HEADER_BYTES = 4096


@dataclass(frozen=True)
class Golden:
    """Inputs and reference outputs, all float32."""

    pixel_values: NDArray[np.float32]
    """(N, 3, H, W)"""
    logits: NDArray[np.float32]
    """(N, classes)"""
    embedding: NDArray[np.float32]
    """(N, 1280)"""

    def check(
        self, run: Callable[[NDArray[np.float32]], NDArray[np.float32]], tolerance: float = ENGINE_TOLERANCE
    ) -> Agreement:
        """Compare the logits that ``run`` computes from the inputs with the reference."""
        return compare_logits(self.logits, run(self.pixel_values), tolerance)

    def require(
        self, run: Callable[[NDArray[np.float32]], NDArray[np.float32]], precision: str, name: str
    ) -> Agreement:
        """Compare an engine's outputs in ``precision`` with the reference; ``name`` is its name in messages.

        Raises:
            EngineError: they differ from the original's.
        """
        tolerance = engine_tolerance(precision)
        agreement = self.check(run, tolerance)
        if not agreement.within(tolerance):
            raise EngineError(f"{name} fails the golden check: {agreement}; at most {tolerance:g} is accepted.")
        return agreement

    def to_bytes(self) -> bytes:
        """Serialise as an uncompressed ``.npz``; the same arrays give the same bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self, name) for name in _ARRAYS})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, *, num_classes: int, image_size: int) -> Golden:
        """Read what ``to_bytes`` wrote. Shapes are checked before anything is allocated; nothing is unpickled.

        Raises:
            BundleError: it is not an archive of the three arrays with the model's shapes.
        """
        import zipfile

        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                pixels = _read_array(archive, "pixel_values", (3, image_size, image_size))
                logits = _read_array(archive, "logits", (num_classes,))
                embedding = _read_array(archive, "embedding", (EMBEDDING_SIZE,))
        except Exception as error:  # zipfile and numpy's header parser raise many kinds of errors on damaged data
            raise BundleError(f"golden.npz is damaged ({str(error)[:200]!a}); download the model again.") from error
        if not len(pixels) == len(logits) == len(embedding):
            raise BundleError("golden.npz is damaged: its arrays differ in length; download the model again.")
        return cls(pixels, logits, embedding)


def _read_array(archive: zipfile.ZipFile, name: str, row_shape: tuple[int, ...]) -> NDArray[np.float32]:
    from zipfile import ZIP_STORED

    limit = 4 * MAX_IMAGES * int(np.prod(row_shape)) + _MAX_NPY_HEADER_BYTES
    if archive.getinfo(f"{name}.npy").compress_type != ZIP_STORED:
        raise ValueError(f"{name} is compressed")  # np.savez never does; its size would be unbounded
    with archive.open(f"{name}.npy") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{name} is larger than {MAX_IMAGES} images need")
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{name} has the .npy version {version}, not (1, 0)")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_MAX_NPY_HEADER_BYTES)
    if dtype != np.dtype("<f4") or fortran_order or shape[1:] != row_shape:
        raise ValueError(f"{name} is {dtype} {shape}, not float32 (N, {', '.join(map(str, row_shape))})")
    body = data[stream.tell() :]
    if len(body) != 4 * int(np.prod(shape, dtype=object)) or not shape[0]:
        raise ValueError(f"{name} is {shape} but holds {len(body)} bytes")
    return np.frombuffer(body, "<f4").reshape(shape)


def synthetic_images(count: int, size: int) -> NDArray[np.uint8]:
    """Return ``count`` RGB pictures (count, size, size, 3) of waves and noise, identical on every machine.

    Integer arithmetic only: a triangle wave for each channel, plus a multiplicative hash of the position as noise.
    """
    y, x, channel = np.ogrid[:size, :size, :3]
    pictures = []
    for index in range(count):
        across, down = 5 + 2 * channel - 3 * index, 9 - 3 * channel - 11 * index
        phase = (x * across + y * down + 61 * channel) * 256 // size
        wave = np.abs(phase % 512 - 256) * 200 // 256
        place = ((y * size + x) * 3 + channel + index * 7919).astype(np.uint32)
        grain = (place * np.uint32(2654435761)) >> np.uint32(26)  # Knuth's hash, its upper 6 bits
        pictures.append(np.clip(wave + grain - 4, 0, 255).astype(np.uint8))
    return np.stack(pictures)
