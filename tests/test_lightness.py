"""Importing the package is cheap, and predicting imports only what it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from ghostzoo.bundle.folder import Bundle


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after ``code``."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    result = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


HEAVY = {"numpy", "cv2", "onnx", "onnxruntime", "openvino", "huggingface_hub", "paddle", "torch", "requests", "rich"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not modules_after("import ghostzoo; dir(ghostzoo)") & (HEAVY | {"click"})


def test_listing_models_imports_nothing_heavy() -> None:
    assert not modules_after("import ghostzoo; ghostzoo.list_models(); ghostzoo.get_model('GhostNet_x1_0')") & HEAVY


def test_predicting_imports_no_exporter_and_no_hub(tiny_bundle: Bundle, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.zeros((70, 80, 3), np.uint8))
    loaded = modules_after(
        f"import ghostzoo; clf = ghostzoo.load({str(tiny_bundle.path)!r}, threads=1); clf({str(image)!r})"
    )
    unneeded = {"onnx", "huggingface_hub", "paddle", "torch", "requests", "click", "rich", "openvino", "PIL"}
    assert not loaded & unneeded
    assert {"cv2", "numpy", "onnxruntime"} <= loaded


def test_every_public_name_can_be_imported() -> None:
    import ghostzoo

    for name in ghostzoo.__all__:
        assert getattr(ghostzoo, name) is not None
    # A module of the same name must not shadow a function, whatever is imported first.
    code = "import ghostzoo.converter, ghostzoo.classifier, ghostzoo; assert callable(ghostzoo.convert)"
    subprocess.run([sys.executable, "-c", code], check=True)


PREDICT = """
import sys, ghostzoo
ran, image = set(), sys.argv[1]

def note(frame, event, argument):
    if event == "call" and "/ghostzoo/" in frame.f_code.co_filename:
        ran.add(frame.f_code.co_filename)

ghostzoo.load("GhostNet_x0_5_cifar10", engine="onnxruntime", threads=1)  # what imports run does not count
sys.setprofile(note)
classifier = ghostzoo.load("GhostNet_x0_5_cifar10", engine="onnxruntime", threads=1)
sys.setprofile(None)
classifier(image)
print(len(ran), sum(name.partition(".")[0] == "ghostzoo" for name in sys.modules))
"""


def test_the_way_from_a_name_to_predictions_is_short(tmp_path: Path) -> None:
    """A reader of it opens few files; a module that most callers do not need is imported where it is used."""
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.zeros((70, 80, 3), np.uint8))
    words = [sys.executable, "-c", PREDICT, str(image)]
    for _ in range(2):  # the first time, the graph is checked
        result = subprocess.run(words, capture_output=True, text=True, check=True)
    run, loaded = map(int, result.stdout.split())
    assert run <= 21
    assert loaded <= 53
