"""The training recipe: every hyperparameter that changes the resulting weights, and the schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ghostzoo.errors import OptionError
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.families import FAMILIES, PADDLE_GHOSTNET

REFERENCE_BATCH = 512
REFERENCE_LEARNING_RATE = 0.8
"""PaddleClas trained its GhostNets with 0.8 at 512 images; the learning rate scales with the batch size."""

FINE_TUNING: Mapping[str, Any] = {
    "epochs": 20,
    "batch_size": 32,
    "optimizer": "adamw",
    "crop_scale": 0.5,
    "backbone_rate": 0.1,
    "keep_statistics": True,
}
"""The defaults of a run that starts from given weights. The published recipe, or batch-norm statistics of a few small
batches, ruin a good network within an epoch."""
NEW_HEAD_RATE, KEPT_HEAD_RATE = 0.003, 0.0003
"""Their learning rates, for AdamW: what a trained head knows already takes smaller steps."""

OPTIMIZERS = ("sgd", "adamw")
INTERPOLATIONS = ("linear", "random")
MAX_IMAGE_SIZE = 2048


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of one run; the defaults are the published recipe of PaddleClas's GhostNets.

    A run is a pure function of its recipe, data and initial weights: sample order, augmentation and dropout depend on
    ``seed`` and the position in the run, never on earlier random numbers.
    """

    width: float = 0.5
    family: str = PADDLE_GHOSTNET.name
    image_size: int = 224
    resize_short: int = 256
    """Shorter side in pixels at evaluation, before the centre crop of ``image_size``."""
    grow: tuple[tuple[int, int], ...] = ()
    """(image size, epochs) of the stages before ``image_size``."""
    epochs: int = 360
    batch_size: int = 512
    """Images per step, over all processes."""
    optimizer: str = "sgd"
    """``sgd`` or ``adamw``."""
    learning_rate: float | None = None
    """At the peak; ``None``: 0.8 per 512 images in a batch, for SGD from random weights."""
    warmup_epochs: float = 5.0
    momentum: float = 0.9
    """Of SGD; for AdamW the decay of the first moment."""
    nesterov: bool = False
    weight_decay: float = 4e-5
    """L2 penalty (SGD) or decoupled decay (AdamW) of all parameters except batch-norm's."""
    label_smoothing: float = 0.1
    dropout: float = 0.2
    crop_scale: float = 0.08
    """Smallest share of the area that a random-resized crop keeps."""
    interpolation: str = "linear"
    """How a crop is resized: ``linear``, or a ``random`` one of OpenCV's methods, for images of varying sharpness."""
    sharpen: float = 0.0
    """Largest strength of a random sharpening or blurring of crops; 0 is off."""
    flip: bool = True
    rand_augment: tuple[int, float] | None = None
    """(operations per image, magnitude from 0 to 10)."""
    mixup: float = 0.0
    """Alpha of the Beta distribution; 0 is off."""
    cutmix: float = 0.0
    """Alpha of the Beta distribution; 0 is off."""
    ema: float = 0.0
    """Decay per step of the moving average of the weights; 0 is off."""
    clip_gradients: float = 0.0
    """Maximum norm of all gradients together; 0 is off."""
    gate_rate: float = 1.0
    """Share of the learning rate for squeeze-and-excitation layers, which large steps can kill."""
    reset_gates: bool = False
    """Re-initialise those that are dead in the initial weights."""
    head_epochs: int = 0
    """First epochs, in which only the head learns; with all of them the backbone stays as it is."""
    backbone_rate: float = 1.0
    """Share of the learning rate for all layers but the head."""
    keep_statistics: bool = False
    """Keep the batch-norm statistics of the initial weights."""
    new_head: bool = False
    """Re-initialise the head, even if that of the initial weights fits the classes."""
    distill_weight: float = 1.0
    """Weight of the divergence from the teacher; the label loss has weight 1."""
    distill_temperature: float = 1.0
    feature_weight: float = 0.0
    """Weight of the angle between the embedding and the teacher's feature (1 - cosine)."""
    precision: str = "float32"
    """``float32``, ``bfloat16`` or ``float16`` (with loss scaling)."""
    channels_last: bool = True
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in _BOUNDS:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise OptionError(f"{name.replace('_', '-')} must be from {low:g} to {high:g}, not {value:g}.")
        if self.optimizer not in OPTIMIZERS:
            raise OptionError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}.")
        if self.nesterov and not self.momentum:
            raise OptionError("nesterov needs momentum; give --momentum a value, or leave --nesterov out.")
        if self.interpolation not in INTERPOLATIONS:
            raise OptionError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not {self.interpolation!r}.")
        if self.warmup_epochs >= self.epochs:
            raise OptionError(f"warmup-epochs ({self.warmup_epochs:g}) must be fewer than epochs ({self.epochs}).")
        if self.resize_short < self.image_size:
            raise OptionError(
                f"resize-short ({self.resize_short}) must not be smaller than image-size ({self.image_size})."
            )
        for size, epochs in self.grow:
            if not (32 <= size <= MAX_IMAGE_SIZE and epochs >= 1):
                raise OptionError(f"grow {size}:{epochs} needs a size from 32 to {MAX_IMAGE_SIZE} and 1 epoch or more.")
        if sum(epochs for _, epochs in self.grow) >= self.epochs:
            raise OptionError(
                f"The grow stages take all {self.epochs} epochs; leave at least one for image-size {self.image_size}."
            )
        if self.rand_augment is not None and not (1 <= self.rand_augment[0] <= 8 and 0 <= self.rand_augment[1] <= 10):
            raise OptionError("rand-augment needs 1 to 8 operations and a magnitude from 0 to 10.")

    def architecture(self, num_classes: int, *, fused: bool = False) -> Architecture:
        """The network, for so many classes; ``fused``: without the branches that some families train."""
        return Architecture.of(self.width, num_classes, FAMILIES[self.family], fused=fused)

    @property
    def peak_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return REFERENCE_LEARNING_RATE * self.batch_size / REFERENCE_BATCH

    def freezes(self, epoch: int) -> bool:
        """Whether only the head learns in an epoch (from 0)."""
        return epoch < self.head_epochs

    def learning_rate_at(self, epoch: float) -> float:
        """Learning rate at a position in epochs: linear warm-up from 0, then half a cosine to 0."""
        if epoch < self.warmup_epochs:
            return self.peak_learning_rate * epoch / self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.peak_learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def image_size_at(self, epoch: int) -> int:
        """Side in pixels of the training images in an epoch (from 0)."""
        for size, epochs in self.grow:
            if epoch < epochs:
                return size
            epoch -= epochs
        return self.image_size

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing for the finished network."""
        return Preprocessing(resize_short=self.resize_short, crop_size=self.image_size)

    def preprocessing_at(self, epoch: int) -> Preprocessing:
        """Preprocessing for evaluation after an epoch (from 0).

        While the image size grows, the network is evaluated at the size that it is being trained at: its accuracy at
        another size is far lower, and tells nothing about its progress.
        """
        size = self.image_size_at(epoch)
        return Preprocessing(resize_short=round(self.resize_short * size / self.image_size), crop_size=size)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("width", 0.05, 8),
    ("image_size", 32, MAX_IMAGE_SIZE),
    ("resize_short", 32, 2 * MAX_IMAGE_SIZE),
    ("epochs", 1, 100_000),
    ("batch_size", 2, 1_000_000),
    ("learning_rate", 0, 100),
    ("warmup_epochs", 0, 100_000),
    ("momentum", 0, 0.9999),
    ("weight_decay", 0, 1),
    ("label_smoothing", 0, 0.9),
    ("dropout", 0, 0.95),
    ("crop_scale", 0.01, 1),
    ("gate_rate", 0, 10),
    ("head_epochs", 0, 100_000),
    ("backbone_rate", 0, 10),
    ("mixup", 0, 10),
    ("cutmix", 0, 10),
    ("ema", 0, 0.999999),
    ("clip_gradients", 0, 1e6),
    ("distill_weight", 0, 1000),
    ("distill_temperature", 0.1, 100),
    ("feature_weight", 0, 1000),
    ("sharpen", 0, 10),
    ("seed", 0, 2**32 - 1),
)
