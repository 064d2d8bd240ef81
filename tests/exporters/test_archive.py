from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exporters.archive import archive_to_onnx, ends_in_softmax, read_archive, run_archive, weights_of_archive
from exporters.compare import log_probabilities, log_softmax
from ghostzoo.errors import WeightsError
from ghostzoo.params import read_weights
from ghostzoo.parity import compare_logits
from ghostzoo.reference import reference_forward


def test_weights_and_answers_come_back(archive: Path, weights: Path) -> None:
    content = read_archive(archive)
    program = archive_to_onnx(content)
    assert ends_in_softmax(program)
    expected = read_weights(weights)
    found = weights_of_archive(content, program)
    assert found.architecture.num_classes == 1000
    for key, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], array, err_msg=key)
    pixel_values = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    probabilities = run_archive(content, pixel_values)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    logits, _ = reference_forward(expected.arrays, expected.architecture, pixel_values)
    assert compare_logits(log_probabilities(probabilities), log_softmax(logits)).within(1e-5)


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


def test_paths_in_the_archive_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("../../inference.json", "/inference.pdiparams"):
            info, data = member(name, b"data")
            tar.addfile(info, io.BytesIO(data))
    content = read_archive(path)
    program, params = content.write(tmp_path)
    assert (program.parent, params.parent) == (tmp_path, tmp_path)
    assert program.read_bytes() == b"data"


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
    with pytest.raises(WeightsError, match="no GhostNet"):
        weights_of_archive(read_archive(archive), model)
