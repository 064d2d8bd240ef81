"""Official weight files: what fits is read exactly, and all that does not fit is said at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostzoo.errors import WeightsError
from ghostzoo.network.architecture import Architecture
from ghostzoo.weights.params import check_weights, infer_architecture, read_weights
from ghostzoo.weights.recognition import shorten
from tests.fixtures.networks import random_arrays, write_weights

TINY = Architecture.of(0.1, 3)


def tiny_arrays() -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    return random_arrays(TINY)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_reads_exactly(tmp_path: Path, protocol: int) -> None:
    arrays = tiny_arrays()
    path = write_weights(tmp_path / "weights.pdparams", arrays, protocol)
    weights = read_weights(path, width=0.1, num_classes=3)
    assert set(weights.arrays) == set(arrays)
    for key, array in arrays.items():
        assert weights.arrays[key].dtype == np.float32
        np.testing.assert_array_equal(weights.arrays[key], array)
    assert weights.architecture.blocks == TINY.blocks
    assert weights.file_name == "weights.pdparams"
    assert weights.size == path.stat().st_size
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("protocol", [2, 3])
def test_numpy_1_files_read_the_same(tmp_path: Path, protocol: int) -> None:
    arrays = tiny_arrays()
    path = write_weights(tmp_path / "weights.pdparams", arrays, protocol)
    data = path.read_bytes()
    assert b"numpy._core.multiarray" in data or b"numpy.core.multiarray" in data
    path.write_bytes(data.replace(b"numpy._core.", b"numpy.core."))
    read = read_weights(path).arrays
    assert all(np.array_equal(read[key], array) for key, array in arrays.items())


def test_pairs_and_an_ordered_dict_read_the_same(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    path = tmp_path / "weights.pdparams"
    path.write_bytes(pickle.dumps(OrderedDict((key, (f"p_{key}", array)) for key, array in arrays.items()), 2))
    read = read_weights(path).arrays
    assert all(np.array_equal(read[key], array) for key, array in arrays.items())


def test_other_floats_and_orders_become_float32(tmp_path: Path) -> None:
    arrays: dict[str, Any] = dict(tiny_arrays())
    expected = {key: np.asarray(array, np.float16).astype(np.float32) for key, array in arrays.items()}
    kinds = [np.float16, np.float64, ">f4", ">f8"]
    for index, key in enumerate(arrays):
        arrays[key] = np.asfortranarray(expected[key].astype(kinds[index % 4]))
    read = read_weights(write_weights(tmp_path / "w.pdparams", arrays)).arrays
    for key, array in expected.items():
        assert read[key].dtype == np.dtype("<f4")
        assert read[key].flags.c_contiguous
        np.testing.assert_array_equal(read[key], array)


# Width and classes


def shapes_only(architecture: Architecture) -> dict[str, Any]:
    """Arrays of the right shapes that take no memory."""
    return {key: np.broadcast_to(np.float32(1), shape) for key, shape in architecture.state_shapes().items()}


@pytest.mark.parametrize("num_classes", [1, 2, 1000])
@pytest.mark.parametrize(
    "width", [0.1, 0.2, 0.25, 0.35, 0.5, 0.6, 0.75, 0.9, 1.0, 1.1, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0, 4.0]
)
def test_usual_widths_are_told_by_the_shapes(width: float, num_classes: int) -> None:
    inferred = infer_architecture(shapes_only(Architecture.of(width, num_classes)))
    assert inferred.state_shapes() == Architecture.of(width, num_classes).state_shapes()
    assert inferred.num_classes == num_classes
    if width in (0.1, 0.5, 1.0, 1.3, 2.0):
        assert inferred.width == width


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 3000))
def test_any_width_is_told_by_the_shapes(thousandths: int) -> None:
    architecture = Architecture.of(thousandths / 1000, 10)
    inferred = infer_architecture(shapes_only(architecture))
    assert inferred.blocks == architecture.blocks
    check_weights(shapes_only(architecture), inferred)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.02, 3.0))
def test_widths_of_many_digits_are_told_by_the_shapes(width: float) -> None:
    architecture = Architecture.of(width, 10)
    assert infer_architecture(shapes_only(architecture)).state_shapes() == architecture.state_shapes()


def test_wrong_expectations_are_named(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.pdparams", tiny_arrays())
    with pytest.raises(WeightsError, match=r"weights\.pdparams.*width 0\.1, not 0\.5"):
        read_weights(path, width=0.5)
    with pytest.raises(WeightsError, match=r"3 classes, not 1000"):
        read_weights(path, num_classes=1000)


# What does not fit


def test_all_misfits_are_reported_at_once(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    del arrays["conv1._batch_norm.bias"]
    arrays["surplus.weight"] = np.zeros(3, np.float32)
    arrays["fc_0._batch_norm.weight"] = np.ones(7, np.float32)
    arrays["conv1._conv.weight"] = np.full_like(arrays["conv1._conv.weight"], np.nan)
    arrays["fc_0._batch_norm._variance"] = -arrays["fc_0._batch_norm._variance"]
    with pytest.raises(WeightsError) as error:
        read_weights(write_weights(tmp_path / "weights.pdparams", arrays))
    message = str(error.value)
    for part in (
        "weights.pdparams",
        "1 missing: conv1._batch_norm.bias",
        "1 unexpected: surplus.weight",
        "1 mis-shaped: fc_0._batch_norm.weight (7,) instead of (1280,)",
        "2 not finite: conv1._conv.weight, fc_0._batch_norm._variance below zero",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["fc_1.bias", "_ghostbottleneck_3.se_block.squeeze.weight"])
def test_one_number_that_is_not_finite_is_found(tmp_path: Path, key: str, value: float) -> None:
    arrays = tiny_arrays()
    arrays[key].flat[-1] = value
    with pytest.raises(WeightsError, match=key):
        read_weights(write_weights(tmp_path / "weights.pdparams", arrays))


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_number_beyond_float32_is_found(tmp_path: Path) -> None:
    arrays: dict[str, Any] = dict(tiny_arrays())
    arrays["fc_1.bias"] = np.array([0, 1e300, 0])
    with pytest.raises(WeightsError, match=r"1 not finite: fc_1\.bias"):
        read_weights(write_weights(tmp_path / "weights.pdparams", arrays))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"_ghostbottleneck_0.ghost_module_1.primary_conv._conv.weight": np.zeros((9, 4, 1, 1))}, "mis-shaped"),
        ({"_ghostbottleneck_7.ghost_module_2.cheap_operation._conv.weight": np.zeros(())}, "mis-shaped"),
        ({"fc_1.weight": np.zeros(5)}, r"fc_1\.weight \(2-D\)"),
        ({"conv_last._conv.weight": np.zeros((0, 4, 1, 1))}, "0 channels"),
        ({"conv_last._conv.weight": np.zeros((2**40, 0, 1, 1))}, "channels in conv_last"),
        ({"conv_last._conv.weight": np.zeros((97, 4, 1, 1))}, "97 channels in conv_last"),
        ({"fc_1.weight": np.zeros((1280, 0))}, "mis-shaped"),
        ({"fc_1.weight": np.zeros((0, 2**40))}, "mis-shaped"),
        ({"fc_1.bias": np.zeros(3, np.int64)}, r"fc_1\.bias \(int64\)"),
        ({"fc_1.bias": "text"}, r"fc_1\.bias \(str\)"),
        ({"epoch": 5}, r"epoch \(int\)"),
        ({"optimizer": {"lr": 0.1}}, r"optimizer \(dict\)"),
    ],
)
def test_misfits_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(WeightsError, match=named):
        read_weights(write_weights(tmp_path / "weights.pdparams", {**tiny_arrays(), **change}))


@pytest.mark.parametrize("content", [[], None, 5, np.zeros(3, np.float32), {}, {"a": np.zeros(3, np.float32)}, ()])
def test_files_of_something_else_are_no_weights(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pdparams"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"weights\.pdparams"):
        read_weights(path)


def test_many_misfits_are_counted_not_listed(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    arrays |= {f"surplus.{index}": np.zeros(1, np.float32) for index in range(500)}
    with pytest.raises(WeightsError, match=r"500 unexpected: .*and 490 more") as error:
        read_weights(write_weights(tmp_path / "weights.pdparams", arrays))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("key", ["a" * 5_000_000, "\x1b[31mred", "two\nlines", "\ud800"])
@pytest.mark.parametrize("value", [np.zeros(1, np.float32), "text"])
def test_keys_cannot_flood_or_steer_a_terminal(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(WeightsError) as error:
        read_weights(write_weights(tmp_path / "weights.pdparams", {**tiny_arrays(), key: value}))
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()


# Files


def test_code_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.pdparams"
    path.write_bytes(f"}}S'key'\ncos\nsystem\n(S'touch {tmp_path}/ran'\ntRs.".encode())
    with pytest.raises(WeightsError, match=r"weights\.pdparams is refused.*os\.system.*Nothing in it was executed"):
        read_weights(path)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pdparams"]


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.pdparams", tiny_arrays())
    data = path.read_bytes()
    for length in [*range(60), *np.linspace(60, len(data) - 1, 60).astype(int)]:
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"weights\.pdparams"):
            read_weights(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_changed_bytes_give_weights_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("mutated") / "weights.pdparams"
    content = bytearray(pickle.dumps(tiny_arrays(), 2))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(WeightsError):
        read_weights(path)


def test_an_oversized_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pdparams"
    with path.open("wb") as file:
        file.truncate(2**33)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=str(2**33)):
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    small = write_weights(tmp_path / "small.pdparams", tiny_arrays())
    with pytest.raises(WeightsError, match="1000"):
        read_weights(small, max_bytes=1000)
    read_weights(small, max_bytes=small.stat().st_size)


@pytest.mark.parametrize(
    "value", [np.zeros(300_000, np.float16), np.zeros(150_000, ">f4"), np.zeros((500, 300), order="F")]
)
def test_one_array_under_many_keys_takes_no_memory(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "weights.pdparams"
    path.write_bytes(pickle.dumps({f"key{index}": value for index in range(2000)}, 4))
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match="larger than the file"):
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "missing.pdparams", "pipe", "nul\0l"):
        with pytest.raises(WeightsError, match=r"no weight file|not a weight file"):
            read_weights(tmp_path / name)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads files without permission")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.pdparams", tiny_arrays())
    path.chmod(0)
    with pytest.raises(WeightsError, match=r"weights\.pdparams cannot be read"):
        read_weights(path)


def test_a_file_that_fails_while_it_is_read_is_named() -> None:
    path = Path("/proc/self/mem")
    if not path.exists():
        pytest.skip("there is no /proc/self/mem, a file whose first read fails")
    with pytest.raises(WeightsError, match=r"/proc/self/mem cannot be read"):
        read_weights(path)


def test_names_of_files_are_any_unicode(tmp_path: Path) -> None:
    assert read_weights(write_weights(tmp_path / "幽灵 ü.pdparams", tiny_arrays())).file_name == "幽灵 ü.pdparams"
    odd = tmp_path / os.fsdecode(b"odd\xff.pdparams")
    read_weights(write_weights(odd, tiny_arrays())).file_name.encode()  # can stand in a document


@pytest.mark.parametrize(("name", "width"), [("x0_5", 0.5), ("x1_0", 1.0), ("x1_3", 1.3)])
def test_reference_weights_read(shared: Path, name: str, width: float) -> None:
    path = shared / "reference" / f"GhostNet_{name}_pretrained.pdparams"
    weights = read_weights(path, width=width, num_classes=1000)
    assert weights.architecture.width == width
    assert all(array.dtype == np.float32 for array in weights.arrays.values())


def test_a_message_lists_a_few_keys_and_counts_the_others() -> None:
    assert shorten(["a", "b"]) == "a, b"
    assert shorten([]) == "nothing"
    many = [f"key{number}" for number in range(100)]
    assert shorten(many) == f"{', '.join(many[:10])} and 90 more"
