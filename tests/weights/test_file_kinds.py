"""What is passed by mistake as weights is called by its name, with what to do; its name does not matter."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ghostzoo.errors import WeightsError
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.graph import build_graph
from ghostzoo.weights.params import read_weights
from tests.fixtures.networks import random_arrays, write_weights

SMALL = Architecture.of(0.1, 3)


def tar(layout: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=layout) as archive:
        member = tarfile.TarInfo("GhostNet_x1_0_infer/inference.pdiparams")
        member.size = 10
        archive.addfile(member, io.BytesIO(bytes(10)))
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return stream.getvalue()


def numpy_file() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


TENSOR = b"\x08\x05\x10\x04\x10\x03"
"""A tensor's description in Paddle's files: float32, 4 x 3."""
PDIPARAMS = struct.pack("<IQIi", 0, 0, 0, len(TENSOR)) + TENSOR + bytes(48)
BLOCK = b"\x08\x00\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"\x1a\x05hello" * 30
PDMODEL = b"\x0a" + bytes([0x80 | len(BLOCK) & 127, len(BLOCK) >> 7]) + BLOCK
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00."

KINDS: dict[str, tuple[bytes, str]] = {
    "web page": (b"<!DOCTYPE html><html><title>404 Not Found</title></html>", "a web page.*check the address"),
    "web page after a mark and blanks": (b"\xef\xbb\xbf\r\n  <HTML lang=en>", "a web page"),
    "a server's error": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "a server's error"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 20972160\n",
        "a Git LFS pointer.*git lfs pull",
    ),
    "one line": (b"404: Not Found", r"a text that begins '404: Not Found'"),
    "text": ("Ungültiger Name.\nNoch einmal.\n".encode(), r"a text that begins 'Ung.*Name\.'"),
    "JSON": (b'{"error":"Repository not found"}', "a JSON document"),
    "Paddle 3's program": (json.dumps({"base_code": {"magic": "pir"}, "program": {}}).encode(), "a program of an exp"),
    "pdmodel": (PDMODEL, r"a program \(\.pdmodel\) of an exported inference model; use the training weights"),
    "pdiparams": (PDIPARAMS, r"the weights \(\.pdiparams\) of an exported inference model; use the training weights"),
    "ONNX": (
        build_graph(random_arrays(SMALL), SMALL, model_name="small", weights_sha256="0" * 64, image_size=32),
        "an ONNX model already",
    ),
    "GNU tar": (tar(tarfile.GNU_FORMAT), "a tar archive, .*export --archive"),
    "pax tar": (tar(tarfile.PAX_FORMAT), "a tar archive"),
    "ustar": (tar(tarfile.USTAR_FORMAT), "a tar archive"),
    "pth": (zipped("model/data.pkl", "model/data/0"), "a PyTorch checkpoint, which is not unpickled; .*save_file"),
    "pth of another order": (zipped("archive/.format_version", "archive/data.pkl"), "a PyTorch checkpoint"),
    "TorchScript": (zipped("jit/data/0", "jit/data.pkl"), "a PyTorch checkpoint"),
    "old pth": (OLD_TORCH, "a PyTorch checkpoint"),
    "zip": (zipped("GhostNet_x1_0_pretrained.pdparams"), "a zip archive; unpack it"),
    "empty zip": (zipped(), "a zip archive"),
    "gzip": (gzip.compress(b"weights"), "compressed by gzip; unpack it"),
    "bzip2": (bz2.compress(b"weights"), "compressed by bzip2"),
    "xz": (lzma.compress(b"weights"), "compressed by xz"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00", "compressed by zstd"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
    "RAR": (b"Rar!\x1a\x07\x01\0", "a RAR archive"),
    "npy": (numpy_file(), "a numpy array"),
    "HDF5": (b"\x89HDF\r\n\x1a\n\0\0", "an HDF5 file"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3\x14\0", "a TensorFlow Lite model"),
    "zeros": (bytes(100_000), "full of zeros, so its download did not finish"),
    "nothing": (b"", "empty, so its download did not finish"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["weights.pdparams", "weights.safetensors", "weights"])
def test_another_kind_of_file_is_called_by_its_name(kind: str, name: str, tmp_path: Path) -> None:
    data, expected = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(data)
    if name.endswith(".safetensors") and "a text that" in expected:
        expected = "not a readable safetensors file"
    with pytest.raises(WeightsError, match=expected) as error:
        read_weights(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("content", [{}, {"a": np.zeros(3, np.float32)}, [], {"version": 1}, (), 5, "text"])
def test_no_pickle_is_taken_for_another_kind(content: object, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.pdparams"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(WeightsError) as error:
        read_weights(path)
    assert "not a weight file: it is" not in str(error.value)


def test_damage_is_still_damage(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.pdparams", random_arrays(SMALL))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"is not a readable \.pdparams file: .*Download it again"):
        read_weights(path)


def test_a_file_without_suffix_is_read(tmp_path: Path) -> None:
    assert read_weights(write_weights(tmp_path / "best_model", random_arrays(SMALL))).architecture.num_classes == 3


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_a_name_whose_suffix_was_left_out_is_found(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"best_model{suffix}"
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"There is no weight file .*best_model; did you mean .*best_model\.\w+\?"):
        read_weights(tmp_path / "best_model")


def test_a_folder_is_said_with_the_weights_in_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is a folder, not a weight file; name a weight file .* there is none"):
        read_weights(tmp_path)
    for name in ("b.pdparams", "a.PDPARAMS", "c.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(WeightsError, match=r"name a file in it: a\.PDPARAMS, b\.pdparams, c\.safetensors\.$"):
        read_weights(tmp_path)
    for index in range(20):
        (tmp_path / f"{index}.pdparams").touch()
    with pytest.raises(WeightsError, match=r"name a file in it: 0\.pdparams, .* and 18 more\.$"):
        read_weights(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root lists folders without permission")
def test_a_folder_that_cannot_be_listed_is_one_error(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path)
