"""Tune an EfficientNet-Lite to labelled images, before it becomes their teacher.

ImageNet's networks know photographs: of enlarged thumbnails, a classifier on their features says little.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from exporters.efficientnet_lite import DESCRIPTION
from exporters.efficientnet_lite_torch import EfficientNetLite
from exporters.training.checkpoint import load_checkpoint, save_checkpoint
from exporters.training.data import ImageCache
from exporters.training.loader import TrainingLoader
from exporters.training.recipe import Recipe
from exporters.training.teacher import Description, pixel_values
from ghostzoo.errors import InputError
from ghostzoo.evaluation.datasets import ImageDataset

_HEAD_RATE = 4.0  # of the new last layer, as a multiple of the others'
_CLIP = 5.0
_WARMUP = 0.1  # of all steps
_BATCH = 100  # of images to measure on
_CHECKPOINT_SECONDS = 300.0


@dataclass(frozen=True)
class Tuning:
    """How a teacher is tuned: AdamW, random crops, and half a cosine down to zero."""

    image_size: int = 112
    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 8e-4
    seed: int = 0

    @property
    def description(self) -> Description:
        """How the tuned teacher sees images."""
        return Description("teacher.onnx", self.image_size, self.image_size, **DESCRIPTION)

    def rate_at(self, progress: float) -> float:
        """Return the learning rate at a position from 0 to 1."""
        decay = 0.5 * (1 + math.cos(math.pi * max(0.0, (progress - _WARMUP) / (1 - _WARMUP))))
        return self.learning_rate * min(1.0, progress / _WARMUP) * decay


def tune(
    weights: Mapping[str, NDArray[np.float32]],
    training: ImageDataset,
    validation: ImageDataset | None,
    tuning: Tuning,
    out: Path,
    *,
    threads: int = 1,
    resume: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> Mapping[str, NDArray[np.float32]]:
    """Train the network with a new last layer for the data's classes; return its tensors.

    Args:
        weights: those of an EfficientNet-Lite.
        training: the images to learn.
        validation: images to measure the result on.
        tuning: how.
        out: folder of the checkpoint, which is saved every five minutes.
        threads: of the network, and as many that prepare images.
        resume: continue from the checkpoint.
        log: is told how it goes.

    Raises:
        InputError: there is no checkpoint to resume from, it is another run's, or the loss is no longer finite.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    torch.manual_seed(tuning.seed)
    images = ImageCache(2**30)
    recipe = Recipe(
        image_size=tuning.image_size,
        resize_short=tuning.image_size,
        epochs=tuning.epochs,
        warmup_epochs=0,
        batch_size=tuning.batch_size,
        crop_scale=0.5,
        interpolation="random",
        seed=tuning.seed,
    )
    loader = TrainingLoader(training, images, recipe, workers=threads, rank=0, world_size=1)
    network = EfficientNetLite(weights, len(training.classes)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(
        [{"params": network.body.parameters()}, {"params": network.fc.parameters()}], lr=0.0, weight_decay=0.02
    )
    done, total, saved = 0, loader.steps * tuning.epochs, time.monotonic()
    identity = {"tuning": repr(tuning), "images": training.fingerprint()}
    if resume:
        state = load_checkpoint(out)
        if state.get("identity") != identity:
            raise InputError(f"{out} holds another run; tune with its own options, or in another --out.")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
    while done < total:
        epoch, start = divmod(done, loader.steps)
        right: list[float] = []
        for pixels, labels in loader.batches(epoch, start):
            for group, factor in zip(optimizer.param_groups, (1.0, _HEAD_RATE), strict=True):
                group["lr"] = tuning.rate_at(done / total) * factor
            y = torch.from_numpy(labels)
            logits = network(_normalised(pixels, tuning.description))
            loss = F.cross_entropy(logits, y, label_smoothing=0.1)
            if not math.isfinite(loss.item()):
                raise InputError("The loss diverged; tune again with a lower --learning-rate.")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
            optimizer.step()
            done += 1
            right.append(float((logits.argmax(1) == y).float().mean()))
            if done % 50 == 0 or done == total:
                log(f"step {done} of {total}: accuracy {np.mean(right[-50:]):.3f} on training crops")
            if time.monotonic() - saved > _CHECKPOINT_SECONDS or done == total:
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
                save_checkpoint(out, {**state, "identity": identity})
                saved = time.monotonic()
    if validation is not None:
        log(f"accuracy {measure(network, validation, images, tuning.description):.4f} on the held-out images")
    result: Mapping[str, NDArray[np.float32]] = network.arrays()
    return result


@torch.inference_mode()
def measure(network: EfficientNetLite, dataset: ImageDataset, images: ImageCache, description: Description) -> float:
    """Return the top-1 accuracy."""
    network.eval()
    right = 0
    for start in range(0, len(dataset.samples), _BATCH):
        batch = dataset.samples[start : start + _BATCH]
        x = torch.from_numpy(np.stack([pixel_values(images.read(sample), description) for sample in batch]))
        right += int((network(x).argmax(1) == torch.tensor([sample.label for sample in batch])).sum())
    return right / len(dataset.samples)


def _normalised(images: NDArray[np.uint8], description: Description) -> Tensor:
    """RGB (N, H, W, 3) -> the network's input (N, 3, H, W), in channels-last memory."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (description.mean, description.std))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
