"""A model repository of Triton, read by Triton's own definition of a configuration."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ghostzoo.bundle.folder import Bundle
from ghostzoo.cli import main
from ghostzoo.errors import OptionError
from ghostzoo.triton import FILES, export_triton

READ = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
config = text_format.Parse(open(sys.argv[1]).read(), ModelConfig())
print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""


def read_config(file: Path) -> dict[str, Any]:
    python = os.environ.get("GHOSTZOO_CLIENTS_PYTHON")
    if not python:
        pytest.skip("GHOSTZOO_CLIENTS_PYTHON names no Python with tritonclient; 'make test-all' makes one")
    done = subprocess.run([python, "-c", READ, str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


@pytest.mark.slow
@pytest.mark.parametrize("backend", list(FILES))
def test_tritons_own_protobuf_reads_the_config(tiny_bundle: Bundle, tmp_path: Path, backend: str) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"an engine")
    given = {"plan": plan} if backend == "tensorrt" else {}
    folder = export_triton(tiny_bundle, tmp_path / "repository", backend=backend, max_batch=16, **given)  # type: ignore[arg-type]
    config = read_config(folder / "config.pbtxt")
    size = tiny_bundle.config.image_size
    assert (config["name"], config["backend"], config["max_batch_size"]) == (folder.name, backend, 16)
    assert config["input"] == [{"name": "pixel_values", "data_type": "TYPE_FP32", "dims": ["3", str(size), str(size)]}]
    logits = {"name": "logits", "data_type": "TYPE_FP32", "dims": [str(tiny_bundle.num_classes)]}
    assert config["output"][0] == logits | {"label_filename": "labels.txt"}
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": "5000"}
    assert config["instance_group"][0]["kind"] == ("KIND_GPU" if backend == "tensorrt" else "KIND_CPU")
    assert (folder / "1" / config["default_model_filename"]).is_file()


def test_the_repository_has_graph_and_labels(tiny_bundle: Bundle, tmp_path: Path) -> None:
    words = ["export-triton", str(tiny_bundle.path), "--out", str(tmp_path / "repository")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "repository" / tiny_bundle.name
    assert (folder / "1/model.onnx").read_bytes() == tiny_bundle.model()
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert labels == [label.label for label in tiny_bundle.labels]
    assert tiny_bundle.model_hash() in (folder / "config.pbtxt").read_text()
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 1
    assert "exists; take another --out, or give --overwrite" in " ".join(again.output.split())
    assert CliRunner().invoke(main, [*words, "--overwrite", "--gpu"]).exit_code == 0
    assert "KIND_GPU" in (folder / "config.pbtxt").read_text()


def test_impossible_exports_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for options, reason in (
        ({"backend": "tensorrt"}, "needs an engine for the server's GPU"),
        ({"backend": "tensorrt", "plan": tmp_path / "none.plan"}, "none.plan: No such file"),
        ({"backend": "onnxruntime", "plan": __file__}, "A plan is for the back end tensorrt"),
        ({"backend": "openvino", "gpu": True}, "is for CPUs"),
        ({"backend": "caffe2"}, "no back end 'caffe2'"),
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"precision": "int8"}, "has no int8 graph"),
    ):
        with pytest.raises(OptionError, match=reason):
            export_triton(tiny_bundle, tmp_path / "repository", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "repository").exists()
    (tmp_path / "repository" / tiny_bundle.name).mkdir(parents=True)
    with pytest.raises(OptionError, match="is not a model of a Triton repository"):
        export_triton(tiny_bundle, tmp_path / "repository", overwrite=True)
