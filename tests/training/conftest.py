from __future__ import annotations

import tarfile
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

if find_spec("torch") is not None:
    import torch

    torch.set_num_threads(1)  # so small a network only waits for more


STAGES = ((8, 1, 3, 1), (10, 6, 3, 2), (12, 6, 5, 2), (16, 6, 3, 1), (20, 6, 5, 1), (24, 6, 5, 1), (32, 6, 3, 1))
"""Channels, expansion, kernel and blocks of a very small EfficientNet-Lite."""


class _WithoutTorch(pytest.Module):
    """A module of tests that is not imported."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("training needs PyTorch: make test runs these tests in an environment that has it")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return _WithoutTorch.from_parent(parent, path=module_path) if find_spec("torch") is None else None


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class: discs, plain colours and stripes, 40 of each, on rather blue, green and red ground."""
    root = tmp_path_factory.mktemp("pictures") / "shapes"
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("disc", "plain", "stripes")):
        (root / name).mkdir(parents=True)
        for index in range(40):
            picture = np.full((40, 48, 3), rng.integers(0, 100, 3), np.uint8)
            picture[..., channel] += 100
            colour = rng.integers(120, 256, 3).tolist()
            if name == "disc":
                cv2.circle(picture, (24, 20), int(rng.integers(8, 18)), colour, -1)
            elif name == "stripes":
                picture[:, ::4] = picture[:, 1::4] = colour
            cv2.imwrite(str(root / name / f"{index:02}.png"), picture)
    return root


@pytest.fixture(scope="session")
def pictures_tar(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures in a tar, packed in another order and below one more folder."""
    path = tmp_path_factory.mktemp("tar") / "shapes.tar"
    with tarfile.open(path, "w") as archive:
        for file in sorted(pictures.rglob("*.png"), reverse=True):
            archive.add(file, f"train/{file.relative_to(pictures).as_posix()}")
    return path


@pytest.fixture(scope="session")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run with ``EVERYTHING``."""
    from tests.training.runs import EVERYTHING, train

    out = tmp_path_factory.mktemp("finished") / "shapes-run"
    train("--data", pictures, "--out", out, *EVERYTHING).check()
    return out


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A state dict with the names of the published ones."""
    rng = np.random.default_rng(0)
    state: dict[str, torch.Tensor] = {}

    def add(name: str, norm: str, *shape: int) -> None:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        state[f"{name}.weight"] = torch.from_numpy(rng.normal(0, scale, shape).astype(np.float32))
        for part, low, high in (("weight", 0.8, 1.2), ("bias", 0, 0.2), ("running_mean", -1, 1), ("running_var", 1, 2)):
            state[f"{norm}.{part}"] = torch.from_numpy(rng.uniform(low, high, shape[0]).astype(np.float32))
        state[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    add("_conv_stem", "_bn0", 6, 3, 3, 3)
    before, block = 6, 0
    for channels, expansion, kernel, blocks in STAGES:
        for _ in range(blocks):
            prefix, hidden = f"_blocks.{block}.", before * expansion
            if expansion > 1:
                add(f"{prefix}_expand_conv", f"{prefix}_bn0", hidden, before, 1, 1)
            add(f"{prefix}_depthwise_conv", f"{prefix}_bn1", hidden, 1, kernel, kernel)
            add(f"{prefix}_project_conv", f"{prefix}_bn2", channels, hidden, 1, 1)
            before, block = channels, block + 1
    add("_conv_head", "_bn1", 1280, before, 1, 1)
    state["_fc.weight"] = torch.from_numpy(rng.normal(0, 0.1, (5, 1280)).astype(np.float32))
    state["_fc.bias"] = torch.from_numpy(rng.normal(0, 0.1, 5).astype(np.float32))
    path = tmp_path / "lite.pth"
    torch.save(state, path)
    return path
