"""Start-up: importing, ``ghostzoo list``, and loading up to the first prediction, each in fresh processes in turn."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from benchmarks.prepare import MODELS
from benchmarks.turns import print_machine
from ghostzoo.terminal import print_table

_FIRST_OURS = """
import sys, numpy as np
from ghostzoo import load
clf = load(sys.argv[1] + "/bundle", engine="onnxruntime", threads=1)
clf.engine.run(np.zeros((1, 3, 224, 224), np.float32))
"""
_FIRST_RAW = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1] + "/raw.onnx", options, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 224, 224), np.float32)})
"""


@click.command()
@click.option("--rounds", default=20, show_default=True)
@click.option("--model", default="GhostNet_x1_0", show_default=True)
def main(rounds: int, model: str) -> None:
    print_machine()
    python, folder = sys.executable, str(MODELS / model)
    commands = {
        "bare interpreter": [python, "-c", "pass"],
        "import ghostzoo": [python, "-c", "import ghostzoo"],
        "import numpy": [python, "-c", "import numpy"],
        "ghostzoo list": [str(Path(python).with_name("ghostzoo")), "list"],
        "load + first run, raw": [python, "-c", _FIRST_RAW, folder],
        "load + first run, ghostzoo": [python, "-c", _FIRST_OURS, folder],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": ""})
            if index:  # the first round fills the caches
                times[name].append(time.perf_counter() - start)

    def middle(name: str) -> float:
        return statistics.median(times[name])

    def ratio(ours: str, theirs: str) -> str:
        pairs = zip(times[ours], times[theirs], strict=True)
        return f"{statistics.median(mine / its for mine, its in pairs):.2f}"

    added = statistics.median(
        mine - bare for mine, bare in zip(times["import ghostzoo"], times["bare interpreter"], strict=True)
    )
    rows = [
        ["import ghostzoo, over a bare interpreter", f"{1000 * added:.1f} ms", "30 ms"],
        ["ghostzoo list / import numpy", ratio("ghostzoo list", "import numpy"), "2"],
        ["load + first run / raw", ratio("load + first run, ghostzoo", "load + first run, raw"), "1.1"],
    ]
    print_table(["start-up", "measured", "target"], rows)
    print_table(["process", "median ms"], [[name, f"{1000 * middle(name):.0f}"] for name in commands])


if __name__ == "__main__":
    main()
