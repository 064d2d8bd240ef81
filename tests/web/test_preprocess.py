"""The page preprocesses bit for bit as the package does."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ghostzoo.bundle.hub_configs import preprocessing_to_json
from ghostzoo.images.preprocessing import BICUBIC, BILINEAR, Preprocessing
from ghostzoo.images.transform import preprocess
from ghostzoo.serve.page_files import PACKAGE

_SIZES = [
    (500, 375),
    (375, 500),
    (256, 256),
    (257, 300),
    (512, 512),  # exactly half: the engine of the package averages there
    (1024, 512),
    (100, 70),
    (610, 22),
    (33, 31),
    (1, 40),
    (1500, 900),
]


@pytest.mark.parametrize("interpolation", [BILINEAR, BICUBIC])
def test_the_page_preprocesses_bit_for_bit_as_the_package(node: str, tmp_path: Path, interpolation: str) -> None:
    rng = np.random.default_rng(7)
    sizes = _SIZES + [tuple(size) for size in rng.integers(20, 700, (12, 2)).tolist()]
    cases, expected = [], []
    for index, (width, height) in enumerate(sizes):
        rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        if index % 2:
            rgba = cv2.GaussianBlur(rgba, (7, 7), 0)
        config = Preprocessing(256, 224) if index % 3 else Preprocessing(72, 64, rescale_factor=1 / 255)
        config = replace(config, interpolation=interpolation)
        file = tmp_path / f"{index}.rgba"
        rgba.tofile(file)
        facts = json.loads(preprocessing_to_json(config))
        cases.append({"file": str(file), "width": width, "height": height, "config": facts})
        expected.append(preprocess(np.ascontiguousarray(rgba[:, :, :3]), config))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("preprocess.mjs")
    subprocess.run([node, script, PACKAGE / "preprocess.js", tmp_path / "cases.json"], check=True)
    for case, values in zip(cases, expected, strict=True):
        actual = np.fromfile(f"{case['file']}.out", np.float32)
        np.testing.assert_array_equal(actual, values.ravel(), err_msg=f"{case['width']} x {case['height']}")
