"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary name beside ``path`` and rename it; an older file is replaced only then.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
    """
    import secrets

    scratch = path.with_name(f".{path.name}-{secrets.token_hex(6)}.tmp")
    try:
        with scratch.open("xb") as file:
            file.write(data)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
