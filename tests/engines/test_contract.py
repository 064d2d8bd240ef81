"""What every engine promises; parametrised over all of them."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ghostzoo.bundle import Bundle
from ghostzoo.engines import engine_class, engine_names
from ghostzoo.engines.base import Engine, EngineOptions
from ghostzoo.errors import EngineError, OptionError, UnknownEngineError
from ghostzoo.parity import EXACT_TOLERANCE, compare_logits


@pytest.fixture(params=engine_names())
def engine_type(request: pytest.FixtureRequest) -> type[Engine]:
    return engine_class(request.param)


def test_agrees_with_the_golden_vectors(engine_type: type[Engine], tiny_bundle: Bundle) -> None:
    golden = tiny_bundle.golden()
    with engine_type.load(tiny_bundle, EngineOptions(threads=1)) as engine:
        assert golden.check(engine.run).within(EXACT_TOLERANCE)
        embedding = engine.run(golden.pixel_values, "embedding")
    assert embedding.shape == (len(golden.pixel_values), 1280)
    assert compare_logits(golden.embedding, embedding).within(EXACT_TOLERANCE)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_a_fixed_batch_size_takes_any_number_of_images(
    engine_type: type[Engine], tiny_bundle: Bundle, count: int
) -> None:
    batch = np.random.default_rng(count).normal(size=(count, 3, 64, 64)).astype(np.float32)
    with engine_type.load(tiny_bundle, EngineOptions(threads=1)) as engine:
        expected = engine.run(batch)
    with engine_type.load(tiny_bundle, EngineOptions(threads=1, batch_size=3)) as engine:
        actual = engine.run(batch)
    assert actual.shape == (count, tiny_bundle.num_classes)
    assert compare_logits(expected, actual).within(EXACT_TOLERANCE)


def test_results_belong_to_the_caller(engine_type: type[Engine], tiny_bundle: Bundle) -> None:
    first, second = (np.full((1, 3, 64, 64), value, np.float32) for value in (0.0, 1.0))
    with engine_type.load(tiny_bundle, EngineOptions(threads=1)) as engine:
        result = engine.run(first)
        kept = result.copy()
        other = engine.run(second)
        other[:] = np.nan
        np.testing.assert_array_equal(result, kept)
        np.testing.assert_array_equal(engine.run(first), kept)
    np.testing.assert_array_equal(result, kept)
    np.testing.assert_array_equal(first, 0)


def test_many_threads_get_their_own_answers(engine_type: type[Engine], tiny_bundle: Bundle) -> None:
    inputs = [np.full((1, 3, 64, 64), value, np.float32) for value in np.linspace(-2, 2, 8)]
    with engine_type.load(tiny_bundle, EngineOptions(threads=1)) as engine:
        expected = [engine.run(batch) for batch in inputs]

        def ask(index: int) -> bool:
            return all(np.array_equal(engine.run(inputs[index]), expected[index]) for _ in range(50))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(8)))


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
def test_a_wrong_batch_is_refused(engine_type: type[Engine], tiny_bundle: Bundle, batch: np.ndarray) -> None:
    with engine_type.load(tiny_bundle, EngineOptions(threads=1)) as engine:
        with pytest.raises(EngineError, match=r"shape|takes float32"):
            engine.run(batch)
        engine.run(np.zeros((1, 3, 64, 64), np.float32))


def test_strided_input_is_read_right(engine_type: type[Engine], tiny_bundle: Bundle) -> None:
    batch = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    with engine_type.load(tiny_bundle, EngineOptions(threads=1)) as engine:
        np.testing.assert_array_equal(engine.run(batch), engine.run(batch.copy()))


def test_closed_means_closed(engine_type: type[Engine], tiny_bundle: Bundle) -> None:
    engine = engine_type.load(tiny_bundle, EngineOptions(threads=1))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(np.zeros((1, 3, 64, 64), np.float32))


def test_it_is_garbage_collected(engine_type: type[Engine], tiny_bundle: Bundle) -> None:
    engine = engine_type.load(tiny_bundle, EngineOptions(threads=1))
    reference = weakref.ref(engine)
    del engine
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("model", [b"", b"no graph", b"\x08\x08" * 100])
def test_a_broken_graph_is_refused(engine_type: type[Engine], model: bytes) -> None:
    with pytest.raises(EngineError, match="refuses"):
        engine_type(model, EngineOptions(threads=1))


def test_options_that_cannot_be_honoured_are_refused(engine_type: type[Engine], tiny_bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="no_such_option"):
        engine_type.load(tiny_bundle, EngineOptions(engine_options={"no_such_option": 1}))
    with pytest.raises(OptionError, match="abacus"):
        engine_type.load(tiny_bundle, EngineOptions(device="abacus"))
    with pytest.raises(OptionError, match=r"int8.*fp32"):
        engine_type.load(tiny_bundle, EngineOptions(precision="int8"))


@pytest.mark.parametrize(("name", "value"), [("threads", 0), ("threads", True), ("batch_size", -1), ("device", "")])
def test_senseless_options_are_refused(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        EngineOptions(**{name: value})


def test_an_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UnknownEngineError, match="onnxruntime"):
        engine_class("onnxrt")


def test_describe_says_what_runs(engine_type: type[Engine], tiny_bundle: Bundle) -> None:
    with engine_type.load(tiny_bundle, EngineOptions(threads=1)) as engine:
        facts = engine.describe()
    assert facts["engine"] == engine.name
    assert facts["threads"] == 1
    assert facts["version"]
