"""The closed form of explanations against PyTorch's autograd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import ghostzoo
from exporters.torch_network import GhostNet, load_official
from ghostzoo.images.transform import preprocess
from ghostzoo.network.architecture import Architecture
from tests.conftest import make_tiny_bundle
from tests.fixtures.networks import random_arrays


def test_a_map_is_what_autograd_gives(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny", image_size=160)
    architecture = Architecture.of(0.25, 7)
    network = GhostNet(architecture).eval().double()
    load_official(network, random_arrays(architecture))
    picture = np.random.default_rng(0).integers(0, 256, (200, 180, 3), np.uint8)
    kept: list[torch.Tensor] = []
    network.conv_last.register_forward_hook(lambda _, __, output: kept.append(output.requires_grad_()))
    with ghostzoo.load(bundle.path, engine="onnxruntime", threads=1) as classifier:
        pixel_values = preprocess(picture, bundle.preprocessing)
        logits = network(torch.from_numpy(pixel_values[np.newaxis]).double())[0]
        for index, against in ((0, None), (4, None), (2, 6)):
            logit = logits[index] - (0 if against is None else logits[against])
            (gradient,) = torch.autograd.grad(logit, kept[0], retain_graph=True)
            expected = (gradient * kept[0]).sum(dim=1)[0].detach().numpy()
            found = classifier.explain(picture, index, against)
            assert found.map.shape == (5, 5)
            np.testing.assert_allclose(found.map, expected, atol=1e-5 * logits.abs().max().item())
            assert abs(found.logit - logit.item()) < 1e-5 * logits.abs().max().item()
