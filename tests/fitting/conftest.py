"""Folders of made-up pictures that a network can tell apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

_COLOURS = {"red": (40, 40, 200), "green": (40, 180, 40), "blue": (200, 60, 30), "white": (230, 230, 230)}

MakeFolder = Callable[..., Path]


def write_picture(path: Path, colour: str, seed: int) -> None:
    """A picture of blurred noise around a colour."""
    rng = np.random.default_rng([seed, *colour.encode()])
    noise = cv2.resize(rng.normal(0, 30, (6, 8, 3)), (96, 80), interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.clip(np.array(_COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Return what makes a folder of pictures: ``make_folder("data", red=range(5), blue=range(5))``."""

    def make(name: str, **classes: range) -> Path:
        for colour, seeds in classes.items():
            for seed in seeds:
                write_picture(tmp_path / name / colour / f"{seed:03}.png", colour, seed)
        return tmp_path / name

    return make
