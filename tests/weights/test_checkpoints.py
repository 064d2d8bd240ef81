"""Checkpoints as training leaves them: prefixes, dicts around the weights, further networks, other number formats."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ghostzoo.errors import WeightsError
from ghostzoo.network.architecture import Architecture
from ghostzoo.weights.params import read_weights
from ghostzoo.weights.pickle_data import UnsafePickleError, load_pickle_data
from ghostzoo.weights.safetensors import BFLOAT16, to_float32
from tests.fixtures.checkpoints import bfloat16_bits, python2_pickle, safetensors, through_bfloat16
from tests.fixtures.networks import random_arrays

Arrays = dict[str, NDArray[np.float32]]
A: Arrays = random_arrays(Architecture.of(0.1, 3))
B: Arrays = random_arrays(Architecture.of(0.1, 5), seed=1)


def write(folder: Path, content: Any) -> Path:
    path = folder / "weights.pdparams"
    path.write_bytes(pickle.dumps(content, 4))
    return path


def prefixed(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in arrays.items()}


def assert_read(path: Path, expected: Arrays, **options: Any) -> str:
    weights = read_weights(path, **options)
    assert list(weights.arrays) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(weights.arrays[key], array)
        assert weights.arrays[key].dtype == np.float32
    return weights.prefix


# Numbers


def test_bfloat16_is_the_upper_half_of_a_float32() -> None:
    values = np.array([0, 1, -2.25, 3.3895314e38, 1e-40, np.inf, -np.inf, 1.0039062], np.float32)
    bits = np.array([0, 0x3F80, 0xC010, 0x7F7F, 0x0001, 0x7F80, 0xFF80, 0x3F80], np.uint16)
    expected = np.array([0, 1, -2.25, 3.3895314e38, 9.18355e-41, np.inf, -np.inf, 1], np.float32)
    np.testing.assert_array_equal(bfloat16_bits(values), bits)
    np.testing.assert_array_equal(to_float32(bits.view(BFLOAT16)), expected)
    assert np.isnan(to_float32(np.array([0x7FC0], np.uint16).view(BFLOAT16))).all()
    assert to_float32(np.array(0x3F80, np.uint16).view(BFLOAT16)).shape == ()


@pytest.mark.parametrize("all_of_them", [True, False], ids=["all", "all but batch-norm"])
def test_bfloat16_of_paddle_is_read(tmp_path: Path, all_of_them: bool) -> None:
    narrow = [key for key in A if all_of_them or "_batch_norm" not in key]
    stored: dict[str, Any] = {key: bfloat16_bits(array) if key in narrow else array for key, array in A.items()}
    assert_read(write(tmp_path, stored), {k: through_bfloat16(v) if k in narrow else v for k, v in A.items()})


def test_float16_is_read(tmp_path: Path) -> None:
    stored = {key: array.astype(np.float16) for key, array in A.items()}
    assert_read(write(tmp_path, stored), {key: array.astype(np.float32) for key, array in stored.items()})


def test_bfloat16_that_is_not_finite_is_named(tmp_path: Path) -> None:
    stored = {**A, "fc_1.bias": np.array([0, 0x7FC0, 0], np.uint16)}
    with pytest.raises(WeightsError, match=r"1 not finite: fc_1\.bias"):
        read_weights(write(tmp_path, stored))


# Prefixes

NAMES = {"StructuredToParameterName@@": {key: f"p_{key}" for key in A}}


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda a: prefixed("Student.", a), "Student."),
        (lambda a: prefixed("_layers.", a), "_layers."),
        (lambda a: prefixed("module.", a), "module."),
        (lambda a: prefixed("_layers.Student.", a), "_layers.Student."),
        (lambda a: {"model": a, "epoch": 7, "lr": 0.1}, "model."),
        (lambda a: {"state_dict": prefixed("module.", a), "optimizer": {"lr": 0.1}}, "state_dict.module."),
        (lambda a: {"ema": {"model": a}, "step": 3}, "ema.model."),
        (lambda a: {**prefixed("Student.", a), "Teacher.fc.weight": np.ones(3, np.float32), **NAMES}, "Student."),
        (lambda a: {"model": {key: (f"p_{key}", array) for key, array in a.items()} | NAMES}, "model."),
    ],
)  # fmt: skip
def test_the_only_network_is_taken_and_said(
    tmp_path: Path, wrap: Callable[[Any], Any], prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, wrap(A))
    with caplog.at_level(logging.WARNING, "ghostzoo"):
        assert assert_read(path, A) == prefix
    (message,) = caplog.messages
    assert f"using the network with the prefix '{prefix}'" in message
    assert str(path) in message
    caplog.clear()
    assert assert_read(path, A, prefix=prefix) == assert_read(path, A, prefix=prefix[:-1]) == prefix
    assert not caplog.messages


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_read(write(tmp_path, {"model": {**A, **NAMES}, "epoch": 7, "lr": 0.1, **NAMES}), A)
    assert caplog.messages[0].endswith("'model.'; 2 other entries are ignored.")
    caplog.clear()
    assert_read(write(tmp_path, {**prefixed("Student.", A), "head.w": np.ones(3, np.float32)}), A)
    assert caplog.messages[0].endswith("'Student.'; 1 other entry is ignored.")


def test_plain_weights_are_taken_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert assert_read(write(tmp_path, {**A, **NAMES}), A) == ""
    assert not caplog.messages


@pytest.mark.parametrize(
    ("content", "networks"),
    [
        ({**prefixed("Teacher.", A), **prefixed("Student.", B)}, {"Teacher.": A, "Student.": B}),
        ({"model": A, "ema": B, "epoch": 3}, {"model.": A, "ema.": B}),
        ({"state_dict": A, "state_dict_ema": prefixed("module.", B)}, {"state_dict.": A, "state_dict_ema.module.": B}),
        ({**A, **prefixed("Teacher.", B)}, {"": A, "Teacher.": B}),
        ({"model": prefixed("m.", A) | prefixed("m.ema.", B)}, {"model.m.": A, "model.m.ema.": B}),
    ],
)
def test_several_networks_are_listed_and_chosen(
    tmp_path: Path, content: dict[str, Any], networks: dict[str, Arrays]
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(WeightsError, match=r"holds 2 networks, .* choose one, as in 'ghostzoo") as error:
        read_weights(path)
    for prefix, arrays in networks.items():
        assert repr(prefix) in str(error.value)
        assert assert_read(path, arrays, prefix=prefix) == prefix
    with pytest.raises(WeightsError, match=r"no GhostNet with the prefix 'other\.'; its prefixes: '"):
        read_weights(path, prefix="other.")


def test_a_prefix_can_stand_in_a_document(tmp_path: Path) -> None:
    prefix = assert_read(write(tmp_path, prefixed("\ud800.", A)), A)
    assert prefix == r"\ud800."
    assert prefix.encode()


def test_a_prefix_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no GhostNet with the prefix 'Student'; its prefixes: ''"):
        read_weights(write(tmp_path, A), prefix="Student")
    with pytest.raises(WeightsError, match="its prefixes: none"):
        read_weights(write(tmp_path, {"epoch": 3}), prefix="Student")


def test_what_belongs_to_the_network_must_fit(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"1 unexpected: surplus"):
        read_weights(write(tmp_path, {"model": {**A, "surplus": np.ones(1, np.float32)}}))
    with pytest.raises(WeightsError, match=r"epoch \(int\)"):
        read_weights(write(tmp_path, {"model": {**A, "epoch": 3}}))


def test_the_state_of_an_optimizer_is_called_so(tmp_path: Path) -> None:
    moments = {"linear_0.w_0_moment1_0": np.ones(3, np.float32), "linear_0.w_0_beta1_pow_acc_0": np.ones(1, np.float32)}
    for content in ([moments], moments, {"w_0": np.ones(3, np.float32), "LR_Scheduler": {}}):
        with pytest.raises(WeightsError, match=r"optimizer's state"):
            read_weights(write(tmp_path, content))


def test_hostile_nesting_costs_little(tmp_path: Path) -> None:
    deep: dict[str, Any] = A
    for _ in range(100):
        deep = {"model": deep, "other": deep}
    with pytest.raises(WeightsError, match="not floating-point tensors"):
        read_weights(write(tmp_path, deep))
    with pytest.raises(WeightsError, match="not floating-point tensors"):
        read_weights(write(tmp_path, {f"dict{index}": {"a": 1} for index in range(20_000)} | {"last": A}))
    long = {"x" * 1_000_000 + ".fc_1.weight": A["fc_1.weight"], "y" * 1_000_000: A}
    with pytest.raises(WeightsError) as error:
        read_weights(write(tmp_path, {f"dict{index}": long for index in range(10)}))
    assert len(str(error.value)) < 1500


def test_a_prefix_has_up_to_two_hundred_characters(tmp_path: Path) -> None:
    assert read_weights(write(tmp_path, prefixed("x" * 180 + ".", A))).prefix == "x" * 180 + "."
    with pytest.raises(WeightsError, match=r"conv_last\._conv\.weight \(4-D\) are needed"):
        read_weights(write(tmp_path, prefixed("x" * 200 + ".", A)))


def test_many_networks_are_shortened(tmp_path: Path) -> None:
    one = {"fc_1.weight": np.ones((2, 2), np.float32)}
    content = {
        key: value for index in range(500) for key, value in prefixed(f"\x1b[31m{'n' * 150}{index}.", one).items()
    }
    with pytest.raises(WeightsError, match=r"holds 500 networks, .* and 492 more") as error:
        read_weights(write(tmp_path, content))
    assert len(str(error.value)) < 1500
    assert str(error.value).isprintable()


# Python 2


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pdparams"
    path.write_bytes(python2_pickle(A))
    assert set(pickle.loads(path.read_bytes(), encoding="bytes")) == {key.encode() for key in A}
    assert assert_read(path, A) == ""
    path.write_bytes(python2_pickle(prefixed("Student.", A)))
    assert assert_read(path, A) == "Student."


def test_byte_keys_and_names_are_text(tmp_path: Path) -> None:
    pairs: Any = {key: (key.encode(), array) for key, array in A.items()}
    assert assert_read(write(tmp_path, pairs), A) == ""
    assert load_pickle_data(b"\x80\x02}U\x02\xe9aK\x01s.") == {"\xe9a": 1}
    assert load_pickle_data(b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01eea\x85R.".replace(b"eea", b"ee")) == {
        "a": 1
    }


def test_one_long_byte_key_is_paid_for_each_time() -> None:
    key = b"\x80\x02(B" + (3_000_000).to_bytes(4, "little") + b"k" * 3_000_000 + b"q\x00"
    with pytest.raises(UnsafePickleError, match="than the file holds"):
        load_pickle_data(key + b"}" + b"h\x00Ns" * 1000 + b"l.")


# safetensors


@pytest.mark.parametrize("name", ["model.safetensors", "model.pdparams", "model"])
def test_safetensors_are_read_whatever_their_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(safetensors(A, metadata={"format": "pd"}))
    assert assert_read(path, A) == ""
    stored: dict[str, Any] = {key: bfloat16_bits(array) for key, array in A.items()}
    path.write_bytes(safetensors(stored, dict.fromkeys(stored, "BF16")))
    assert_read(path, {key: through_bfloat16(array) for key, array in A.items()})
    path.write_bytes(safetensors(prefixed("Student.", A)))
    assert assert_read(path, A) == "Student."


@pytest.mark.parametrize("start", [b"\x1f\x8b\1\0", b'{"\1\0', b"[[\1\0"])
def test_no_length_of_a_header_is_taken_for_a_kind(start: bytes, tmp_path: Path) -> None:
    data = safetensors(A)
    length = int.from_bytes(start, "little")
    header = data[8 : 8 + int.from_bytes(data[:8], "little")].rstrip()
    path = tmp_path / "model"
    body = data[8 + int.from_bytes(data[:8], "little") :]
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + body)
    assert len(header) <= length
    assert_read(path, A)


def test_integers_of_safetensors_are_no_bfloat16(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors({**A, "fc_1.bias": np.ones(3, np.uint16)}))
    with pytest.raises(WeightsError, match=r"fc_1\.bias \(uint16\)"):
        read_weights(path)
