"""The headers of an uncompressed tar file, which may come from anybody."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO

MAX_HEADER_BYTES = 16 * 2**10
"""Of one header: a path and some attributes. Older Pythons take the square of its size in time (CVE-2024-6232)."""


def read_headers(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield what each header says, in the order of the file; contents are not read, and nothing is kept.

    Raises:
        tarfile.TarError: it is no such file, or damaged.
        OSError: it cannot be read.
    """
    try:
        with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:  # type: ignore[call-overload]
            for member in archive:
                archive.members = []  # tarfile would keep every header in memory
                if member.size < 0:  # the next header would be this one, or one before it
                    raise tarfile.ReadError(f"a member has {member.size} bytes")
                yield member
    except (ValueError, OverflowError, EOFError, RecursionError) as error:
        raise tarfile.ReadError(f"a header is damaged ({error})") from error


class _Headers:
    """A file of which tarfile reads no more at once than a header."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header has {size} bytes, more than the {MAX_HEADER_BYTES} that are read")
        return self._file.read(size)
