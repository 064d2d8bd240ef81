"""What a call through ``Classifier`` costs over the same engine, decoder and arithmetic called by hand."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import cv2
import numpy as np

import ghostzoo
from benchmarks.figures import out_option, save
from benchmarks.prepare import model_folder
from benchmarks.turns import print_machine
from ghostzoo._utils.timing import time_in_turn
from ghostzoo.bench.sample_image import jpeg
from ghostzoo.cli.console import print_table
from ghostzoo.images.transform import preprocess

TARGET = 1.03


@click.command()
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--model", "models", multiple=True, default=("GhostNet_x0_5", "GhostNet_x1_0"), show_default=True)
@out_option
def main(seconds: float, models: tuple[str, ...], out: Path | None) -> None:
    print_machine()
    data, rows, figures = jpeg(), [], {}
    for model in models:
        with ghostzoo.load(model_folder(model) / "bundle", engine="onnxruntime", threads=1) as classifier:
            config, run = classifier.bundle.preprocessing, classifier.engine.run

            def by_hand(config: Any = config, run: Any = run) -> list[tuple[int, float]]:
                rgb = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
                logits = run(preprocess(rgb, config)[None])[0]
                scores = np.exp(logits - logits.max())
                scores /= scores.sum()
                best = np.argpartition(scores, -5)[-5:]
                return [(int(index), float(scores[index])) for index in best[np.argsort(-scores[best])]]

            assert [index for index, _ in by_hand()] == [each.index for each in classifier(data)]
            times = time_in_turn({"hand": by_hand, "classifier": lambda c=classifier: c(data)}, seconds)
        ratio = statistics.median(c / h for c, h in zip(times["classifier"], times["hand"], strict=True))
        figures[model] = {"ratio": ratio, **{f"{name}_ms": 1000 * statistics.median(times[name]) for name in times}}
        rows.append([model, *(f"{1000 * statistics.median(times[name]):.3f}" for name in times), f"{ratio:.3f}"])
    print_table(["a call", "by hand ms", "Classifier ms", f"ratio (target {TARGET})"], rows)
    save(out, figures)


if __name__ == "__main__":
    main()
