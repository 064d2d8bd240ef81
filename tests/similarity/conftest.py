"""A folder of photographs and some of their copies, and a model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

import ghostzoo
from ghostzoo.classifier import Classifier
from tests.fitting.conftest import write_picture

SAMPLES = Path(ghostzoo.__file__).parent / "serve" / "page" / "samples"
LONG_AGO = 10**18


@pytest.fixture(scope="session")
def classifier() -> Iterator[Classifier]:
    with ghostzoo.load(engine="onnxruntime", threads=2) as loaded:
        yield loaded


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve made-up pictures in two folders, and three photographs, all written long ago."""
    folder = tmp_path / "photos"
    for seed in range(6):
        for colour in ("red", "blue"):
            write_picture(folder / colour / f"{seed}.png", colour, seed)
    for name in ("cat", "coffee", "rocket"):
        cv2.imwrite(str(folder / f"{name}.jpg"), cv2.imread(str(SAMPLES / f"{name}.jpg")))
    for path in folder.rglob("*.*"):
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return folder
