"""``golden.npz``: a few inputs with the original's outputs, by which any engine on any machine is checked."""

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
        """Run the inputs through ``run`` (pixel values -> logits) and compare its answer with the reference."""
        return compare_logits(self.logits, run(self.pixel_values), tolerance)

    def require(
        self, run: Callable[[NDArray[np.float32]], NDArray[np.float32]], precision: str, name: str
    ) -> Agreement:
        """Hold an engine's answers in ``precision`` against the reference; ``name`` is what messages call it.

        Raises:
            EngineError: they are others than the original's.
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
            BundleError: the data is no archive of the three arrays in the shapes that the model needs.
        """
        import zipfile

        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                pixels = _read_array(archive, "pixel_values", (3, image_size, image_size))
                logits = _read_array(archive, "logits", (num_classes,))
                embedding = _read_array(archive, "embedding", (EMBEDDING_SIZE,))
        except Exception as error:  # zipfile and numpy's header parser raise errors of many kinds on damaged data
            raise BundleError(f"golden.npz is damaged ({str(error)[:200]!a}); download the model again.") from error
        if not len(pixels) == len(logits) == len(embedding):
            raise BundleError("golden.npz is damaged: its arrays differ in length; download the model again.")
        return cls(pixels, logits, embedding)


def _read_array(archive: zipfile.ZipFile, name: str, row_shape: tuple[int, ...]) -> NDArray[np.float32]:
    from zipfile import ZIP_STORED

    limit = 4 * MAX_IMAGES * int(np.prod(row_shape)) + _MAX_NPY_HEADER_BYTES
    if archive.getinfo(f"{name}.npy").compress_type != ZIP_STORED:
        raise ValueError(f"{name} is compressed")  # as np.savez never does: what it expands to would be unbounded
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
    """Make ``count`` RGB pictures (count, size, size, 3) of waves and grain, the same on every machine.

    Integer arithmetic only: a triangle wave for each channel, with a multiplicative hash of the place as grain.
    """
    y, x, channel = np.ogrid[:size, :size, :3]
    pictures = []
    for index in range(count):
        across, down = 5 + 2 * channel - 3 * index, 9 - 3 * channel - 11 * index
        phase = (x * across + y * down + 61 * channel) * 256 // size
        wave = np.abs(phase % 512 - 256) * 200 // 256
        place = ((y * size + x) * 3 + channel + index * 7919).astype(np.uint32)
        grain = (place * np.uint32(2654435761)) >> np.uint32(26)  # Knuth's multiplier, the upper 6 bits: 0 to 63
        pictures.append(np.clip(wave + grain - 4, 0, 255).astype(np.uint8))
    return np.stack(pictures)
