"""Tune a teacher to labelled images, then teach a GhostNet by its answers on the same views, all on one device."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from exporters.efficientnet_lite import DESCRIPTION
from exporters.efficientnet_lite_torch import EfficientNetLite
from exporters.on_device.budget import Budget, parameter_groups, set_rate
from exporters.on_device.networks import (
    MovingAverage,
    Step,
    accuracy,
    calibrate_head,
    frozen,
    half,
    logits_of,
    normalisation,
    normalised,
    without_counters,
)
from exporters.on_device.views import Strengths, Views
from exporters.torch_network import GhostNet, reset_dead_gates, save_official
from ghostzoo.errors import InputError
from ghostzoo.images.preprocessing import Preprocessing

_LOG_SECONDS = 15.0
_SAVE_SECONDS = 60.0
_PROBES = 256  # images that show whether a gate is dead


@dataclass(frozen=True)
class Plan:
    """Every choice that changes the resulting weights."""

    teacher_size: int = 128
    teacher_seconds: float = 120.0
    teacher_steps: int | None = None
    """Instead of the time."""
    teacher_batch: int = 256
    teacher_rate: float = 8e-4
    teacher_decay: float = 0.02
    teacher_average: float = 0.995
    image_size: int = 96
    resize_short: int = 110
    seconds: float = 400.0
    steps: int | None = None
    """Instead of the time."""
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    average: float = 0.999
    gate_rate: float = 0.1
    reset_gates: bool = True
    clip_gradients: float = 5.0
    temperature: float = 2.0
    label_weight: float = 0.1
    feature_weight: float = 2.0
    views: Strengths = field(default_factory=Strengths)
    seed: int = 1

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(resize_short=self.resize_short, crop_size=self.image_size)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Pictures:
    """Images of one size on the device: (N, 3, H, W) uint8, and labels (N,)."""

    pixels: Tensor
    labels: Tensor


class Distillation:
    """One run.

    Args:
        plan: the choices.
        training: what is learnt.
        held_out: what is measured on.
        out: folder of weights and metrics.
        log: is told how it goes.
        record: record each step once, and replay it.
    """

    def __init__(
        self,
        plan: Plan,
        training: Pictures,
        held_out: Pictures,
        out: Path,
        log: Callable[[str], None],
        *,
        record: bool = False,
    ) -> None:
        self.plan, self._training, self._held_out, self._out, self._log = plan, training, held_out, out, log
        self.device = training.pixels.device
        self._record = record
        self._views = Views(training.pixels, plan.views, plan.seed)
        self._order = torch.Generator(self.device).manual_seed(plan.seed)
        self._queue = torch.empty(0, dtype=torch.int64, device=self.device)
        self._classes = int(training.labels.max()) + 1
        self._targets = F.one_hot(training.labels, self._classes).float()
        self._for_teacher = normalisation(DESCRIPTION["mean"], DESCRIPTION["std"], self.device)
        self._for_student = normalisation(plan.preprocessing.mean, plan.preprocessing.std, self.device)
        self.facts: dict[str, Any] = {}
        torch.manual_seed(plan.seed)

    def tune_teacher(self, weights: Mapping[str, NDArray[np.float32]]) -> EfficientNetLite:
        """Return the teacher: the network with a new last layer, tuned to the images."""
        plan = self.plan
        network = EfficientNetLite(weights, self._classes)
        network = network.to(self.device, memory_format=torch.channels_last).train()
        without_counters(network)
        groups = parameter_groups(network, plan.teacher_decay, {"fc.": 4.0})
        optimizer = torch.optim.AdamW(groups, fused=self.device.type == "cuda")
        average = MovingAverage(network, plan.teacher_average)

        def loss_of(x: Tensor, targets: Tensor) -> Tensor:
            with half(self.device):
                logits = network(normalised(x, self._for_teacher))
            return F.cross_entropy(logits.float(), targets)

        gradients = Step(loss_of, network, plan.clip_gradients, record=self._record)
        budget, logger = Budget(plan.teacher_seconds, plan.teacher_steps), _Every(_LOG_SECONDS)
        for step in budget:
            set_rate(optimizer, plan.teacher_rate, budget.rate)
            images, targets = self._next(plan.teacher_batch)
            (x,) = self._views.draw(images, plan.teacher_size)
            if step % 2:
                x = self._views.degrade(x)
            targets, (x,) = self._views.mix(targets, x)
            loss = gradients(x, targets)
            optimizer.step()
            average.update()
            if logger.is_due():
                self._tell("teacher", step, plan.teacher_batch, budget, loss)
        teacher: EfficientNetLite = average.module
        score = self._measure_teacher(teacher)
        self._log(f"the teacher is right on {score:.2%} of the held-out images after {budget.step} steps")
        self.facts |= {"teacher_steps": budget.step, "teacher_accuracy": score}
        return teacher

    def teach(self, network: GhostNet, teacher: EfficientNetLite) -> GhostNet:
        """Train ``network``; return its moving average, whose weights are also saved every minute."""
        plan, device = self.plan, self.device
        network = network.to(device, memory_format=torch.channels_last)
        if plan.reset_gates:
            (probes,) = self._views.draw(
                self._training.pixels[:: len(self._training.pixels) // _PROBES + 1], plan.image_size
            )
            names = reset_dead_gates(network, normalised(probes, self._for_student))
            self._log(f"re-initialised dead gates: {', '.join(names) or 'none'}")
        network.train()
        without_counters(network)
        groups = parameter_groups(network, plan.weight_decay, {".se_block.": plan.gate_rate})
        optimizer = torch.optim.AdamW(groups, fused=device.type == "cuda")
        average = MovingAverage(network, plan.average)
        teacher = frozen(teacher)

        def loss_of(clean: Tensor, x: Tensor, targets: Tensor) -> Tensor:
            with torch.no_grad():
                feature = teacher.feature(normalised(clean, self._for_teacher).to(teacher.fc.weight.dtype))
                theirs = teacher.fc(feature)
            with half(device):
                embedding = network.embed(normalised(x, self._for_student))
                logits = network.fc_1(network.dropout(embedding))
            return self._loss(logits.float(), embedding.float(), theirs.float(), feature.float(), targets)

        gradients = Step(loss_of, network, plan.clip_gradients, record=self._record)
        budget, logger, saver = Budget(plan.seconds, plan.steps), _Every(_LOG_SECONDS), _Every(_SAVE_SECONDS)
        for step in budget:
            set_rate(optimizer, plan.learning_rate, budget.rate)
            images, targets = self._next(plan.batch_size)
            clean, x = self._views.draw(images, plan.teacher_size, plan.image_size)
            targets, (clean, x) = self._views.mix(targets, clean, self._views.degrade(x))
            loss = gradients(clean, x, targets)
            optimizer.step()
            average.update()
            if logger.is_due():
                self._tell("student", step, plan.batch_size, budget, loss)
            if saver.is_due():
                self._save(average.module, step)
        result: GhostNet = average.module
        self._save(result, budget.step)
        self.facts["steps"] = budget.step
        return result

    def _loss(self, logits: Tensor, embedding: Tensor, theirs: Tensor, feature: Tensor, targets: Tensor) -> Tensor:
        t = self.plan.temperature
        told = F.kl_div(
            F.log_softmax(logits / t, 1), F.log_softmax(theirs / t, 1), reduction="batchmean", log_target=True
        )
        angle = 1 - F.cosine_similarity(embedding, feature, dim=1).mean()
        return (
            t * t * told + self.plan.feature_weight * angle + self.plan.label_weight * F.cross_entropy(logits, targets)
        )

    def _next(self, count: int) -> tuple[Tensor, Tensor]:
        """The next images, each once before any comes again, and their targets (N, classes)."""
        while len(self._queue) < count:
            more = torch.randperm(len(self._training.labels), device=self.device, generator=self._order)
            self._queue = torch.cat([self._queue, more])
        chosen, self._queue = self._queue[:count], self._queue[count:]
        return self._training.pixels[chosen], self._targets[chosen]

    def _tell(self, who: str, step: int, batch: int, budget: Budget, loss: Tensor) -> None:
        value = loss.item()
        if not np.isfinite(value):
            raise InputError("The loss diverged; run again with a lower learning rate.")
        seconds = max(time.monotonic() - budget.started, 1e-9)
        self._log(
            f"{who}: step {step + 1}, {budget.progress:.0%}, loss {value:.3f}, "
            f"{(step + 1) * batch / seconds:,.0f} images/s"
        )

    def _measure_teacher(self, teacher: EfficientNetLite) -> float:
        size = self.plan.teacher_size

        def answer(x: Tensor) -> Tensor:
            with half(self.device):
                logits: Tensor = teacher(normalised(x, self._for_teacher))
                return logits

        return accuracy(logits_of(answer, self._held_out.pixels, size, size), self._held_out.labels)

    def _held_out_logits(self, network: GhostNet, resize_short: int) -> Tensor:
        """The student's, in float32."""

        def answer(x: Tensor) -> Tensor:
            logits: Tensor = network(normalised(x, self._for_student))
            return logits

        return logits_of(answer, self._held_out.pixels, resize_short, self.plan.image_size)

    def measure(self, network: GhostNet, resize_short: int) -> float:
        """Top-1 on the held-out images."""
        return accuracy(self._held_out_logits(network, resize_short), self._held_out.labels)

    def calibrate(self, network: GhostNet) -> None:
        """Make the scores of ``network`` as large as it is often right on the held-out images."""
        logits = self._held_out_logits(network, self.plan.resize_short)
        self.facts["temperature"] = round(calibrate_head(network, logits, self._held_out.labels), 4)

    def _save(self, network: GhostNet, step: int) -> None:
        score = self.measure(network, self.plan.resize_short)
        self._log(f"student: step {step}, right on {score:.2%} of the held-out images")
        save_official(network, self._out / "weights.pdparams")
        with (self._out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "validation_accuracy": score}) + "\n")
        self.facts["validation_accuracy"] = score


class _Every:
    """Tells when some seconds have passed again."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def is_due(self) -> bool:
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True
