"""Tar and list files that lie or explode are one sentence, and cost little."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest

from tests.fixtures.limited import run_limited

OPEN = """
import sys
from ghostzoo.errors import InputError
from ghostzoo.evaluation.datasets import open_dataset
try:
    open_dataset(sys.argv[1], labelled=False)
except InputError as error:
    print(error)
"""


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header in the GNU format that claims any size."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"%011o\0" % size if size >= 0 else b"\xff" + (size % 2**88).to_bytes(11, "big")
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)
LONG_NAME = header("././@LongLink", 0, tarfile.GNUTYPE_LONGNAME)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(header("a.png", 0) + header("x.txt", -1024) + END, id="a size below zero"),
        pytest.param(header("././@LongLink", -1024, tarfile.GNUTYPE_LONGNAME) + END, id="a name of less than no bytes"),
        pytest.param(LONG_NAME * 20_000, id="names of names"),
        pytest.param(header("x", 300_032, tarfile.XHDTYPE) + b"1" * 300_032 + header("a.png", 0) + END, id="digits"),
        pytest.param(
            header("x", 512, tarfile.XHDTYPE) + b"30 GNU.sparse.map=a,b,c,d,e\n".ljust(512) + header("a.png", 0) + END,
            id="a map of no numbers",
        ),
    ],
)
def test_a_hostile_tar_is_refused_for_little(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photos.tar"
    path.write_bytes(data)
    ended = run_limited(OPEN, path, memory_mb=2048, seconds=30)
    assert (ended.returncode, ended.stderr) == (0, "")
    # The first Pythons 3.11 say less of a damaged map.
    assert re.match(rf"{path} is not a readable, uncompressed tar file: (a |invalid header)", ended.stdout)
    assert ended.stdout.count("\n") == 1


def test_a_list_file_of_one_endless_line_is_refused_for_little(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse
    ended = run_limited(OPEN, path, memory_mb=2048, seconds=30)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "has a line of more than" in ended.stdout


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_honest_tars_of_every_format_are_read(layout: int, tmp_path: Path) -> None:
    from ghostzoo.evaluation.datasets import open_dataset

    names = [f"{'folder/' * 20}photo.png", "cat/\u732b.png", "cat/b.png"]
    (tmp_path / "photo.png").write_bytes(b"pixels")
    with tarfile.open(tmp_path / "photos.tar", "w", format=layout) as tar:
        for name in names:
            tar.add(tmp_path / "photo.png", name)
    dataset = open_dataset(tmp_path / "photos.tar", labelled=False)
    assert sorted(sample.name for sample in dataset.samples) == sorted(names)
    assert all(sample.read() == b"pixels" for sample in dataset.samples)
