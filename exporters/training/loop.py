"""The training loop: steps, evaluation, checkpoints."""

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

from exporters.torch_network import GhostNet
from exporters.training.checkpoints import load_checkpoint, save_checkpoint
from exporters.training.ema import MovingAverage
from exporters.training.gates import reset_dead_gates
from exporters.training.loading import ImageStore, Labels, TrainingLoader, evaluation_batches
from exporters.training.losses import divergence, label_loss, soft_targets
from exporters.training.mixing import mix
from exporters.training.optimiser import RATE, autocast, freeze_backbone, make_optimizer
from exporters.training.place import Place
from exporters.training.recipe import Recipe
from exporters.training.reporting import Reporter
from exporters.training.stopping import StopRequest, TrainingStoppedError
from exporters.training.tally import Tally
from exporters.training.teachers import Teacher
from ghostzoo.errors import InputError
from ghostzoo.evaluation.datasets import ImageDataset

_EVALUATION_BATCH = 128
_REPORT_STEPS = 10  # reading a sum waits for the device, so it is not done after each step
_STEP_STREAM = 3  # of random numbers; the loader has others


class Trainer:
    """One run: the network, its optimiser, and the place in the schedule.

    Args:
        recipe: what to do.
        network: the starting weights; it is trained in place.
        training: images to learn from, labelled or not.
        validation: images to measure on after each epoch.
        identity: what a resumed run must have in common with this one besides recipe and classes, by name.
        out: the run's folder, for checkpoints.
        store: decodes images.
        reporter: is told how it goes.
        place: device and processes.
        workers: threads that prepare images.
        teacher: gives the soft answers to learn from.
        stop: asks the run to end early.
        checkpoint_minutes: time between checkpoints within an epoch.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: GhostNet,
        training: ImageDataset,
        validation: ImageDataset | None,
        *,
        identity: Mapping[str, str],
        out: Path,
        store: ImageStore,
        reporter: Reporter,
        place: Place,
        workers: int,
        teacher: Teacher | None,
        stop: StopRequest,
        checkpoint_minutes: float,
    ) -> None:
        self.recipe, self.out, self.place, self.classes = recipe, out, place, training.classes
        self._loader = TrainingLoader(training, store, recipe, workers=workers, rank=place.rank, world=place.world)
        self._validation, self._store, self._reporter, self._teacher = validation, store, reporter, teacher
        self._identity, self._stop, self._checkpoint_seconds = dict(identity), stop, checkpoint_minutes * 60
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.network = network.to(place.device, memory_format=memory_format)  # type: ignore[call-overload]
        if recipe.freeze_backbone:
            freeze_backbone(self.network)
        self._mean, self._deviation = (
            torch.tensor(values, device=place.device).view(1, 3, 1, 1)
            for values in (recipe.preprocessing.mean, recipe.preprocessing.std)
        )
        self.average = MovingAverage(self.network, recipe.ema) if recipe.ema else None
        self._forward = _wrapped(self.network, place, recipe)
        self._optimizer = make_optimizer(self.network, recipe)
        self._scaler = torch.amp.GradScaler(place.device.type, enabled=recipe.precision == "float16")
        self.epoch, self.step, self.tally = 0, 0, Tally(place.device)
        self.history: list[dict[str, float]] = []
        self._saved = time.monotonic()

    @property
    def result(self) -> GhostNet:
        """The network that the run is for: the moving average where there is one."""
        return self.average.network if self.average else self.network

    def reset_gates(self) -> None:
        """Draw the starting weights' dead gates anew, before the first step; several processes get the same ones."""
        images, _ = next(self._loader.batches(0))
        names = reset_dead_gates(self.network, self._pixel_values(images))
        self.place.copy_from_first(iter(self.network.state_dict().values()))
        if self.average:
            self.average = MovingAverage(self.network, self.recipe.ema)
        self._reporter.say(f"dead gates that were drawn anew: {', '.join(names) or 'none'}")

    def run(self, until: int | None = None) -> None:
        """Train from the current place to the end of the schedule, or to the end of its epoch ``until``.

        Raises:
            InputError: the loss or a weight is no longer finite; the checkpoint of before is kept.
            TrainingStoppedError: a signal asked for it; the checkpoint was written.
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
        loss, accuracy = self.tally.means(self.place)
        row = {
            "epoch": self.epoch + 1,
            "image_size": self.recipe.image_size_at(self.epoch),
            "learning_rate": self.recipe.learning_rate_at(self.epoch + 1),
            "train_loss": loss,
            "train_accuracy": accuracy,
            "images_per_second": (self.step - first_step) * self.recipe.batch_size / (time.monotonic() - started),
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
        x, targets = mix(rng, x, soft_targets(y, len(self.classes)), recipe)
        for group in self._optimizer.param_groups:
            group["lr"] = group[RATE] * recipe.learning_rate_at(self.epoch + self.step / self._loader.steps)
        with autocast(device, recipe.precision):
            logits = self._forward(x)
        logits = logits.float()
        loss = label_loss(logits, targets, recipe.label_smoothing)
        if self._teacher is not None:
            soft = divergence(logits, self._teacher.answer(x), recipe.distill_temperature)
            loss = loss + recipe.distill_weight * soft
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
        self._check_finite(self.tally.sums)
        loss, accuracy = self.tally.means(self.place)
        self._reporter.step(self.step, loss, accuracy, images_per_second)

    def _save_or_stop(self) -> None:
        """Save where it is time to, and end the run where a signal came; several processes decide together."""
        if self.place.world > 1 and self.step % _REPORT_STEPS and self.step < self._loader.steps:
            return
        is_due = time.monotonic() - self._saved > self._checkpoint_seconds
        is_due_anywhere, signal = self.place.largest([is_due, self._stop.signal])
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
                f"The loss grew beyond all bounds in epoch {min(self.epoch + 1, self.recipe.epochs)}; start anew in "
                "another --out with a lower --learning-rate or with --clip-gradients."
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
        x = (x.float() * self.recipe.preprocessing.rescale_factor - self._mean) / self._deviation
        return x if self.recipe.channels_last else x.contiguous()

    @torch.inference_mode()
    def evaluate(self, dataset: ImageDataset) -> tuple[float, float]:
        """Return mean cross-entropy and top-1 accuracy of the result network, at this epoch's image size."""
        network, place = self.result, self.place
        tally = Tally(place.device)
        network.eval()
        place.copy_from_first(network.buffers())  # batch-norm statistics are each process's own
        preprocessing = self.recipe.preprocessing_at(self.epoch)
        for pixel_values, labels in evaluation_batches(
            dataset, self._store, preprocessing, _EVALUATION_BATCH, place.rank, place.world
        ):
            x, y = torch.from_numpy(pixel_values).to(place.device), torch.from_numpy(labels).to(place.device)
            logits = network(x)
            tally.add(F.cross_entropy(logits, y), logits, y)
        self._set_mode()
        return tally.means(place)

    def save(self) -> None:
        """Write the checkpoint; of several processes the first one does it for all."""
        sums = self.place.total(self.tally.sums)
        weights = self.network.state_dict()
        self._check_finite(sums, *(tensor for tensor in weights.values() if tensor.is_floating_point()))
        self._saved = time.monotonic()
        if not self.place.is_first:
            return
        state = {
            "recipe": self.recipe.to_dict(),
            "classes": list(self.classes),
            "identity": self._identity,
            "epoch": self.epoch,
            "step": self.step,
            "tally": sums.tolist(),
            "history": self.history,
            "network": weights,
            "average": self.average.network.state_dict() if self.average else None,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        save_checkpoint(self.out, state)

    def resume(self, until: int | None = None) -> None:
        """Take up the run where its checkpoint left it.

        Raises:
            InputError: there is no checkpoint, it belongs to another recipe or to other data, or it is past the end of
                epoch ``until``.
        """
        state = load_checkpoint(self.out)
        self._check_same_run(state)
        self.network.load_state_dict(state["network"])
        if self.average:
            self.average.network.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if until is not None and (state["epoch"], state["step"]) > (until, 0):
            raise InputError(f"{self.out} is past epoch {until} already; give --until a later one, or leave it out.")
        self.epoch, self.step, self.history = state["epoch"], state["step"], state["history"]
        # The sums are those of all processes.
        self.tally = Tally(self.place.device, state["tally"] if self.place.is_first else None)

    def _check_same_run(self, state: Mapping[str, Any]) -> None:
        recipe = self.recipe.to_dict()
        other = [
            f"{key.replace('_', '-')} was {value}"
            for key, value in state["recipe"].items()
            if _plain(value) != _plain(recipe.get(key))
        ]
        if list(state["classes"]) != list(self.classes):
            other.append("the classes were others")
        other += [
            f"the {name} were others"
            for name, value in state.get("identity", {}).items()
            if value != self._identity[name]
        ]
        if other:
            raise InputError(
                f"{self.out} holds another run ({', '.join(other)}); resume it with its own options, or use another "
                "--out."
            )


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
