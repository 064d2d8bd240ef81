"""bfloat16, which numpy lacks: the upper half of a float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""Marks an array's 16-bit numbers as bfloat16."""


def to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return floats of any width, or ``BFLOAT16``, as float32 (C order, aligned); exact from the narrower ones."""
    if array.dtype == BFLOAT16:
        array = np.asarray(array.view("<u2").astype("<u4") << 16).view("<f4")
    return np.require(array, np.float32, ["C", "A"])
