"""timm's own transform gives what the package's does, to the bit."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("timm") is None:  # importing it may take a schema that exporters.timm_network declares first
    pytest.skip("timm is not installed here; 'nox -s timm' makes an environment with it", allow_module_level=True)

from PIL import Image

from exporters.timm_network import import_timm
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(224, 224), (100, 61), (333, 500), (500, 375), (480, 1999), (900, 701)])
def test_pictures_become_the_same_tensors(shape: tuple[int, int], crop_pct: float) -> None:
    import_timm()
    from timm.data import create_transform
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    transform = create_transform(
        (3, 224, 224), interpolation="bicubic", crop_pct=crop_pct, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD
    )
    ours = preprocess(rgb, Preprocessing.timm(224, crop_pct))
    np.testing.assert_array_equal(ours, transform(Image.fromarray(rgb)).numpy())
