"""What every engine promises; parametrised over all of them."""

from __future__ import annotations

import gc
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ghostzoo._utils.hardware import cpu_features
from ghostzoo.bundle.converted import CONVERTED_INT8_FILES
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import CONVERTED_FILES, MODEL_FILES, Bundle
from ghostzoo.engines import engine_class, engine_record
from ghostzoo.engines.base import Engine, EngineOptions
from ghostzoo.errors import BundleError, EngineError, EngineUnavailableError, OptionError, UnknownEngineError
from ghostzoo.parity import EXACT_TOLERANCE, compare_logits
from tests.fixtures import graphs

Options = Callable[..., EngineOptions]


def test_agrees_with_the_golden_vectors(engine_type: type[Engine], engine_bundle: Bundle, options: Options) -> None:
    golden = engine_bundle.golden()
    with engine_type.load(engine_bundle, options()) as engine:
        assert golden.check(engine.run).within(EXACT_TOLERANCE)
        embedding = engine.run(golden.pixel_values, "embedding")
    assert embedding.shape == (len(golden.pixel_values), 1280)
    assert compare_logits(golden.embedding, embedding).within(EXACT_TOLERANCE)


def test_bf16_is_computed_in_bfloat16_or_refused(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options
) -> None:
    if "bf16" not in engine_record(engine_type.name).makes:
        with pytest.raises(OptionError, match="bf16"):
            engine_type.load(engine_bundle, options(precision="bf16"))
        return
    golden = engine_bundle.golden()
    try:
        engine = engine_type.load(engine_bundle, options(precision="bf16"))
    except EngineUnavailableError:
        assert not {"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_features())
        return
    with engine:
        agreement = golden.require(engine.run, "bf16", engine.name)
    assert agreement.relative > EXACT_TOLERANCE  # it is not float32


@pytest.mark.slow
def test_int8_is_near_the_golden_vectors_or_refused(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options, tmp_path: Path
) -> None:
    pytest.importorskip("ml_dtypes", reason="quantising needs ml_dtypes, which is not installed here")
    from exporters.quantize import PLANS, to_int8

    graph = to_int8(engine_bundle.model(), PLANS[-1], lambda: iter(()))
    files = {MODEL_FILES["int8"]: graph}
    if engine_type.name in CONVERTED_INT8_FILES:
        from exporters.to_litert import convert_graph

        files = {CONVERTED_INT8_FILES[engine_type.name][0]: convert_graph(engine_bundle, graph)}
    bundle, wanted = graphs.with_files(engine_bundle, tmp_path / "int8", files), options(precision="int8")
    if engine_type.name not in (*CONVERTED_INT8_FILES, "onnxruntime", "openvino"):
        with pytest.raises(OptionError, match="int8"):
            engine_type.load(bundle, wanted)
        return
    golden = bundle.golden()
    with engine_type.load(bundle, wanted) as engine:
        agreement = golden.require(engine.run, "int8", engine.name)
        batch = np.concatenate([golden.pixel_values] * 2)
        assert engine.run(batch, "embedding").shape == (len(batch), 1280)
    assert agreement.relative > EXACT_TOLERANCE  # it is not float32


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.slow
def test_a_fixed_batch_size_takes_any_number_of_images(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options, count: int
) -> None:
    batch = np.random.default_rng(count).normal(size=(count, 3, 64, 64)).astype(np.float32)
    if engine_type.max_batch_size is not None:
        with pytest.raises(OptionError, match="leave batch_size out"):
            engine_type.load(engine_bundle, options(batch_size=engine_type.max_batch_size + 1))
    with engine_type.load(engine_bundle, options()) as engine:
        expected = engine.run(batch)
    with engine_type.load(engine_bundle, options(batch_size=engine_type.max_batch_size or 3)) as engine:
        actual = engine.run(batch)
    assert actual.shape == (count, engine_bundle.num_classes)
    assert compare_logits(expected, actual).within(EXACT_TOLERANCE)


def test_results_belong_to_the_caller(engine_type: type[Engine], engine_bundle: Bundle, options: Options) -> None:
    first, second = (np.full((1, 3, 64, 64), value, np.float32) for value in (0.0, 1.0))
    with engine_type.load(engine_bundle, options()) as engine:
        result = engine.run(first)
        assert result.flags.owndata  # memory of the library's goes back to it, and in a fork that may wait for ever
        kept = result.copy()
        other = engine.run(second)
        other[:] = np.nan
        np.testing.assert_array_equal(result, kept)
        np.testing.assert_array_equal(engine.run(first), kept)
    np.testing.assert_array_equal(result, kept)
    np.testing.assert_array_equal(first, 0)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((3, 64, 64), np.float32),
        np.zeros((1, 3, 64, 64), np.float64),
        np.zeros((0, 3, 64, 64), np.float32),
        np.zeros((1, 3, 32, 64), np.float32),
        np.zeros((1, 64, 64, 3), np.float32),
        [[1.0]],
    ],
    ids=["no batch", "float64", "empty", "wrong size", "channels last", "list"],
)
def test_a_wrong_batch_is_refused(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options, batch: np.ndarray
) -> None:
    with engine_type.load(engine_bundle, options()) as engine:
        with pytest.raises(EngineError, match=r"shape|takes float32"):
            engine.run(batch)
        engine.run(np.zeros((1, 3, 64, 64), np.float32))


def test_strided_input_is_read_right(engine_type: type[Engine], engine_bundle: Bundle, options: Options) -> None:
    batch = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    with engine_type.load(engine_bundle, options()) as engine:
        np.testing.assert_array_equal(engine.run(batch), engine.run(batch.copy()))


def test_closing_leaves_no_temporary_file(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    engine_type.load(engine_bundle, options()).close()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_closed_means_closed(engine_type: type[Engine], engine_bundle: Bundle, options: Options) -> None:
    engine = engine_type.load(engine_bundle, options())
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(np.zeros((1, 3, 64, 64), np.float32))


def test_it_is_garbage_collected(engine_type: type[Engine], engine_bundle: Bundle, options: Options) -> None:
    engine = engine_type.load(engine_bundle, options())
    reference = weakref.ref(engine)
    del engine
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x08" * 100])
def test_a_broken_model_file_is_refused(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options, content: bytes, tmp_path: Path
) -> None:
    """The manifest agrees with the file, so it is the check of its content, or the library, that has to notice."""
    for file in CONVERTED_FILES.get(engine_type.name, (MODEL_FILES["fp32"],)):
        manifest = engine_bundle.manifest
        broken = write_bundle(
            tmp_path / Path(file).name,
            name=manifest.name,
            contents={name: engine_bundle.read(name) for name in manifest.files} | {file: content},
            weights=manifest.weights,
            created_by=manifest.created_by,
            validation=manifest.validation,
        )
        with pytest.raises((BundleError, EngineError), match=r"refuses|do not use this bundle"):
            engine_type.load(broken, options())


def test_a_bundle_without_its_files_says_what_it_has(
    engine_type: type[Engine], tiny_bundle: Bundle, options: Options
) -> None:
    if engine_type.name not in CONVERTED_FILES:
        engine_type.load(tiny_bundle, options()).close()
        return
    with pytest.raises(EngineUnavailableError, match=f"no files for {engine_type.name}, only for"):
        engine_type.load(tiny_bundle, options())


def test_options_that_cannot_be_honoured_are_refused(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options
) -> None:
    with pytest.raises(OptionError, match="no_such_option"):
        engine_type.load(engine_bundle, options(engine_options={"no_such_option": 1}))
    with pytest.raises(OptionError, match="abacus"):
        engine_type.load(engine_bundle, options(device="abacus"))
    with pytest.raises(OptionError, match=r"int8.*fp32"):
        engine_type.load(engine_bundle, options(precision="int8"))


@pytest.mark.parametrize(("name", "value"), [("threads", 0), ("threads", True), ("batch_size", -1), ("device", "")])
def test_senseless_options_are_refused(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        EngineOptions(**{name: value})


def test_an_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UnknownEngineError, match="onnxruntime"):
        engine_class("onnxrt")


def test_describe_says_what_runs(engine_type: type[Engine], engine_bundle: Bundle, options: Options) -> None:
    with engine_type.load(engine_bundle, options()) as engine:
        facts = engine.describe()
    assert facts["engine"] == engine.name
    assert facts.get("threads") == options().threads
    assert facts["version"]
    engine.close()
    assert engine.describe()["engine"] == engine.name  # such as in a report that is written at the end


class Raising(Engine):
    """Raises what libraries raise."""

    name = "raising"

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu"]

    def _infer(self, batch: np.ndarray, output: str) -> np.ndarray:
        raise LookupError("first line\n  second line" + " x" * 999)

    def describe(self) -> dict[str, object]:
        return {}

    def _release(self) -> None:
        self.released = True


def test_what_a_library_raises_is_one_short_line() -> None:
    engine = Raising(b"", EngineOptions())
    with pytest.raises(EngineError, match=r"^The raising engine failed on a batch of shape \(1, 3, 2, 2\): ") as error:
        engine.run(np.zeros((1, 3, 2, 2), np.float32))
    assert "LookupError: first line second line x x" in str(error.value)
    assert len(str(error.value)) < 600
    engine.close()
    assert engine.released
