"""Start-up: importing, ``ghostzoo list``, and loading up to the first prediction, each in fresh processes in turn."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from benchmarks.figures import out_option, save
from benchmarks.prepare import model_folder
from benchmarks.turns import print_machine
from ghostzoo.bench.sample_image import jpeg
from ghostzoo.cli.console import print_table

_FIRST_OURS = """
import sys
from ghostzoo import load
load(sys.argv[1] + "/bundle", engine=sys.argv[3], threads=1)(sys.argv[2])
"""
_FIRST_RAW = """
import sys, cv2, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = ort.InferenceSession(sys.argv[1] + "/raw.onnx", options, providers=["CPUExecutionProvider"])
image = cv2.imread(sys.argv[2])[:, :, ::-1]
scale = 256 / min(image.shape[:2])
image = cv2.resize(image, (round(image.shape[1] * scale), round(image.shape[0] * scale)))
top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
image = image[top : top + 224, left : left + 224].astype("float32") * np.float32(0.00392157)
image = (image - np.array([0.485, 0.456, 0.406], "float32")) / np.array([0.229, 0.224, 0.225], "float32")
logits = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(image.transpose(2, 0, 1)[None])})[0][0]
scores = np.exp(logits - logits.max())
scores /= scores.sum()
[(index, scores[index]) for index in scores.argsort()[::-1][:5]]
"""
_NATIVE = "load + first prediction, ghostzoo on native"
# Installed packages are compiled; a checkout is by its first run, unless this forbids it.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@click.command()
@click.option("--rounds", default=20, show_default=True)
@click.option("--model", default="GhostNet_x1_0", show_default=True)
@out_option
def main(rounds: int, model: str, out: Path | None) -> None:
    print_machine()
    python, folder = sys.executable, str(model_folder(model))
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch, "made.jpg")
        image.write_bytes(jpeg())
        commands = {
            "bare interpreter": [python, "-c", "pass"],
            "import ghostzoo": [python, "-c", "import ghostzoo"],
            "import numpy": [python, "-c", "import numpy"],
            "ghostzoo list": [str(Path(python).with_name("ghostzoo")), "list"],
            "load + first prediction, raw": [python, "-c", _FIRST_RAW, folder, str(image)],
            "load + first prediction, ghostzoo": [python, "-c", _FIRST_OURS, folder, str(image), "onnxruntime"],
        }
        if find_spec("ghostzoo_native") is not None:
            commands[_NATIVE] = [python, "-c", _FIRST_OURS, folder, str(image), "native"]
        times = _time(commands, rounds)

    def ratio(ours: str, theirs: str) -> float:
        pairs = zip(times[ours], times[theirs], strict=True)
        return statistics.median(mine / its for mine, its in pairs)

    added = statistics.median(
        mine - bare for mine, bare in zip(times["import ghostzoo"], times["bare interpreter"], strict=True)
    )
    figures: dict[str, Any] = {
        "import_ms": 1000 * added,
        "list_ratio": ratio("ghostzoo list", "import numpy"),
        "first_prediction_ratio": ratio("load + first prediction, ghostzoo", "load + first prediction, raw"),
        "processes_ms": {name: 1000 * statistics.median(times[name]) for name in commands},
    }
    rows = [
        ["import ghostzoo, over a bare interpreter", f"{figures['import_ms']:.1f} ms", "30 ms"],
        ["ghostzoo list / import numpy", f"{figures['list_ratio']:.2f}", "2"],
        ["load + first prediction / raw", f"{figures['first_prediction_ratio']:.2f}", "1.1"],
    ]
    if _NATIVE in times:
        figures["native_ratio"] = ratio(_NATIVE, "load + first prediction, ghostzoo")
        rows.append(["the same on the native engine / on ONNX Runtime", f"{figures['native_ratio']:.2f}", "1"])
    save(out, figures)
    print_table(["start-up", "measured", "target"], rows)
    print_table(["process", "median ms"], [[name, f"{ms:.0f}"] for name, ms in figures["processes_ms"].items()])


def _time(commands: Mapping[str, list[str]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_ENVIRONMENT | {"PYTHONPATH": ""})
            if index:  # the first round fills the caches
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
