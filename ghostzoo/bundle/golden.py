"""``golden.npz``: a few inputs with the original's outputs, to check any engine on any machine."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, EngineError
from ..network.architecture import EMBEDDING_SIZE
from ..parity import ENGINE_TOLERANCE, Agreement, compare_logits, engine_tolerance
from .arrays import read_array, write_arrays

MAX_IMAGES = 16
_ARRAYS = ("pixel_values", "logits", "embedding")


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
        return write_arrays(**{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def from_bytes(cls, data: bytes, *, num_classes: int, image_size: int) -> Golden:
        """Read what ``to_bytes`` wrote. Shapes are checked before anything is allocated; nothing is unpickled.

        Raises:
            BundleError: it is not an archive of the three arrays with the model's shapes.
        """
        import zipfile

        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                pixels = read_array(archive, "pixel_values", "<f4", (3, image_size, image_size), MAX_IMAGES)
                logits = read_array(archive, "logits", "<f4", (num_classes,), MAX_IMAGES)
                embedding = read_array(archive, "embedding", "<f4", (EMBEDDING_SIZE,), MAX_IMAGES)
        except Exception as error:  # zipfile and numpy's header parser raise many kinds of errors on damaged data
            raise BundleError(f"golden.npz is damaged ({str(error)[:200]!a}); download the model again.") from error
        if not len(pixels) == len(logits) == len(embedding):
            raise BundleError("golden.npz is damaged: its arrays differ in length; download the model again.")
        return cls(pixels, logits, embedding)


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
