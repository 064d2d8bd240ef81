"""What most people write between an image's bytes and the network: OpenCV and NumPy, in the original's steps."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ghostzoo.images.preprocessing import Preprocessing


def preprocess(data: bytes, config: Preprocessing) -> Any:
    """Encoded image -> (1, 3, H, W) float32; sizes and normalisation are the model's."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    height, width = image.shape[:2]
    scale = config.resize_short / min(height, width)
    image = cv2.resize(image, (round(width * scale), round(height * scale)))
    crop = config.crop_size
    top, left = (image.shape[0] - crop) // 2, (image.shape[1] - crop) // 2
    image = image[top : top + crop, left : left + crop]
    mean, std = (np.array(values, np.float32) for values in (config.mean, config.std))
    image = (image.astype(np.float32) * np.float32(config.rescale_factor) - mean) / std
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])
