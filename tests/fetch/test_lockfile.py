from __future__ import annotations

from pathlib import Path

import pytest

from ghostzoo.catalog import list_models
from ghostzoo.errors import BundleError
from ghostzoo.fetch.lockfile import Pin, read_lock, write_lock

PIN = Pin("owner/GhostNet_x1_0", "0123456789" * 4, "0f" * 32)


def test_the_package_pins_only_what_the_catalog_knows() -> None:
    assert set(read_lock()) <= set(list_models())


def test_what_is_written_is_read_and_equal_pins_give_equal_bytes(tmp_path: Path) -> None:
    lock = tmp_path / "hub.lock.json"
    write_lock({"b": PIN, "a": PIN}, lock)
    assert read_lock(lock) == {"a": PIN, "b": PIN}
    first = lock.read_bytes()
    write_lock({"a": PIN, "b": PIN}, lock)
    assert lock.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["hub.lock.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"a": 1}',
        b'{"a": {"repo": "o/r", "commit": "main", "manifest_sha256": "x"}}',
        b'{"a": {"repo": "../r", "commit": "' + b"0" * 40 + b'", "manifest_sha256": "' + b"0" * 64 + b'"}}',
        b'{"a": {"repo": "o/r", "commit": "' + b"0" * 40 + b'", "manifest_sha256": 7}}',
    ],
)
def test_a_damaged_lock_file_is_refused(tmp_path: Path, content: bytes) -> None:
    lock = tmp_path / "hub.lock.json"
    lock.write_bytes(content)
    with pytest.raises(BundleError, match=r"hub\.lock\.json"):
        read_lock(lock)


def test_a_pin_is_a_commit_and_a_hash() -> None:
    with pytest.raises(BundleError, match="'main'"):
        Pin(PIN.repo, "main", PIN.manifest_sha256)
