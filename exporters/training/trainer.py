"""The training loop: optimiser, moving average, steps, evaluation and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from exporters.torch_network import GhostNet, reset_dead_gates
from exporters.training.augmentation import mixup_or_cutmix, one_hot, smooth
from exporters.training.checkpoint import (
    SignalListener,
    TrainingStoppedError,
    check_same_run,
    load_checkpoint,
    save_checkpoint,
)
from exporters.training.data import Labels, TrainingData, TrainingLoader, evaluation_batches
from exporters.training.distillation import Teacher, jensen_shannon_divergence
from exporters.training.distributed import EpochMetrics, Process
from exporters.training.recipe import Recipe
from exporters.training.reporting import Reporter
from ghostzoo.errors import InputError
from ghostzoo.evaluation.datasets import ImageDataset

_EVALUATION_BATCH = 128
_REPORT_STEPS = 10  # reading the metrics waits for the device, so it is not done after each step
_STEP_STREAM = 3  # of random numbers; data.py has the others
_RATE_SHARE = "rate_share"  # key of a parameter group: its share of the learning rate
_HEAD = "fc_1."


def make_optimizer(network: GhostNet, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimiser of the trainable parameters; as in the original, batch-norm has no weight decay."""
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": recipe.weight_decay, _RATE_SHARE: 1.0},
        {"params": [], "weight_decay": 0.0, _RATE_SHARE: 1.0},
        {"params": [], "weight_decay": recipe.weight_decay, _RATE_SHARE: recipe.gate_rate},
    ]
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[1 if "_batch_norm" in name else 2 if ".se_block." in name else 0]["params"].append(parameter)
    groups = [group for group in groups if group["params"]]
    # The learning rate is set before each step.
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov)


def make_average(network: GhostNet, decay: float) -> AveragedModel:
    """Make an exponential moving average of weights and batch-norm statistics, with a smaller decay at first."""

    def update(averages: list[Tensor], values: list[Tensor], updates: Tensor) -> None:
        count = int(updates)
        weight = 1 - min(decay, (1 + count) / (10 + count))
        for mean, value in zip(averages, values, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    average.eval().requires_grad_(False)
    average.update_parameters(network)  # the first update only copies
    return average


class Trainer:
    """One run: the network, its optimiser, and the position in the schedule.

    Args:
        recipe: the recipe.
        network: the initial weights; trained in place.
        data: the images.
        identity: hashes that a resumed run must have in common with this one, by name.
        out: the run's folder.
        reporter: shows and logs the progress.
        process: device and rank.
        workers: threads that prepare images.
        teacher: for distillation.
        listener: tells whether a signal was received.
        checkpoint_minutes: time between checkpoints within an epoch.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: GhostNet,
        data: TrainingData,
        *,
        identity: Mapping[str, str],
        out: Path,
        reporter: Reporter,
        process: Process,
        workers: int,
        teacher: Teacher | None,
        listener: SignalListener,
        checkpoint_minutes: float,
    ) -> None:
        self.recipe, self.out, self.process, self.classes = recipe, out, process, data.training.classes
        self._data, self._reporter, self._teacher = data, reporter, teacher
        self._identity, self._listener, self._checkpoint_seconds = dict(identity), listener, checkpoint_minutes * 60
        self._loader = TrainingLoader(
            data.training, data.images, recipe, workers=workers, rank=process.rank, world_size=process.world_size
        )
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.network = network.to(process.device, memory_format=memory_format)
        if recipe.freeze_backbone:
            for name, parameter in network.named_parameters():
                parameter.requires_grad = name.startswith(_HEAD)
        self._mean, self._std = (
            torch.tensor(values, device=process.device).view(1, 3, 1, 1)
            for values in (recipe.preprocessing.mean, recipe.preprocessing.std)
        )
        self.average = make_average(self.network, recipe.ema) if recipe.ema else None
        self._forward = _wrapped(self.network, process, recipe)
        self._optimizer = make_optimizer(self.network, recipe)
        self._scaler = torch.amp.GradScaler(process.device.type, enabled=recipe.precision == "float16")
        self.epoch, self.step, self._metrics = 0, 0, EpochMetrics(process.device)
        self.history: list[dict[str, float]] = []
        self._saved = time.monotonic()

    @property
    def result(self) -> GhostNet:
        """The network that the run is for: the moving average if there is one."""
        network: GhostNet = self.average.module if self.average else self.network
        return network

    def reset_gates(self) -> None:
        """Re-initialise dead gates of the initial weights, the same ones in all processes."""
        images, _ = next(self._loader.batches(0))
        names = reset_dead_gates(self.network, self._pixel_values(images))
        self.process.broadcast(iter(self.network.state_dict().values()))
        if self.average:
            self.average = make_average(self.network, self.recipe.ema)
        self._reporter.log(f"re-initialised dead gates: {', '.join(names) or 'none'}")

    def run(self, until: int | None = None) -> None:
        """Train to the end of the schedule, or to the end of epoch ``until``.

        Raises:
            InputError: the loss or a weight is no longer finite; the last checkpoint is kept.
            TrainingStoppedError: a signal was received; the checkpoint was saved.
        """
        while self.epoch < (self.recipe.epochs if until is None else until):
            self._run_epoch()

    def _run_epoch(self) -> None:
        started, first_step = time.monotonic(), self.step
        self._set_mode()
        self._reporter.start_epoch(self.epoch, self._loader.steps, self.step)
        for images, labels in self._loader.batches(self.epoch, self.step):
            self._train_step(images, labels)
            self.step += 1
            if self.step % _REPORT_STEPS == 0 or self.step == self._loader.steps:
                self._report_progress((self.step - first_step) * self.recipe.batch_size / (time.monotonic() - started))
            self._save_or_stop()
        loss, accuracy = self._metrics.means(self.process)
        row = {
            "epoch": self.epoch + 1,
            "image_size": self.recipe.image_size_at(self.epoch),
            "learning_rate": self.recipe.learning_rate_at(self.epoch + 1),
            "train_loss": loss,
            "train_accuracy": accuracy,
            "images_per_second": (self.step - first_step) * self.recipe.batch_size / (time.monotonic() - started),
        }
        if self._data.validation is not None:
            row["validation_loss"], row["validation_accuracy"] = self.evaluate(self._data.validation)
        self.history.append(row)
        self.epoch, self.step, self._metrics = self.epoch + 1, 0, EpochMetrics(self.process.device)
        self.save()
        self._reporter.end_epoch(self.history)

    def _train_step(self, images: NDArray[np.uint8], labels: Labels) -> None:
        recipe, device = self.recipe, self.process.device
        rng = np.random.default_rng((recipe.seed, _STEP_STREAM, self.epoch, self.step, self.process.rank))
        torch.manual_seed(int(rng.integers(2**63)))  # for dropout
        y = torch.from_numpy(labels).to(device)
        x, targets = mixup_or_cutmix(rng, self._pixel_values(images), one_hot(y, len(self.classes)), recipe)
        for group in self._optimizer.param_groups:
            group["lr"] = group[_RATE_SHARE] * recipe.learning_rate_at(self.epoch + self.step / self._loader.steps)
        with _autocast(device, recipe.precision):
            logits = self._forward(x)
        logits = logits.float()
        loss = F.cross_entropy(logits, smooth(targets, recipe.label_smoothing))
        if self._teacher is not None:
            divergence = jensen_shannon_divergence(logits, self._teacher.logits(x), recipe.distill_temperature)
            loss = loss + recipe.distill_weight * divergence
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        if recipe.clip_gradients:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_gradients)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self.average:
            self.average.update_parameters(self.network)
        self._metrics.add(loss.detach(), logits.detach(), y)

    def _report_progress(self, images_per_second: float) -> None:
        self._check_finite(self._metrics.sums)
        loss, accuracy = self._metrics.means(self.process)
        self._reporter.step(self.step, loss, accuracy, images_per_second)

    def _save_or_stop(self) -> None:
        """Save a checkpoint if it is due, and end the run after a signal; the processes decide together."""
        if self.process.world_size > 1 and self.step % _REPORT_STEPS and self.step < self._loader.steps:
            return
        is_due = time.monotonic() - self._saved > self._checkpoint_seconds
        is_due_anywhere, signal = self.process.max([is_due, self._listener.signal])
        if is_due_anywhere or signal:
            self.save()
        if signal:
            raise TrainingStoppedError(
                f"Stopped in epoch {self.epoch + 1} after {self.step} of {self._loader.steps} steps, and saved; "
                "the same command with --resume continues.",
                signal,
            )

    def _check_finite(self, *tensors: Tensor) -> None:
        if not bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()):
            raise InputError(
                f"The loss diverged in epoch {min(self.epoch + 1, self.recipe.epochs)}; start a new run in another "
                "--out with a lower --learning-rate or with --clip-gradients."
            )

    def _set_mode(self) -> None:
        self.network.train()
        if self.recipe.freeze_backbone:
            # A frozen backbone keeps its batch-norm statistics too.
            for child in self.network.children():
                child.train(child in (self.network.dropout, self.network.fc_1))

    def _pixel_values(self, images: NDArray[np.uint8]) -> Tensor:
        """RGB (N, H, W, 3) -> normalised (N, 3, H, W) on the device."""
        x = torch.from_numpy(images).to(self.process.device).permute(0, 3, 1, 2)
        x = (x.float() * self.recipe.preprocessing.rescale_factor - self._mean) / self._std
        return x if self.recipe.channels_last else x.contiguous()

    @torch.inference_mode()
    def evaluate(self, dataset: ImageDataset) -> tuple[float, float]:
        """Return mean cross-entropy and top-1 accuracy of the result network, at this epoch's image size."""
        network, process = self.result, self.process
        metrics = EpochMetrics(process.device)
        network.eval()
        process.broadcast(network.buffers())  # batch-norm statistics are each process's own
        preprocessing = self.recipe.preprocessing_at(self.epoch)
        for pixel_values, labels in evaluation_batches(
            dataset, self._data.images, preprocessing, _EVALUATION_BATCH, process.rank, process.world_size
        ):
            x, y = torch.from_numpy(pixel_values).to(process.device), torch.from_numpy(labels).to(process.device)
            logits = network(x)
            metrics.add(F.cross_entropy(logits, y), logits, y)
        self._set_mode()
        return metrics.means(process)

    def save(self) -> None:
        """Save a checkpoint; the main process writes it for all."""
        sums = self.process.sum(self._metrics.sums)
        weights = self.network.state_dict()
        self._check_finite(sums, *(tensor for tensor in weights.values() if tensor.is_floating_point()))
        self._saved = time.monotonic()
        if not self.process.is_main:
            return
        state = {
            "recipe": self.recipe.to_dict(),
            "classes": list(self.classes),
            "identity": self._identity,
            "epoch": self.epoch,
            "step": self.step,
            "metrics": sums.tolist(),
            "history": self.history,
            "network": weights,
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        save_checkpoint(self.out, state)

    def resume(self, until: int | None = None) -> None:
        """Continue from the checkpoint.

        Raises:
            InputError: there is no checkpoint, it belongs to another recipe or to other data, or it is past epoch
                ``until``.
        """
        state = load_checkpoint(self.out)
        check_same_run(state, self.out, self.recipe, self.classes, self._identity)
        self.network.load_state_dict(state["network"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if until is not None and (state["epoch"], state["step"]) > (until, 0):
            raise InputError(f"{self.out} is past epoch {until} already; give --until a later one, or leave it out.")
        self.epoch, self.step, self.history = state["epoch"], state["step"], state["history"]
        # The sums are those of all processes.
        self._metrics = EpochMetrics(self.process.device, state["metrics"] if self.process.is_main else None)


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "float32")


def _wrapped(network: GhostNet, process: Process, recipe: Recipe) -> Any:
    forward: Any = network
    if process.world_size > 1:
        devices = [process.device] if process.device.type == "cuda" else None
        forward = torch.nn.parallel.DistributedDataParallel(network, device_ids=devices)
    # One compiled graph per image size: a graph for all sizes would be slower.
    return torch.compile(forward, dynamic=False) if recipe.compile else forward
