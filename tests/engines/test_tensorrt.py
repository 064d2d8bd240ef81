"""Building TensorRT engines, for real, with TensorRT-RTX, which needs no GPU. Running one is in ``test_contract``."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ghostzoo.bundle.edit import add_files
from ghostzoo.bundle.folder import MODEL_FILES, Bundle
from ghostzoo.engines import engine_record
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.tensorrt_build import BatchRange, build, find_library
from ghostzoo.engines.tensorrt_plan import Plan, write_engine
from ghostzoo.errors import EngineError, EngineUnavailableError, OptionError
from ghostzoo.network.float16 import to_float16

RTX = {"library": "tensorrt_rtx"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "tensorrt-rtx" not in engine_record("tensorrt").versions(),
        reason="tensorrt-rtx, which has wheels for Linux and Windows on x86-64, is not installed",
    ),
]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "ghostzoo", "build-engine", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, encoding="utf-8")


def has_gpu() -> bool:
    try:
        from ghostzoo.engines.cuda import cuda_gpus

        return bool(cuda_gpus())
    except EngineUnavailableError:
        return False


def test_an_engine_for_a_gpu_that_is_not_here(tiny_bundle: Bundle, tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp32", "fp16"):
        out = tmp_path / f"{precision}.engine"
        result = command("--model", tiny_bundle.path, "--target", "SM86", "--precision", precision, "--out", out)
        assert result.returncode == 0, result.stderr
        assert result.stdout == ""
        assert f"in {precision} for SM86. This takes a few seconds." in result.stderr
        content = out.read_bytes()
        assert f"{precision} {tiny_bundle.model_hash()}".encode() in content
        sizes[precision] = len(content)
    assert sizes["fp16"] < sizes["fp32"]
    again = command("--model", tiny_bundle.path, "--target", "SM86", "--out", tmp_path / "fp16.engine")
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert (tmp_path / "fp16.engine").stat().st_size == sizes["fp16"]


def test_several_targets_and_a_fixed_batch_size(tiny_bundle: Bundle, tmp_path: Path) -> None:
    options = EngineOptions(batch_size=4, engine_options=RTX)
    one = write_engine(tiny_bundle, options, tmp_path / "one.engine", targets=["SM86"])
    both = write_engine(tiny_bundle, options, tmp_path / "both.engine", targets=["SM86", "SM120"])
    assert 0 < one < both == (tmp_path / "both.engine").stat().st_size


def test_a_build_that_fails_says_why_in_the_librarys_words() -> None:
    """TensorRT-RTX has no matrix product in float32 for GPUs of the Turing generation."""
    import onnx

    image = onnx.helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, ["batch", 8])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 4])
    weight = onnx.numpy_helper.from_array(np.ones((8, 4), np.float32), "weight")
    product = onnx.helper.make_node("MatMul", ["pixel_values", "weight"], ["logits"], name="product")
    graph = onnx.helper.make_graph([product], "product", [image], [logits], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    library, batches = find_library("tensorrt_rtx"), BatchRange(1, 1, 8)
    content = model.SerializeToString()
    assert build(library, content, name="product", batches=batches, half=False, targets=("SM86",))[0]
    with pytest.raises(EngineError, match=r"could not build .*product.* FP32 GEMM is not supported"):
        build(library, content, name="product", batches=batches, half=False, targets=("SM75",))


def test_a_bundles_own_float16_graph_is_taken(tiny_bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, folder)
    half = {MODEL_FILES["fp16"]: to_float16(tiny_bundle.model())}
    bundle = add_files(folder, half, created_by={}, section="precisions", facts={})
    options = EngineOptions(precision="fp16", engine_options=RTX)
    assert Plan.of(bundle, options).graph_hash == bundle.model_hash("fp16")
    assert Plan.of(tiny_bundle, options).graph_hash == tiny_bundle.model_hash("fp32")
    assert write_engine(bundle, options, tmp_path / "half.engine", targets=["SM89"])


def test_each_model_and_precision_has_an_engine_of_its_own(tiny_bundle: Bundle) -> None:
    plans = [
        Plan.of(tiny_bundle, EngineOptions(engine_options=RTX)),
        Plan.of(tiny_bundle, EngineOptions(precision="fp16", engine_options=RTX)),
        replace(Plan.of(tiny_bundle, EngineOptions(engine_options=RTX)), graph_hash="0" * 64),
    ]
    assert len({plan.engine_name for plan in plans}) == 3


@pytest.mark.parametrize("graph", [b"", b"no graph", b"\x08\x08" * 100])
def test_a_broken_graph_is_refused_with_the_librarys_words(graph: bytes) -> None:
    library = find_library("tensorrt_rtx")
    with pytest.raises(EngineError, match=r"refuses the graph: ."):
        build(library, graph, name="broken", batches=BatchRange(1, 1, 8), half=False, targets=("SM86",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(precision="int8"), r"int8.*fp32, fp16"),
        (EngineOptions(engine_options={"no_such_option": 1}), "no_such_option"),
        (EngineOptions(engine_options={"library": "trt"}), "tensorrt_rtx"),
        (EngineOptions(engine_options={"max_batch_size": 0}), "max_batch_size"),
        (EngineOptions(batch_size=2, engine_options={"max_batch_size": 4}), "leave max_batch_size out"),
        (EngineOptions(engine_options={"engine_file": "f", "max_batch_size": 4}), "leave max_batch_size out"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(tiny_bundle: Bundle, options: EngineOptions, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Plan.of(tiny_bundle, options)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--target", "SM86"], 2, "--out"),
        (["--target", "SM87", "--out", "x.engine"], 1, "SM86"),
        (["--target", "SM86", "--device", "cuda:0", "--out", "x.engine"], 1, "give one of them"),
        (["--target", "SM86", "--out", "no/x.engine"], 1, "no folder no"),
    ],
)
def test_wrong_usage_writes_nothing(
    tiny_bundle: Bundle,
    arguments: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("--model", tiny_bundle.path, "--library", "tensorrt_rtx", *arguments)
    assert result.returncode == status
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_driver_one_sentence_says_what_is_missing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    result = command("--model", tiny_bundle.path, "--out", tmp_path / "x.engine")
    assert result.returncode == 1
    assert "NVIDIA" in result.stderr
    assert "--target SM86 --out FILE" in result.stderr
    kind = engine_record("tensorrt").load_class()
    with pytest.raises(EngineUnavailableError, match=r"none was found on this machine|'nvidia-smi' lists the GPU"):
        kind.load(tiny_bundle, EngineOptions())
    with pytest.raises(OptionError, match="abacus"):
        kind.load(tiny_bundle, EngineOptions(device="abacus"))
    with pytest.raises(OptionError, match="leave threads out"):
        kind.load(tiny_bundle, EngineOptions(threads=1))


CACHED = """
import sys
from ghostzoo import Bundle
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.tensorrt_plan import Plan, cached_engine
from types import SimpleNamespace

bundle = Bundle.open(sys.argv[1])
plan = Plan.of(bundle, EngineOptions(precision=sys.argv[2], engine_options={"library": "tensorrt_rtx"}))
gpu = SimpleNamespace(name="a GPU that is elsewhere", architecture=sys.argv[3])
print(len(cached_engine(bundle, plan, gpu)))
"""


def test_several_processes_build_once(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def start(precision: str, architecture: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", CACHED, str(tiny_bundle.path), precision, architecture]
        surroundings = os.environ | {"GHOSTZOO_CACHE": str(tmp_path)}
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings)

    outputs = [process.communicate(timeout=120) for process in [start("fp32", "SM86"), start("fp32", "SM86")]]
    assert len({size for size, _ in outputs if size}) == 1, outputs
    announced = [said for _, said in outputs if "Building" in said]
    assert len(announced) == 1
    assert f"kept in {tmp_path / 'tensorrt'}, so this is done once. This takes a few seconds." in announced[0]
    for other in (("fp16", "SM86"), ("fp32", "SM89")):
        assert "Building" in start(*other).communicate(timeout=120)[1]
    assert len([path for path in (tmp_path / "tensorrt").iterdir() if path.suffix != ".lock"]) == 3


def test_building_needs_no_cuda_package(tiny_bundle: Bundle, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['cuda'] = None\n"
        "from ghostzoo import Bundle\n"
        "from ghostzoo.engines.base import EngineOptions\n"
        "from ghostzoo.engines.tensorrt_plan import write_engine\n"
        f"options = EngineOptions(engine_options={RTX!r})\n"
        f"write_engine(Bundle.open({str(tiny_bundle.path)!r}), options, sys.argv[1], targets=['SM80'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "x.engine"], env=dict(os.environ))
    assert result.returncode == 0
    assert (tmp_path / "x.engine").stat().st_size > 0
