from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines import devices
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.onnxruntime import OnnxRuntimeEngine
from ghostzoo.errors import EngineUnavailableError, OptionError


def test_session_options_pass_through(tiny_bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "optimised.onnx"
    options = {
        "optimized_model_filepath": str(target),
        "graph_optimization_level": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "session.intra_op.allow_spinning": "0",
    }
    with OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(threads=1, engine_options=options)) as engine:
        engine.run(np.zeros((1, 3, 64, 64), np.float32))
        given = engine._session.get_session_options()
    assert given.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert target.stat().st_size > 0


def test_a_wrong_type_of_option_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="intra_op_num_threads"):
        OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(engine_options={"intra_op_num_threads": "many"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu:1"}, r"no device 'cpu:1'; a number, as in 'cuda:1', goes with"),
        ({"device": "cuda:x"}, r"no device 'cuda:x'; a number"),
        ({"device": "azure"}, r"no device 'azure'"),
        ({"threads": 1, "engine_options": {"intra_op_num_threads": 1}}, r"mean the same; give one of them"),
        ({"engine_options": {"provider_options": {"device_id": 1}}}, r"CPU takes no provider_options; leave device_id"),
        ({"engine_options": {"inter_op_num_thread": 1}}, r"no engine option .* Did you mean inter_op_num_threads"),
    ],
)
def test_what_it_cannot_honour_is_refused(tiny_bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(**options))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_cuda_without_cuda_is_an_error_and_no_fallback(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: True)
    with pytest.raises(EngineUnavailableError, match="onnxruntime-gpu"):
        OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(device="cuda:0"))
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: False)
    with pytest.raises(EngineUnavailableError, match="no NVIDIA GPU was found on this machine"):
        OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(device="cuda:0"))


def test_the_library_says_nothing_of_its_own(tiny_bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    with OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(threads=1)) as engine:
        engine.run(np.zeros((1, 3, 64, 64), np.float32))
    assert capfd.readouterr() == ("", "")


def test_threads_are_those_asked_for(tiny_bundle: Bundle) -> None:
    with OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(threads=2)) as engine:
        assert engine.describe()["threads"] == 2
        assert engine._session.get_session_options().intra_op_num_threads == 2


def test_the_prepared_graph_is_bit_equal_and_remade_when_damaged(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path))
    batch = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)

    def logits() -> np.ndarray:
        with OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(threads=1)) as engine:
            return engine.run(batch)

    first = logits()
    (kept,) = (path for path in (tmp_path / "onnxruntime").iterdir() if path.suffix != ".lock")
    written = kept.stat().st_ino
    np.testing.assert_array_equal(logits(), first)
    assert kept.stat().st_ino == written
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    np.testing.assert_array_equal(logits(), first)
    assert kept.stat().st_ino != written
    np.testing.assert_array_equal(logits(), first)
