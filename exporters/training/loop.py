"""The training loop: steps, evaluation, checkpoints."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from exporters.torch_network import GhostNet
from ghostzoo.catalog import Preprocessing
from ghostzoo.datasets import UNLABELLED, ImageDataset
from ghostzoo.errors import InputError

from .checkpoints import load_checkpoint, save_checkpoint
from .distill import Teacher, divergence
from .ema import MovingAverage
from .loading import ImageStore, Labels, TrainingLoader, evaluation_batches
from .mixing import mix
from .optimiser import autocast, freeze_backbone, make_optimizer
from .recipe import Recipe
from .reporting import Reporter

_EVALUATION_BATCH = 256
_REPORT_STEPS = 10  # reading a sum waits for the device, so it is not done after each step
_STEP_STREAM = 3  # of random numbers; the loader has others


@dataclass(frozen=True)
class Place:
    """Where this process runs among the others."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world: int = 1


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

    def reduced(self, place: Place) -> tuple[float, float]:
        """Return mean loss and accuracy over the images of all processes."""
        sums = self.sums.clone()
        if place.world > 1:
            torch.distributed.all_reduce(sums)
        loss, right, labelled, images = sums.tolist()
        return loss / max(images, 1), right / max(labelled, 1)


class Trainer:
    """One run: the network, its optimiser, and the place in the schedule."""

    def __init__(
        self,
        recipe: Recipe,
        network: GhostNet,
        training: ImageDataset,
        validation: ImageDataset | None,
        *,
        out: Path,
        store: ImageStore,
        reporter: Reporter,
        place: Place,
        workers: int,
        preprocessing: Preprocessing,
        teacher: Teacher | None = None,
        checkpoint_minutes: float = 10.0,
    ) -> None:
        self.recipe, self.out, self.place, self.classes = recipe, out, place, training.classes
        self._loader = TrainingLoader(training, store, recipe, workers=workers, rank=place.rank, world=place.world)
        self._validation, self._store, self._reporter, self._teacher = validation, store, reporter, teacher
        self._preprocessing = preprocessing
        self._checkpoint_seconds = checkpoint_minutes * 60
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.network = network.to(place.device, memory_format=memory_format)  # type: ignore[call-overload]
        if recipe.freeze_backbone:
            freeze_backbone(self.network)
        self.average = MovingAverage(self.network, recipe.ema) if recipe.ema else None
        self._forward = _wrapped(self.network, place, recipe)
        self._optimizer = make_optimizer(self.network, recipe)
        self._scaler = torch.amp.GradScaler(place.device.type, enabled=recipe.precision == "float16")
        self._mean, self._deviation = (
            torch.tensor(values, device=place.device).view(1, 3, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        self.epoch, self.step, self.tally = 0, 0, Tally(place.device)
        self.history: list[dict[str, float]] = []

    @property
    def result(self) -> GhostNet:
        """The network that the run is for: the moving average where there is one."""
        return self.average.network if self.average else self.network

    def run(self) -> None:
        """Train from the current place to the end of the schedule."""
        while self.epoch < self.recipe.epochs:
            self._run_epoch()

    def _run_epoch(self) -> None:
        started = saved = time.monotonic()
        first_step = self.step
        self._set_mode()
        self._reporter.start_epoch(self.epoch, self._loader.steps, self.step)
        for images, labels in self._loader.batches(self.epoch, self.step):
            self._train_step(images, labels)
            self.step += 1
            if self.step % _REPORT_STEPS == 0:
                self._report_progress((self.step - first_step) * self.recipe.batch_size / (time.monotonic() - started))
            if time.monotonic() - saved > self._checkpoint_seconds:
                self.save()
                saved = time.monotonic()
        seconds = time.monotonic() - started
        self._check_finite()
        loss, accuracy = self.tally.reduced(self.place)
        row = {
            "epoch": self.epoch + 1,
            "image_size": self.recipe.image_size_at(self.epoch),
            "learning_rate": self.recipe.learning_rate_at(self.epoch + 1),
            "train_loss": loss,
            "train_accuracy": accuracy,
            "images_per_second": (self.step - first_step) * self.recipe.batch_size / seconds,
        }
        if self._validation is not None:
            row["validation_loss"], row["validation_accuracy"] = self.evaluate(self._validation)
        self.history.append(row)
        self.epoch, self.step, self.tally = self.epoch + 1, 0, Tally(self.place.device)
        self.save()
        self._reporter.end_epoch(self.history)

    def _train_step(self, images: NDArray[np.uint8], labels: Labels) -> None:
        recipe, device = self.recipe, self.place.device
        rng = np.random.default_rng((recipe.seed, _STEP_STREAM, self.epoch, self.step, self.place.rank))
        torch.manual_seed(int(rng.integers(2**63)))  # for dropout
        x = self._pixel_values(images)
        y = torch.from_numpy(labels).to(device)
        x, targets = mix(rng, x, y, len(self.classes), recipe)
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(self.epoch + self.step / self._loader.steps)
        with autocast(device, recipe.precision):
            logits = self._forward(x)
        logits = logits.float()
        loss = _label_loss(logits, targets, y, recipe.label_smoothing)
        if self._teacher is not None:
            loss = loss + recipe.distill_weight * divergence(logits, self._teacher(x), recipe.distill_temperature)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if recipe.clip_gradients:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_gradients)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self.average:
            self.average.update(self.network, self.epoch * self._loader.steps + self.step + 1)
        self.tally.add(loss.detach(), logits.detach(), y)

    def _report_progress(self, images_per_second: float) -> None:
        self._check_finite()
        loss, accuracy = self.tally.reduced(self.place)
        self._reporter.step(self.step, loss, accuracy, images_per_second)

    def _check_finite(self) -> None:
        if not bool(torch.isfinite(self.tally.sums).all()):
            raise InputError(
                f"The loss grew beyond all bounds in epoch {self.epoch + 1}, by step {self.step}; start anew with a "
                "lower --learning-rate or with --clip-gradients."
            )

    def _set_mode(self) -> None:
        self.network.train()
        if self.recipe.freeze_backbone:
            # A frozen backbone keeps its batch-norm statistics too.
            for child in self.network.children():
                child.train(child in (self.network.dropout, self.network.fc_1))

    def _pixel_values(self, images: NDArray[np.uint8]) -> Tensor:
        """RGB (N, H, W, 3) -> normalised (N, 3, H, W) on the device."""
        x = torch.from_numpy(images).to(self.place.device).permute(0, 3, 1, 2)
        x = (x.float() * self._preprocessing.rescale_factor - self._mean) / self._deviation
        return x if self.recipe.channels_last else x.contiguous()

    @torch.inference_mode()
    def evaluate(self, dataset: ImageDataset) -> tuple[float, float]:
        """Return the mean cross-entropy and the top-1 accuracy of the result network on labelled images."""
        network, place = self.result, self.place
        tally = Tally(place.device)
        network.eval()
        if place.world > 1:
            for buffer in network.buffers():  # batch-norm statistics are each process's own
                torch.distributed.broadcast(buffer, 0)
        for pixel_values, labels in evaluation_batches(
            dataset, self._store, self._preprocessing, _EVALUATION_BATCH, place.rank, place.world
        ):
            x, y = torch.from_numpy(pixel_values).to(place.device), torch.from_numpy(labels).to(place.device)
            logits = network(x)
            tally.add(F.cross_entropy(logits, y), logits, y)
        self._set_mode()
        return tally.reduced(place)

    def save(self) -> None:
        """Write the checkpoint; of several processes the first one does it for all."""
        self._check_finite()
        if self.place.rank:
            return
        state = {
            "recipe": self.recipe.to_dict(),
            "classes": list(self.classes),
            "epoch": self.epoch,
            "step": self.step,
            "tally": self.tally.sums.tolist(),
            "history": self.history,
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict() if self.average else None,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        save_checkpoint(self.out, state)

    def resume(self) -> None:
        """Take up the run where its checkpoint left it.

        Raises:
            InputError: there is no checkpoint, or it belongs to another recipe or other classes.
        """
        state = load_checkpoint(self.out)
        recipe = self.recipe.to_dict()
        other = [key for key, value in state["recipe"].items() if _plain(value) != _plain(recipe.get(key))]
        if other or tuple(state["classes"]) != tuple(self.classes):
            names = ", ".join(f"{key} was {state['recipe'][key]}" for key in other) or "the classes were others"
            raise InputError(f"{self.out} holds another run ({names}); resume with its options, or use another --out.")
        self.network.load_state_dict(state["network"])
        if self.average:
            self.average.network.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.history = state["epoch"], state["step"], state["history"]
        # With several processes these are the first one's sums, and good enough for the others' metrics.
        self.tally = Tally(self.place.device, state["tally"])


def _plain(value: Any) -> Any:
    """Tuples become lists, as in a file."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _wrapped(network: GhostNet, place: Place, recipe: Recipe) -> Any:
    forward: Any = network
    if place.world > 1:
        devices = [place.device] if place.device.type == "cuda" else None
        forward = torch.nn.parallel.DistributedDataParallel(network, device_ids=devices)
    # One compiled graph for each image size: a graph for all sizes would be slower.
    return torch.compile(forward, dynamic=False) if recipe.compile else forward


def _label_loss(logits: Tensor, targets: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with soft targets over the labelled images; zero where there are none."""
    known = labels != UNLABELLED
    return F.cross_entropy(logits[known], targets[known], label_smoothing=smoothing, reduction="sum") / len(labels)
