"""The training loop: optimiser, moving average, steps, evaluation and checkpoints."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from exporters.torch_network import GhostNet, make_average, reset_dead_gates
from exporters.training.augmentation import mixup_or_cutmix
from exporters.training.checkpoint import (
    SignalListener,
    TrainingStoppedError,
    check_same_run,
    load_checkpoint,
    save_checkpoint,
)
from exporters.training.data import TrainingData
from exporters.training.distillation import AnyTeacher, make_targets, training_loss
from exporters.training.distributed import EpochMetrics, Process, autocast, wrap
from exporters.training.loader import Labels, TrainingLoader, evaluation_batches
from exporters.training.pretrained import StartingPoint
from exporters.training.recipe import Recipe
from exporters.training.reporting import EXPLODED, Reporter, describe_explosion, find_trouble, score
from ghostzoo.errors import InputError
from ghostzoo.evaluation.datasets import ImageDataset

_EVALUATION_BATCH = 128
_REPORT_STEPS = 10  # reading the metrics waits for the device, so it is not done after each step
_STEP_STREAM = 3  # of random numbers; data.py has the others
_RATE_SHARE = "rate_share"  # key of a parameter group: its share of the learning rate
_HEAD = "fc_1."


def make_optimizer(network: GhostNet, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimiser; as in the original, batch-norm has no weight decay."""
    backbone = recipe.backbone_rate
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": recipe.weight_decay, _RATE_SHARE: backbone},
        {"params": [], "weight_decay": 0.0, _RATE_SHARE: backbone},
        {"params": [], "weight_decay": recipe.weight_decay, _RATE_SHARE: backbone * recipe.gate_rate},
        {"params": [], "weight_decay": recipe.weight_decay, _RATE_SHARE: 1.0},
    ]
    for name, parameter in network.named_parameters():
        group = 3 if name.startswith(_HEAD) else 2 if ".se_block." in name else 1 if "_batch_norm" in name else 0
        groups[group]["params"].append(parameter)
    # The learning rate is set before each step.
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov)


@dataclass(frozen=True)
class Surroundings:
    """Where and how a run is carried out; only the teacher affects the result."""

    out: Path
    """The run's folder."""
    reporter: Reporter
    process: Process = field(default_factory=Process)
    workers: int = 1
    """Threads that prepare images."""
    teacher: AnyTeacher | None = None
    """For distillation."""
    listener: SignalListener = field(default_factory=SignalListener)
    """Tells whether a signal was received."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints within an epoch."""


class _WithEmbedding(torch.nn.Module):
    """The network as it is trained: pixel values -> logits (N, classes) and embedding (N, 1280)."""

    def __init__(self, network: GhostNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.network.embed(pixel_values)
        return self.network.fc_1(self.network.dropout(embedding)), embedding


class Trainer:
    """One run: the network, its optimiser, and the position in the schedule.

    Args:
        recipe: the recipe.
        start: the initial weights; its network is trained in place.
        data: the images.
        surroundings: folder, device, threads and so on.
    """

    def __init__(self, recipe: Recipe, start: StartingPoint, data: TrainingData, surroundings: Surroundings) -> None:
        self.recipe, self.out, self.process = recipe, surroundings.out, surroundings.process
        self.classes, self._data, self._kept_head = data.training.classes, data, start.kept_head
        self._reporter, self._teacher, self._listener = (
            surroundings.reporter,
            surroundings.teacher,
            surroundings.listener,
        )
        self._checkpoint_seconds = surroundings.checkpoint_minutes * 60
        self._identity = {
            "training images": data.training.fingerprint(),
            "validation images": data.validation.fingerprint() if data.validation is not None else "",
            "shares of the sources": json.dumps(data.groups),
            "initial weights": start.sha256,
            "teacher's weights": surroundings.teacher.sha256 if surroundings.teacher else "",
        }
        process = self.process
        self._loader = TrainingLoader(
            data.training,
            data.images,
            recipe,
            workers=surroundings.workers,
            rank=process.rank,
            world_size=process.world_size,
            groups=data.groups,
        )
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.network = start.network.to(process.device, memory_format=memory_format)
        self._mean, self._std = (
            torch.tensor(values, device=process.device).view(1, 3, 1, 1)
            for values in (recipe.preprocessing.mean, recipe.preprocessing.std)
        )
        self.average = make_average(self.network, recipe.ema) if recipe.ema else None
        self._optimizer = make_optimizer(self.network, recipe)
        self._scaler = torch.amp.GradScaler(process.device.type, enabled=recipe.precision == "float16")
        self.epoch, self.step, self._metrics = 0, 0, EpochMetrics(process.device)
        self.history: list[dict[str, float]] = []
        """A row for each epoch and, of initial weights that were measured, one before them."""
        self._best: dict[str, Any] | None = None
        self._warned: set[str] = set()
        self._saved = time.monotonic()
        self._start_stage()

    @property
    def last(self) -> GhostNet:
        """The network as it is now: its moving average if there is one."""
        network: GhostNet = self.average.module if self.average else self.network
        return network

    @property
    def best_epoch(self) -> int:
        """The epoch whose network is the result; 0: the initial weights."""
        return self.epoch if self._best is None else int(self._best["epoch"])

    def result(self) -> GhostNet:
        """Return a copy of the network that the run is for: the best one on the validation images, or else the last."""
        network = copy.deepcopy(self.last)
        if self._best is not None:
            network.load_state_dict(self._best["weights"])
        return network

    def measure_start(self) -> bool:
        """Measure the initial weights, which are a candidate for the result if they keep their head.

        Returns:
            Whether there are validation images to measure them on.
        """
        if self._data.validation is None:
            return False
        self._end_epoch({"epoch": 0, "image_size": self.recipe.image_size_at(0)}, candidate=bool(self._kept_head))
        self._reporter.end_epoch(self.history)
        return True

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
        if self._is_frozen != self.recipe.freezes(self.epoch):
            self._start_stage()
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
        self._end_epoch(row)
        self.epoch, self.step, self._metrics = self.epoch + 1, 0, EpochMetrics(self.process.device)
        self.save()
        self._reporter.end_epoch(self.history)
        for kind, text in find_trouble(self.history, len(self.classes), kept_head=self._kept_head):
            self._warn(kind, text)

    def _end_epoch(self, row: dict[str, float], *, candidate: bool = True) -> None:
        """Measure, and keep the network if it is the best so far at its image size."""
        self.history.append(row)
        if self._data.validation is None:
            return
        row["validation_loss"], row["validation_accuracy"] = self.evaluate(self._data.validation)
        best = self._best
        if candidate and (best is None or best["image_size"] != row["image_size"] or best["score"] < score(row)):
            weights = {name: value.detach().cpu().clone() for name, value in self.last.state_dict().items()}
            self._best = {
                "epoch": row["epoch"],
                "image_size": row["image_size"],
                "score": score(row),
                "weights": weights,
            }

    def _train_step(self, images: NDArray[np.uint8], labels: Labels) -> None:
        recipe, device = self.recipe, self.process.device
        rng = np.random.default_rng((recipe.seed, _STEP_STREAM, self.epoch, self.step, self.process.rank))
        torch.manual_seed(int(rng.integers(2**63)))  # for dropout
        y = torch.from_numpy(labels).to(device)
        indices = self._loader.indices(self.epoch, self.step)
        targets = make_targets(y, indices, len(self.classes), self._teacher)
        x, targets = mixup_or_cutmix(rng, self._pixel_values(images), targets, recipe)
        for group in self._optimizer.param_groups:
            group["lr"] = group[_RATE_SHARE] * recipe.learning_rate_at(self.epoch + self.step / self._loader.steps)
        with autocast(device, recipe.precision):
            logits, embedding = self._forward(x)
        logits = logits.float()
        loss = training_loss(x, targets, logits, embedding.float(), recipe, self._teacher)
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
        text = describe_explosion(loss, len(self.classes), distilled=self._teacher is not None)
        if text and self._kept_head is not None:
            self._warn(EXPLODED, text)
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

    def _warn(self, kind: str, text: str) -> None:
        """Say at once, and once, that the run is ruining the initial weights."""
        if kind not in self._warned:
            self._warned.add(kind)
            rate = self.recipe.peak_learning_rate / 10
            self._reporter.warn(
                f"{text} The best epoch so far is kept; if the next ones are no better, start again in another --out "
                f"with a lower --learning-rate, such as {rate:.2g}, or with --freeze-backbone."
            )

    def _check_finite(self, *tensors: Tensor) -> None:
        if not bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()):
            raise InputError(
                f"The loss diverged in epoch {min(self.epoch + 1, self.recipe.epochs)}; start a new run in another "
                "--out with a lower --learning-rate or with --clip-gradients."
            )

    def _start_stage(self) -> None:
        """Freeze the backbone or let it learn, as the recipe has it for this epoch."""
        self._is_frozen = self.recipe.freezes(self.epoch)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad = name.startswith(_HEAD) or not self._is_frozen
        self._forward = wrap(
            _WithEmbedding(self.network), self.process, self.recipe
        )  # what is wrapped already keeps what it found

    def _set_mode(self) -> None:
        """Put into training mode what learns: a frozen backbone keeps its batch-norm statistics too."""
        everything = not (self._is_frozen or self.recipe.keep_statistics)
        self.network.train()
        for child in self.network.children():
            child.train(everything or child in (self.network.dropout, self.network.fc_1))

    def _pixel_values(self, images: NDArray[np.uint8]) -> Tensor:
        """RGB (N, H, W, 3) -> normalised (N, 3, H, W) on the device."""
        x = torch.from_numpy(images).to(self.process.device).permute(0, 3, 1, 2)
        x = (x.float() * self.recipe.preprocessing.rescale_factor - self._mean) / self._std
        return x if self.recipe.channels_last else x.contiguous()

    @torch.inference_mode()
    def evaluate(self, dataset: ImageDataset) -> tuple[float, float]:
        """Return mean cross-entropy and top-1 accuracy of the last network, at this epoch's image size."""
        network, process = self.last, self.process
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
            "best": self._best,
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
        self._best = state["best"]
        # The sums are those of all processes.
        self._metrics = EpochMetrics(self.process.device, state["metrics"] if self.process.is_main else None)
