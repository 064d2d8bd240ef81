"""The bundled model in float16 and int8: its size, and its accuracy in ONNX Runtime and OpenVINO.

.venv/bin/python benchmarks/quantized.py --calibration cifar10-train.tar --data cifar10-test-dev.tar
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

import ghostzoo
from benchmarks.figures import out_option, save
from benchmarks.turns import print_machine
from exporters.quantized_bundle import quantize_bundle
from ghostzoo.catalog import DEFAULT_MODEL
from ghostzoo.cli.console import print_table
from ghostzoo.evaluation.datasets import open_dataset
from ghostzoo.evaluation.evaluate import evaluate, open_labelled
from ghostzoo.fetch.resolver import fetch

ENGINES = ("onnxruntime", "openvino")
PRECISIONS = ("fp32", "fp16", "int8")


@click.command()
@click.option("--calibration", type=click.Path(exists=True), required=True, help="Images to calibrate int8 on.")
@click.option("--data", type=click.Path(exists=True), required=True, help="Labelled images that it was not trained on.")
@click.option("--images", default=512, show_default=True, help="Images to take; int8 is calibrated on half of them.")
@out_option
def main(calibration: str, data: str, images: int, out: Path | None) -> None:
    """Add both precisions to a copy of the bundle, and measure all three."""
    print_machine()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, DEFAULT_MODEL)
        shutil.copytree(fetch(DEFAULT_MODEL).path, path)
        sizes = {"fp32": 1.0}
        for precision in PRECISIONS[1:]:
            result = quantize_bundle(path, precision, open_dataset(calibration), max_images=images)
            sizes[precision] = result.size_ratio
        for precision in PRECISIONS:
            found[precision] = {"size": sizes[precision]}
            for engine in ENGINES:
                with ghostzoo.load(path, engine=engine, precision=precision) as classifier:
                    result = evaluate(classifier, open_labelled(data, classifier.bundle.labels))
                found[precision][engine] = result.top1.value
    rows = [[name, f"{row['size']:.3g}", *(f"{row[engine]:.4f}" for engine in ENGINES)] for name, row in found.items()]
    print_table(["", "size", *ENGINES], rows)
    save(out, {"calibration_images": (images + 1) // 2, "precisions": found})


if __name__ == "__main__":
    main()
