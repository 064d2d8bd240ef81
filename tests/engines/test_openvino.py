from __future__ import annotations

import os
import pickle
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

import ghostzoo
from ghostzoo._utils.hardware import usable_cpus
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines.base import EngineOptions
from ghostzoo.errors import EngineUnavailableError, OptionError

pytest.importorskip("openvino", reason="OpenVINO is an extra, which is not installed here")

from ghostzoo.engines import openvino as engine_module
from ghostzoo.engines.openvino import OpenVinoEngine

BF16 = EngineOptions(threads=1, precision="bf16")


def test_int8_runs_in_one_stream(tiny_bundle: Bundle) -> None:
    """In several, OpenVINO's results were nonsense."""
    from exporters.quantize import PLANS, to_int8

    graph, golden = to_int8(tiny_bundle.model(), PLANS[-1], lambda: iter(())), tiny_bundle.golden()
    with OpenVinoEngine(graph, EngineOptions(threads=1, precision="int8")) as engine:  # another CPU is free
        assert engine.describe()["streams"] == 1
        golden.require(engine.run, "int8", engine.name)
    if usable_cpus() == 1:
        pytest.skip("this process may use one CPU alone, on which OpenVINO runs no second stream")
    with pytest.raises(OptionError, match="more than one stream"):
        OpenVinoEngine(graph, EngineOptions(precision="int8", engine_options={"NUM_STREAMS": 2}))


def test_without_the_instructions_bf16_is_refused(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "cpu_features", lambda: ("avx2", "avx512f"))
    with pytest.raises(EngineUnavailableError, match=r"no instructions that multiply in bfloat16.*take precision fp32"):
        OpenVinoEngine.load(tiny_bundle, BF16)


def test_a_fixed_batch_size_is_in_the_compiled_network(tiny_bundle: Bundle) -> None:
    with OpenVinoEngine.load(tiny_bundle, EngineOptions(threads=1, batch_size=2)) as engine:
        assert list(engine._compiled.inputs[0].shape) == [2, 3, 64, 64]
        assert engine.describe()["version"] == version("openvino")


def test_two_wishes_for_a_precision_are_refused(tiny_bundle: Bundle) -> None:
    options = EngineOptions(precision="bf16", engine_options={"INFERENCE_PRECISION_HINT": "f32"})
    with pytest.raises(OptionError, match=r"INFERENCE_PRECISION_HINT .* exclude each other"):
        OpenVinoEngine.load(tiny_bundle, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "AUTO:CPU,XPU"}, r"no device 'XPU'"),
        ({"device": "CPU.x"}, r"no device 'CPU.x'"),
        ({"device": "AUTO", "threads": 1}, r"threads on a CPU only, not on AUTO; leave threads out"),
        ({"threads": 2 * (os.cpu_count() or 1)}, r"runs \d+ threads per call here, not \d+; ask for fewer threads"),
        ({"threads": 1, "engine_options": {"INFERENCE_NUM_THREADS": 1}}, r"mean the same; give one of them"),
        ({"engine_options": {"PERFORMANCE_HIN": "LATENCY"}}, r"no property .* Did you mean PERFORMANCE_HINT"),
        ({"engine_options": {"AVAILABLE_DEVICES": "0"}}, r"no property 'AVAILABLE_DEVICES'"),
        ({"engine_options": {"PERFORMANCE_HINT": "FAST"}}, r"does not take PERFORMANCE_HINT = 'FAST'"),
    ],
)
def test_what_it_cannot_honour_is_refused(tiny_bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        OpenVinoEngine.load(tiny_bundle, EngineOptions(**options))


def test_a_device_that_is_not_here_is_named(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineUnavailableError, match=r"finds no GPU.99 on this machine .* it finds CPU"):
        OpenVinoEngine.load(tiny_bundle, EngineOptions(device="gpu.99"))


def test_calls_run_side_by_side_unless_the_caller_says_how(tiny_bundle: Bundle) -> None:
    for own, streams in (({}, min(usable_cpus(), 8)), ({"NUM_STREAMS": 1}, 1)):
        with OpenVinoEngine.load(tiny_bundle, EngineOptions(threads=1, engine_options=own)) as engine:
            facts = engine.describe()
        assert (facts["threads"], facts["streams"], facts["computes_in"]) == (1, streams, "f32")


def test_a_classifier_in_bf16_is_chosen_and_pickled(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GHOSTZOO_ENGINE", raising=False)
    try:
        classifier = ghostzoo.load(tiny_bundle.path, precision="bf16", threads=1)
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    image = np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8)
    with classifier, pickle.loads(pickle.dumps(classifier)) as other:
        assert "onnxruntime" in {item.engine for item in classifier.selection.discarded}
        np.testing.assert_array_equal(other.logits(image), classifier.logits(image))


INTERRUPTED = """
import signal, sys
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.openvino import OpenVinoEngine

bundle, options = Bundle.open(sys.argv[1]), EngineOptions(threads=1)
engines = [OpenVinoEngine.load(bundle, options) for _ in range(3)]
while engines:
    engines.pop(0).close()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_comes_after_models_were_closed(tiny_bundle: Bundle) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tiny_bundle.path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stdout) == (0, "interrupted\n"), result.stderr


def test_a_property_is_of_one_model_alone(tiny_bundle: Bundle) -> None:
    plain, slow = EngineOptions(), EngineOptions(engine_options={"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": 3})
    with OpenVinoEngine.load(tiny_bundle, plain) as before:
        expected = before.describe()
    with OpenVinoEngine.load(tiny_bundle, slow) as other:
        assert other.describe() != expected
        with OpenVinoEngine.load(tiny_bundle, plain) as after:
            assert after.describe() == expected


BUSY = """
import os, signal, sys, threading
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.openvino import OpenVinoEngine
from ghostzoo.errors import EngineUnavailableError
bundle, options = Bundle.open(sys.argv[1]), EngineOptions(threads=int(sys.argv[2]))
engine, pixels = OpenVinoEngine.load(bundle, options), bundle.golden().pixel_values

def work():
    while True:
        engine.run(pixels)

threading.Thread(target=work, daemon=True).start()
if not os.fork():
    signal.alarm(10)
    try:
        OpenVinoEngine.load(bundle, options).run(pixels)
    except EngineUnavailableError as error:
        print(error, flush=True)
    os._exit(0)
print("status", os.wait()[1], flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_fork_of_a_busy_process_is_refused_and_not_hung(tiny_bundle: Bundle) -> None:
    """With several threads a call, a child that opened a model would wait for those that stayed behind."""
    command = [sys.executable, "-W", "ignore", "-c", BUSY, tiny_bundle.path, str(min(2, usable_cpus()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "openvino was used before this process was forked, and cannot be used in a fork" in done.stdout, done.stderr
    assert done.stdout.endswith("status 0\n")
