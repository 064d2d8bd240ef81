"""Published models in optimum-onnx, by the card's own code; its pins need an environment apart: 'make test-all'."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ghostzoo.bundle.folder import Bundle
from ghostzoo.images.decode import read_image
from ghostzoo.images.transform import preprocess
from ghostzoo.parity import EXACT_TOLERANCE, compare_logits
from hub.card import CardFacts
from hub.publish import Target, publish
from tests.fixtures.hub import LoopbackHub
from tests.fixtures.pictures import encoded, picture

pytestmark = pytest.mark.slow

VARIABLE = "GHOSTZOO_OPTIMUM_PYTHON"
_AFTERWARDS = """
import numpy, torch
golden = numpy.load("golden.npz")
known = model(pixel_values=torch.from_numpy(golden["pixel_values"])).logits
numpy.savez("out.npz", golden=known.numpy(), pixel_values=inputs["pixel_values"].numpy())
"""


@pytest.mark.parametrize("bundle", ["bilinear", "bicubic"], indirect=True)
def test_it_loads_the_repository_and_computes_the_same(
    hub: LoopbackHub, target: Target, bundle: Bundle, environment: dict[str, str], tmp_path: Path
) -> None:
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip("optimum-onnx needs older versions of the Hub's client; 'make test-all' runs this")
    publish(bundle.path, target, CardFacts())
    repository = hub.repositories["zoo/tiny"]
    card = repository.commits[repository.head].files["README.md"].content.decode()
    [code] = [block for block in re.findall(r"(?ms)^```python\n(.*?)^```$", card) if "optimum" in block]
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encoded(picture(120, 90), "JPEG", quality=95))
    (tmp_path / "golden.npz").write_bytes(bundle.read("golden.npz"))
    own = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    command = [str(Path(python).absolute()), "-c", code + _AFTERWARDS]
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {label.label for label in bundle.labels}
    with np.load(tmp_path / "out.npz") as out:
        agreement = compare_logits(bundle.golden().logits, out["golden"], EXACT_TOLERANCE)
        assert agreement.within(EXACT_TOLERANCE), agreement
        pixels = preprocess(read_image(photo), bundle.preprocessing)
        levels = np.abs(out["pixel_values"][0] - pixels).mean() * 255 * np.mean(bundle.preprocessing.std)
    assert levels < 3, levels
