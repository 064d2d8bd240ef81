"""Models of strangers: what they must not read, and what they must not cost, on each engine that is installed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.engines import engine_record
from ghostzoo.engines.base import Engine, EngineOptions
from ghostzoo.errors import BundleError, EngineError
from tests.conftest import make_tiny_bundle
from tests.fixtures import graphs
from tests.fixtures.limited import run_limited
from tests.network.test_graph_check import mutated, structure

pytestmark = pytest.mark.slow

Options = Callable[..., EngineOptions]

OPEN = """
import ctypes, sys
import numpy as np
from pathlib import Path
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines import engine_class
from ghostzoo.engines.base import EngineOptions
from ghostzoo.errors import GhostZooError
folder, engine, secret = sys.argv[1:]
kept = ctypes.create_string_buffer(secret.encode() * 1000)
graph = Path(folder, "onnx/model.onnx")
data = graph.read_bytes()
mark = b"4242424242424242"
if mark in data:  # where the secret lies is known here alone; the graph and the manifest are made to agree with it
    import hashlib, json
    data = data.replace(mark, b"%016d" % ctypes.addressof(kept))
    graph.write_bytes(data)
    manifest = Path(folder, "ghostzoo.json")
    content = json.loads(manifest.read_bytes())
    content["files"]["onnx/model.onnx"]["sha256"] = hashlib.sha256(data).hexdigest()
    manifest.write_text(json.dumps(content))
try:
    bundle = Bundle.open(folder)
    with engine_class(engine).load(bundle, EngineOptions(threads=1)) as opened:
        logits = opened.run(np.zeros((1, 3, 64, 64), np.float32))
        print("ran", logits.tobytes())
except GhostZooError as error:
    print("refused:", error)
"""
SECRET = "PLANTED-SECRET"  # noqa: S105 - no password

HOSTILE: dict[str, graphs.Change] = {
    "file of the working folder": graphs.external(".env"),
    "file by its full path": graphs.external("/etc/passwd"),
    "file above": graphs.external("../secret"),
    "memory": graphs.external("*/_ORT_MEM_ADDR_/*", 4242424242424242),
    "branch": graphs.subgraph("If"),
    "endless loop": graphs.subgraph("Loop"),
    "function": graphs.function,
    "200,000 nodes": graphs.before_logits(*["Identity"] * 200_000),
    "huge tensors": graphs.expand_chain,
}


@pytest.fixture(params=["onnxruntime", "openvino"])
def onnx_engine(request: pytest.FixtureRequest) -> str:
    if not engine_record(request.param).versions():
        pytest.skip(f"{request.param} is not installed here")
    return str(request.param)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_graph_reads_and_costs_nothing(tiny_bundle: Bundle, tmp_path: Path, onnx_engine: str, name: str) -> None:
    (tmp_path / "work").mkdir()
    for file in (tmp_path / "work" / ".env", tmp_path / "secret"):
        file.write_text(SECRET * 10)
    bad = graphs.with_graph(tiny_bundle, tmp_path / "bad", graphs.changed(tiny_bundle, HOSTILE[name]))
    ended = run_limited(OPEN, bad.path, onnx_engine, SECRET, seconds=60, memory_mb=8192, cwd=tmp_path / "work")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"refused: Bundle {bad.path}: onnx/model.onnx ")
    assert "SECRET" not in ended.stdout
    assert ended.peak_mb < 1024


def test_the_command_refuses_it_in_a_line(tiny_bundle: Bundle, tmp_path: Path, onnx_engine: str) -> None:
    bad = graphs.with_graph(tiny_bundle, tmp_path / "bad", graphs.changed(tiny_bundle, graphs.external(".env")))
    picture = tmp_path / "grey.png"
    import cv2

    cv2.imwrite(str(picture), np.full((70, 80, 3), 90, np.uint8))
    for arguments in (["predict", str(picture)], ["serve", "--port", "0"]):
        model = ["--model", str(bad.path), "--engine", onnx_engine]
        command = [sys.executable, "-m", "ghostzoo", arguments[0], *model, *arguments[1:]]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert result.returncode == 1, (arguments, result.stdout, result.stderr)
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if "fork_posix.cc" not in line]  # gRPC's own remark
        assert len(lines) == 1
        assert lines[0].startswith("Error: ")
        assert "has external data" in lines[0]


@pytest.mark.parametrize("rows", [0, 2])
def test_results_of_a_wrong_shape_are_told(tiny_bundle: Bundle, onnx_engine: str, rows: int) -> None:
    """Opened past the check of graphs, as a fault in the library or in the check would have it."""

    def change(model: onnx.ModelProto) -> None:
        last = graphs.rename_logits(model)
        if rows == 2:
            node = helper.make_node("Concat", [last, last], ["logits"], axis=0)
        else:
            node = helper.make_node("Slice", [last, "none", "none"], ["logits"])
            graphs.constant(model, "none", np.zeros(1, np.int64))
        model.graph.node.append(node)

    kind = engine_record(onnx_engine).load_class()
    with kind(graphs.changed(tiny_bundle, change), EngineOptions(threads=1)) as engine:
        for count in (1, 3):
            with pytest.raises(EngineError, match=f"for {count} images|failed on a batch"):
                engine.run(np.zeros((count, 3, 64, 64), np.float32))


def test_a_converted_network_of_other_classes_is_told(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options, tmp_path: Path
) -> None:
    """The file of a network with seven classes, in a bundle that names three."""
    if engine_type.name not in CONVERTED_FILES:
        pytest.skip("it reads ONNX, which is checked before")
    config = json.loads(engine_bundle.read("config.json"))
    config["id2label"] = {str(index): f"class-{index}" for index in range(3)}
    liar = graphs.with_files(engine_bundle, tmp_path / "liar", {"config.json": json.dumps(config).encode()})
    with pytest.raises((BundleError, EngineError), match=r"logits of shape .*7\)|declares logits|gives logits"):  # noqa: SIM117
        with engine_type.load(liar, options()) as engine:
            engine.run(np.zeros((1, 3, 64, 64), np.float32))


def test_what_is_admitted_opens_or_is_refused(tiny_bundle: Bundle, tmp_path: Path, onnx_engine: str) -> None:
    """Changed graphs that the check lets pass neither crash the engine nor raise anything else."""
    data, rng = tiny_bundle.model(), random.Random(1)  # noqa: S311 - no secret
    places = structure(data)
    for index in range(400):
        (tmp_path / f"{index}.onnx").write_bytes(mutated(data, places, rng))
    ended = run_limited(OPEN_ALL, tmp_path, onnx_engine, memory_mb=8192, seconds=300)
    assert ended.returncode == 0, (ended.stdout[-500:], ended.stderr[-500:])
    assert "opened" in ended.stdout


OPEN_ALL = """
import sys
import numpy as np
from pathlib import Path
from ghostzoo.engines import engine_class
from ghostzoo.engines.base import EngineOptions
from ghostzoo.errors import BundleError, EngineError
from ghostzoo.network.graph_check import check_graph
kind = engine_class(sys.argv[2])
seen = set()
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    data = path.read_bytes()
    try:
        check_graph(data, path.name, num_classes=7, image_size=64)
        if data in seen:
            continue
        seen.add(data)
        print("admitted", path.name, flush=True)
        with kind(data, EngineOptions(threads=1, engine_options={"enable_cpu_mem_arena": True} if sys.argv[2] ==
                  "onnxruntime" else {"CACHE_DIR": ""})) as engine:
            engine.run(np.zeros((1, 3, 64, 64), np.float32))
        print("opened", path.name, flush=True)
    except (BundleError, EngineError) as error:
        print(type(error).__name__, str(error)[:200], flush=True)
"""

NCNN: dict[str, tuple[str, str]] = {
    "huge convolution": (r"Convolution +(\S+) +1 1 (\S+) (\S+) 0=8 ", r"Convolution \1 1 1 \2 \3 0=99999999 "),
    "layer that makes memory": (r"Split +(\S+) +1 2", r"MemoryData \1 0 2"),
    "huge upsampling": ("1=8.0 2=8.0", "1=999.0 2=999.0"),
    "huge reshape": (r'6="1,1,//\(16,0n\),0n"', '6="99999,99999,99"'),
    "another pooling": ("0=1 4=1", "0=1 4=0"),
    "huge pads": ("4=1 5=1", "4=9999999 5=1"),
    "many inputs": (r"BinaryOp +(\S+) +2 1", r"BinaryOp \1 99999999 1"),
    "a magic number": ("7767517", "7767518"),
}


@pytest.mark.parametrize("name", NCNN)
def test_ncnns_text_is_checked(tmp_path: Path, name: str) -> None:
    import re
    from importlib.util import find_spec

    if find_spec("pnnx") is None or find_spec("ncnn") is None:
        pytest.skip("pnnx and ncnn are not installed here")
    from exporters.edge_formats import export_edge

    bundle = export_edge(make_tiny_bundle(tmp_path / "tiny").path, "ncnn").bundle
    text = bundle.read("ncnn/model.param").decode()
    pattern, replacement = NCNN[name]
    changed = re.sub(pattern, replacement, text, count=1)
    assert changed != text
    bad = graphs.with_files(bundle, tmp_path / "bad", {"ncnn/model.param": changed.encode()})
    with pytest.raises(BundleError, match=r"ncnn/model\.param .*; do not use this bundle"):
        engine_record("ncnn").load_class().load(bad, EngineOptions())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_network_that_litert_may_see_opens_or_is_refused(tiny_bundle: Bundle, tmp_path: Path, precision: str) -> None:
    """Changed files that the check lets pass neither crash LiteRT nor raise anything else."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT is an extra, which is not installed here")
    from exporters.quantize import PLANS, to_int8
    from exporters.to_litert import convert_graph
    from tests.network.test_tflite_check import mutants

    graph, pixels = tiny_bundle.model(), np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32)
    if precision == "int8":
        graph = to_int8(graph, PLANS[0], lambda: iter([pixels]))
    data = convert_graph(tiny_bundle, graph)
    for index, changed in enumerate(mutants(data, random.Random(1), 400)):  # noqa: S311 - no secret
        (tmp_path / f"{index}.tflite").write_bytes(changed)
    ended = run_limited(OPEN_TFLITE, tmp_path, memory_mb=8192, seconds=300)
    assert ended.returncode == 0, (ended.stdout[-500:], ended.stderr[-500:])
    assert "opened" in ended.stdout


OPEN_TFLITE = """
import sys
import numpy as np
from pathlib import Path
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.litert import LiteRtEngine
from ghostzoo.errors import EngineError
from ghostzoo.network.tflite_check import check_tflite
from ghostzoo.network.wire import RefusedGraphError
for path in sorted(Path(sys.argv[1]).glob("*.tflite")):
    data = path.read_bytes()
    try:
        check_tflite(data, num_classes=7, image_size=64)
        print("admitted", path.name, flush=True)
        with LiteRtEngine({"litert/model.tflite": data}, EngineOptions(threads=1), 64) as engine:
            engine.run(np.zeros((1, 3, 64, 64), np.float32))
            engine.run(np.zeros((2, 3, 64, 64), np.float32))
        print("opened", path.name, flush=True)
    except (RefusedGraphError, EngineError, ValueError, RuntimeError) as error:
        print(type(error).__name__, str(error)[:200], flush=True)
"""


def test_an_output_that_is_not_there_is_told(tiny_bundle: Bundle, onnx_engine: str) -> None:
    """OpenVINO raises a ``RuntimeError``, or a ``KeyError``, ONNX Runtime an exception of its own."""

    def change(model: onnx.ModelProto) -> None:
        del model.graph.output[1:]

    kind = engine_record(onnx_engine).load_class()
    with kind(graphs.changed(tiny_bundle, change), EngineOptions(threads=1)) as engine:
        with pytest.raises(EngineError, match=r"failed on a batch of shape \(1, 3, 64, 64\)"):
            engine.run(np.zeros((1, 3, 64, 64), np.float32), "embedding")
        assert engine.run(np.zeros((1, 3, 64, 64), np.float32)).shape == (1, 7)
