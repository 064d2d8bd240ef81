"""precision="bf16": a float32 graph in bfloat16, where the CPU has it, and refused in one sentence elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

import ghostzoo
from ghostzoo._utils.hardware import cpu_features
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines import engine_names, engine_record
from ghostzoo.engines.base import Engine, EngineOptions
from ghostzoo.errors import EngineUnavailableError, GhostZooError, OptionError

OPTIONS = EngineOptions(precision="bf16", threads=1)


@pytest.fixture(params=[name for name in engine_names() if "bf16" in engine_record(name).makes])
def engine_type(request: pytest.FixtureRequest) -> type[Engine]:
    if not engine_record(request.param).versions():
        pytest.skip(
            f"{request.param} is not installed here; 'make native' builds native, the extra openvino has openvino"
        )
    return engine_record(request.param).load_class()


def test_bf16_agrees_with_the_golden_logits(engine_type: type[Engine], tiny_bundle: Bundle) -> None:
    if "avx512_bf16" not in cpu_features():
        with pytest.raises(EngineUnavailableError, match=r"bf16|bfloat16"):
            engine_type.load(tiny_bundle, OPTIONS)
        pytest.skip("this CPU has no AVX512-BF16; that it is refused was checked")
    golden = tiny_bundle.golden()
    with engine_type.load(tiny_bundle, OPTIONS) as engine:
        agreement = golden.require(engine.run, "bf16", engine.name)
        assert engine.describe()["computes_in"] in ("bf16", "bfloat16")
        assert agreement.relative > 1e-4  # else it computed in float32
        with engine_type.load(tiny_bundle, EngineOptions(threads=1)) as exact:
            batch = (
                np.random.default_rng(0).normal(size=(5, 3, *[tiny_bundle.config.image_size] * 2)).astype(np.float32)
            )
            for output in ("logits", "embedding"):
                expected = exact.run(batch, output)
                np.testing.assert_allclose(engine.run(batch, output), expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("name", [name for name in engine_names() if "bf16" not in engine_record(name).makes])
def test_other_engines_refuse_bf16(name: str, tiny_bundle: Bundle) -> None:
    if not engine_record(name).versions():
        pytest.skip(f"{name} is not installed here; 'make test-all' runs the engines in the environments they need")
    with pytest.raises(GhostZooError, match=r"bf16|has no files for|finds no|no NVIDIA"):
        engine_record(name).load_class().load(tiny_bundle, EngineOptions(precision="bf16"))


def test_instructions_without_bf16_refuse_it(tiny_bundle: Bundle) -> None:
    pytest.importorskip("ghostzoo_native", reason="ghostzoo-native is not installed here; 'make native' builds it")
    options = EngineOptions(precision="bf16", engine_options={"instructions": "generic"})
    with pytest.raises(
        EngineUnavailableError, match=r"^Precision bf16 needs AVX512-BF16, which generic has not; use fp32.$"
    ):
        engine_record("native").load_class().load(tiny_bundle, options)


def test_selection_takes_an_engine_that_has_bf16(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    if "avx512_bf16" not in cpu_features():
        pytest.skip("this CPU has no AVX512-BF16")
    if not any(engine_record(name).versions() for name in ("native", "openvino")):
        pytest.skip("neither ghostzoo-native nor openvino is installed here")
    monkeypatch.delenv("GHOSTZOO_ENGINE", raising=False)
    with ghostzoo.load(tiny_bundle.path, engine="auto", precision="bf16") as classifier:
        assert classifier.engine.name in ("native", "openvino")


def test_a_wrong_name_is_told_the_right_one() -> None:
    with pytest.raises(OptionError, match=r"bf16"):
        EngineOptions(precision="bfloat16")
