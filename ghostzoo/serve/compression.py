"""gzip and deflate, a bounded step at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .request_errors import bad_request, too_large

if TYPE_CHECKING:
    from zlib import _Decompress as Decompressor

STEP = 2**20
"""Bytes that are decompressed at once."""


def new_decompressor() -> Decompressor:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # tells gzip and zlib apart by itself


def decompress(decompressor: Decompressor, data: bytes | memoryview, most: int) -> tuple[bytes, bytes, bool]:
    """Decompress up to ``most`` bytes and one; return them, what is left of ``data``, and whether to call again.

    Raises:
        RequestError: ``data`` is damaged, or goes on after its end.
    """
    after_the_end = decompressor.eof
    try:
        part = b"" if after_the_end else decompressor.decompress(data, most + 1)
    except zlib.error as error:
        raise bad_request(f"The message cannot be decompressed ({error}); it is not compressed as it says.") from error
    if after_the_end or decompressor.unused_data:
        raise bad_request("The message goes on after its compressed part has ended; send one compressed part.")
    rest = decompressor.unconsumed_tail
    return part, rest, bool(rest) or len(part) > most


def decompressed(data: bytes | bytearray, max_bytes: int) -> bytearray:
    """Return ``data`` as it was before it was compressed.

    Raises:
        RequestError: it is larger than ``max_bytes``, is damaged, or breaks off.
    """
    decompressor, plain = new_decompressor(), bytearray()
    for part in _parts(data):
        rest: bytes | memoryview = part
        more = True
        while more:
            found, rest, more = decompress(decompressor, rest, STEP)
            plain += found
            if len(plain) > max_bytes:
                raise too_large(f"The message is larger than the {max_bytes} bytes that this server takes.")
    if not decompressor.eof:
        raise bad_request("The compressed message breaks off; send it whole.")
    return plain


def _parts(data: bytes | bytearray, size: int = 64 * 2**10) -> Iterator[memoryview]:
    """zlib copies what it has not got to yet, at each step."""
    view = memoryview(data)
    return (view[start : start + size] for start in range(0, len(view), size))
