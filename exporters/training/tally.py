"""The means of an epoch, over all images and all processes."""

from __future__ import annotations

import torch
from torch import Tensor

from exporters.training.place import Place
from ghostzoo.evaluation.datasets import UNLABELLED


class Tally:
    """Running sums over images: loss, right answers, labelled images, images. They stay on the device."""

    def __init__(self, device: torch.device, sums: list[float] | None = None) -> None:
        self.sums = torch.tensor(sums or [0.0] * 4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        known = labels != UNLABELLED
        right = ((logits.argmax(1) == labels) & known).sum()
        images = torch.full_like(right, len(labels))
        self.sums += torch.stack([loss.double() * len(labels), right.double(), known.sum().double(), images.double()])

    def means(self, place: Place) -> tuple[float, float]:
        """Return mean loss and accuracy over the images of all processes."""
        loss, right, labelled, images = place.total(self.sums).tolist()
        return loss / max(images, 1), right / max(labelled, 1)
