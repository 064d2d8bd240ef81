"""bfloat16, which numpy lacks: the upper half of a float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""The dtype of an array of bfloat16 numbers."""


def to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Convert floats of any width, or ``BFLOAT16``, to float32 (C order, aligned); narrower types convert exactly."""
    if array.dtype == BFLOAT16:
        array = np.asarray(array.view("<u2").astype("<u4") << 16).view("<f4")
    return np.require(array, np.float32, ["C", "A"])
