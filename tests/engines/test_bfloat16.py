"""precision="bf16" of the native engine; what all engines do with it is in ``test_contract.py``."""

from __future__ import annotations

import numpy as np
import pytest

from ghostzoo._utils.hardware import cpu_features
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines.base import OUTPUTS, EngineOptions
from ghostzoo.errors import EngineUnavailableError, OptionError

pytest.importorskip("ghostzoo_native", reason="ghostzoo-native is not installed here; 'make native' builds it")

from ghostzoo.engines.native import NativeEngine

BF16 = EngineOptions(precision="bf16", threads=1)


def test_both_outputs_are_those_of_float32(tiny_bundle: Bundle) -> None:
    if "avx512_bf16" not in cpu_features():
        with pytest.raises(EngineUnavailableError, match=r"^Precision bf16 needs AVX512-BF16, which .*; use fp32\.$"):
            NativeEngine.load(tiny_bundle, BF16)
        pytest.skip("this CPU has no AVX512-BF16; that it is refused was checked")
    size = tiny_bundle.config.image_size
    batch = np.random.default_rng(0).normal(size=(5, 3, size, size)).astype(np.float32)
    with (
        NativeEngine.load(tiny_bundle, BF16) as engine,
        NativeEngine.load(tiny_bundle, EngineOptions(threads=1)) as exact,
    ):
        assert engine.describe()["computes_in"] == "bf16"
        for output in OUTPUTS:
            expected = exact.run(batch, output)
            np.testing.assert_allclose(engine.run(batch, output), expected, atol=0.05 * np.abs(expected).max())


def test_instructions_without_bf16_refuse_it(tiny_bundle: Bundle) -> None:
    options = EngineOptions(precision="bf16", engine_options={"instructions": "generic"})
    sentence = r"^Precision bf16 needs AVX512-BF16, which generic has not; use fp32\.$"
    with pytest.raises(EngineUnavailableError, match=sentence):
        NativeEngine.load(tiny_bundle, options)


def test_a_wrong_name_is_told_the_right_one() -> None:
    with pytest.raises(OptionError, match="bf16"):
        EngineOptions(precision="bfloat16")
