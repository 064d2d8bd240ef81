from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporters.paddle_archive import ProgramRoute, archive_to_onnx, read_archive, weights_of_archive
from exporters.routes import onnx_route
from ghostzoo.errors import ParityError, WeightsError
from ghostzoo.network.reference import reference_forward
from ghostzoo.parity import compare_logits
from ghostzoo.weights.params import read_weights

pytestmark = pytest.mark.slow


def test_weights_and_answers_come_back(archive: Path, weights: Path) -> None:
    content = read_archive(archive)
    assert content.program.activation == "softmax"
    graph = archive_to_onnx(content)
    expected = read_weights(weights)
    found = weights_of_archive(content, graph)
    assert found.architecture.num_classes == 1000
    for key, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], array, err_msg=key)
    pixel_values = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    logits, _ = reference_forward(expected.arrays, expected.architecture, pixel_values)
    program = ProgramRoute(content)
    assert compare_logits(logits, program(pixel_values)).within(1e-5)
    assert compare_logits(logits, onnx_route(graph)(pixel_values)).within(1e-5)
    assert 0 < program.activation_difference < 1e-6


def test_a_program_cut_in_the_wrong_place_is_not_believed(archive: Path) -> None:
    content = read_archive(archive)
    whole = replace(content, program=replace(content.program, cut=content.program.whole, whole=content.program.cut))
    with pytest.raises(ParityError, match="differ by"):
        ProgramRoute(whole)(np.zeros((1, 3, 224, 224), np.float32))


def member(name: str, data: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


GOOD = [member("m/inference.json"), member("m/inference.pdiparams")]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "neither"),
        (GOOD[:1], "inference.json"),
        ([*GOOD, member("inference.pdmodel")], "one of"),
        ([*GOOD, member("other/inference.json")], "twice"),
        ([GOOD[0], member("inference.pdiparams", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "link"),
        ([GOOD[0], member("inference.pdiparams", b"", type=tarfile.LNKTYPE, linkname="x")], "link"),
        ([GOOD[0], member("inference.pdiparams", b"", type=tarfile.FIFOTYPE)], "special"),
        ([member(f"junk{index}") for index in range(100)], "more than"),
    ],
    ids=["empty", "no weights", "two programs", "twice", "symlink", "hard link", "pipe", "many members"],
)
def test_a_strange_archive_is_refused(
    members: list[tuple[tarfile.TarInfo, bytes]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "strange.tar"
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(WeightsError, match=message) as caught:
        read_archive(path)
    assert str(path) in str(caught.value)


def test_paths_in_the_archive_lead_nowhere(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "inner" / "x.tar"
    path.parent.mkdir()
    with tarfile.open(archive) as original, tarfile.open(path, "w") as tar:
        for info in original.getmembers():
            info.name = f"../../{Path(info.name).name}"
            tar.addfile(info, original.extractfile(info))
    content = read_archive(path)
    assert weights_of_archive(content, archive_to_onnx(content)).architecture.num_classes == 1000
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_damaged_weights_are_refused(place: str, archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.tar"
    with tarfile.open(archive) as original, tarfile.open(path, "w") as tar:
        for info in original.getmembers():
            file = original.extractfile(info)
            assert file is not None
            data = file.read()
            if info.name.endswith(".pdiparams"):
                position = {"start": 0, "middle": 16, "end": len(data) - 1}[place]
                data = data[:-1] if place == "end" else data[:position] + b"\xff" * 8 + data[position + 8 :]
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(WeightsError, match=r"damaged\.tar: its weights are damaged"):
        read_archive(path)


def lying_size(path: Path) -> None:
    info = tarfile.TarInfo("inference.json")
    info.size = 2**40
    path.write_bytes(info.tobuf())


def truncated(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        info, data = member("inference.json", b"x" * 100_000)
        tar.addfile(info, io.BytesIO(data))
    path.write_bytes(path.read_bytes()[:5_000])


@pytest.mark.parametrize(
    "write",
    [
        lying_size,
        truncated,
        lambda path: path.write_bytes(b"no tar" * 1000),
        lambda path: path.write_bytes(gzip.compress(b"\0" * 10_000_000)),
        lambda path: None,
        lambda path: path.mkdir(),
    ],
    ids=["lying size", "truncated", "no tar", "compressed", "missing", "folder"],
)
def test_a_damaged_archive_is_refused(write: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "damaged.tar"
    write(path)
    with pytest.raises(WeightsError, match=r"damaged\.tar"):
        read_archive(path)


def test_a_program_that_is_no_ghostnet_is_refused(archive: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "other",
        [value("x", TensorProto.FLOAT, [1, 2])],
        [value("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")],
    )
    model = onnx.helper.make_model(graph).SerializeToString()
    with pytest.raises(WeightsError, match="is not a GhostNet"):
        weights_of_archive(read_archive(archive), model)
