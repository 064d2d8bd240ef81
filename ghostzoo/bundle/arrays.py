"""Arrays in the ``.npz`` files of a bundle: no size is believed before it is checked, and nothing is unpickled."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import zipfile

_MAX_NPY_HEADER_BYTES = 4096


def write_arrays(**arrays: Any) -> bytes:
    """Serialise as an uncompressed ``.npz``; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def read_array(
    archive: zipfile.ZipFile, name: str, dtype: str, row_shape: tuple[int, ...], max_rows: int
) -> NDArray[Any]:
    """Return an array (N, *row_shape) of an uncompressed ``.npz``, N >= 1.

    Raises:
        ValueError: it is another array, or damaged.
        KeyError: there is none of that name.
    """
    from zipfile import ZIP_STORED

    limit = np.dtype(dtype).itemsize * max_rows * math.prod(row_shape) + _MAX_NPY_HEADER_BYTES
    if archive.getinfo(f"{name}.npy").compress_type != ZIP_STORED:
        raise ValueError(f"{name} is compressed")  # np.savez never does; its size would be unbounded
    with archive.open(f"{name}.npy") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{name} is larger than {max_rows} images need")
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{name} has the .npy version {version}, not (1, 0)")
    shape, fortran_order, found = np.lib.format.read_array_header_1_0(stream, max_header_size=_MAX_NPY_HEADER_BYTES)
    if found != np.dtype(dtype) or fortran_order or shape[1:] != row_shape or not shape:
        wanted = ", ".join(map(str, ("N", *row_shape)))
        raise ValueError(f"{name} is {found} {shape}, not {np.dtype(dtype)} ({wanted})")
    body = data[stream.tell() :]
    if len(body) != found.itemsize * math.prod(shape) or not shape[0]:
        raise ValueError(f"{name} is {shape} but holds {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape)
