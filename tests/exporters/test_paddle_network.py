from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from exporters.paddle_network import build_network, forward
from ghostzoo.images.decode import read_image
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.reference import reference_forward
from ghostzoo.parity import compare_logits
from ghostzoo.weights.params import read_weights
from tests.fixtures.networks import random_arrays

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("width", "classes"), [(0.35, 3), (1.0, 10), (1.3, 7)])
def test_keys_and_answers_are_those_of_the_table(width: float, classes: int) -> None:
    architecture = Architecture.of(width, classes)
    arrays = random_arrays(architecture)
    network = build_network(arrays, architecture)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == architecture.state_shapes()
    pixel_values = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    logits, embedding = forward(network, pixel_values)
    expected_logits, expected_embedding = reference_forward(arrays, architecture, pixel_values)
    assert compare_logits(expected_logits, logits).within(1e-5)
    assert compare_logits(expected_embedding, embedding).relative <= 1e-5


def test_foreign_keys_are_refused() -> None:
    architecture = Architecture.of(0.35, 3)
    arrays = random_arrays(architecture)
    arrays["fc_2.weight"] = arrays.pop("fc_1.weight")
    with pytest.raises(ValueError, match="fc_2"):
        build_network(arrays, architecture)


@pytest.mark.parametrize("model", ["GhostNet_x0_5", "GhostNet_x1_0", "GhostNet_x1_3"])
def test_it_computes_the_originals_logits(model: str, shared: Path) -> None:
    tensors = read_weights(shared / "reference" / f"{model}_pretrained.pdparams")
    network = build_network(tensors.arrays, tensors.architecture)
    with np.load(shared / "reference" / f"{model}_logits.npz") as reference:
        names, expected = reference["files"].tolist()[:7], reference["logits"][:7]
    photos = [shared / "images" / "photos" / Path(name).name for name in names]
    pixel_values = np.stack([preprocess(read_image(path), Preprocessing()) for path in photos])
    assert compare_logits(expected, forward(network, pixel_values)[0]).within(1e-6)


def test_files_of_paddle_2_and_numpy_1_are_read(weights: Path, paddle2_python: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    script = root / "tests" / "fixtures" / "write_old_weights.py"
    subprocess.run([paddle2_python, script, weights, tmp_path], check=True, capture_output=True, cwd=root)
    expected = read_weights(weights)
    for form in ("protocol2", "protocol4", "tuples"):
        data = (tmp_path / f"{form}.pdparams").read_bytes()
        assert b"numpy.core.multiarray" in data
        tensors = read_weights(tmp_path / f"{form}.pdparams", width=0.5, num_classes=1000)
        for key, array in expected.arrays.items():
            np.testing.assert_array_equal(tensors.arrays[key], array, err_msg=f"{form}: {key}")


def test_what_todays_paddle_saves_is_read(weights: Path, tmp_path: Path) -> None:
    import paddle

    expected = read_weights(weights)
    paddle.save(build_network(expected.arrays, expected.architecture).state_dict(), str(tmp_path / "new.pdparams"))
    tensors = read_weights(tmp_path / "new.pdparams")
    for key, array in expected.arrays.items():
        np.testing.assert_array_equal(tensors.arrays[key], array)
