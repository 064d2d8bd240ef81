"""Fits a temperature to labelled images and measures, on others of them, what the confidence is then worth."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._utils.plots import require_matplotlib
from .._version import __version__
from ..bundle.edit import add_files, check_target, write_bundle
from ..bundle.folder import Bundle
from ..calibration import LEVELS, MAX_TEMPERATURE, Calibration, energy
from ..errors import InputError, OptionError
from ..predictions import softmax

MIN_IMAGES = 100
_BINS = 15
_QUANTILES = 101


@dataclass(frozen=True)
class Bins:
    """Images by their confidence, the score of the best class, in bins of equal width from 0 to 1."""

    images: tuple[int, ...]
    confidence: tuple[float, ...]
    """Mean of each bin; 0 where it has no image."""
    accuracy: tuple[float, ...]

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> Bins:
        """Sort images into bins: probabilities (N, classes) and class indices (N,)."""
        confidence = probabilities.max(axis=1).astype(np.float64)
        place = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
        counts = np.bincount(place, minlength=_BINS)
        right = probabilities.argmax(axis=1) == truth
        sums = (np.bincount(place, values, minlength=_BINS) for values in (confidence, right))
        means = [tuple((total / np.maximum(counts, 1)).tolist()) for total in sums]
        return cls(tuple(counts.tolist()), *means)

    @property
    def error(self) -> float:
        """Expected calibration error (ECE): how far confidence and accuracy are apart, on average of the images."""
        gaps = np.abs(np.array(self.confidence) - self.accuracy)
        return float(gaps @ np.array(self.images) / sum(self.images))


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration, and the confidence before and after it on the images that the temperature was not fitted to."""

    calibration: Calibration
    fitted_on: int
    """Images."""
    before: Bins
    after: Bins

    def to_dict(self) -> dict[str, Any]:
        return {
            "temperature": self.calibration.temperature,
            "fitted_on": self.fitted_on,
            "measured_on": self.calibration.images,
            "ece_before": self.before.error,
            "ece_after": self.after.error,
            "before": asdict(self.before),
            "after": asdict(self.after),
        }


def calibrate(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> CalibrationReport:
    """Calibrate a model by its logits (N, classes) for labelled images and their class indices (N,).

    A random half, always the same, fits the temperature; the other half says how large scores and logits then are.

    Raises:
        InputError: there are fewer than 100 images.
    """
    if len(logits) < MIN_IMAGES:
        raise InputError(f"{len(logits)} images are too few to calibrate on; take {MIN_IMAGES} or more.")
    order = np.random.default_rng(0).permutation(len(logits))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    temperature = fit_temperature(logits[first], truth[first])
    held, right = logits[second], truth[second]
    probabilities = softmax(held / np.float32(temperature))
    scores = np.sort(probabilities[np.arange(len(held)), right])
    # Split conformal prediction: of n + 1 exchangeable images, the new one is among the n - k + 1 surest of its class.
    below = {level: int(np.floor((len(held) + 1) * (1 - level) + 1e-9)) for level in LEVELS}
    calibration = Calibration(
        temperature,
        len(held),
        {level: float(scores[rank - 1]) for level, rank in below.items() if rank >= 1},
        tuple(np.quantile(energy(held), np.linspace(0, 1, _QUANTILES)).tolist()),
    )
    return CalibrationReport(calibration, len(first), Bins.of(softmax(held), right), Bins.of(probabilities, right))


def fit_temperature(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """Return the temperature with the largest likelihood; the slope over its inverse rises, so it is bisected."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    own = exact[np.arange(len(exact)), truth].mean()
    low, high = 1 / MAX_TEMPERATURE, MAX_TEMPERATURE
    for _ in range(60):
        inverse = (low * high) ** 0.5
        weights = np.exp(exact * inverse)
        expected = ((weights * exact).sum(axis=1) / weights.sum(axis=1)).mean()
        low, high = (inverse, high) if expected < own else (low, inverse)
    return float(1 / inverse)


def check_calibration(bundle: Bundle, out: Path | None) -> None:
    """Check, before any image is classified, that a calibration can be measured and written.

    Raises:
        OptionError: it is a multi-label model, or the bundle is not the caller's own and no folder is given.
        BundleError: the folder exists.
    """
    if bundle.config.multi_label:
        raise OptionError(f"{bundle.name} is a multi-label model, which has no temperature; leave out --calibrate.")
    if out is not None:
        check_target(out, overwrite=False)
    elif bundle.origin not in ("folder", "models folder"):
        raise OptionError(
            f"{bundle.name} is {bundle.origin} and stays as it was published; name a folder for a calibrated copy "
            "(--calibrated-copy)."
        )


def write_calibration(bundle: Bundle, report: CalibrationReport, data: str, out: Path | None) -> Bundle:
    """Write a calibration into the manifest of ``bundle``, or of a copy of it in ``out``, and return that bundle.

    Raises:
        BundleError: it cannot be written.
    """
    path = bundle.path
    if out is not None:
        write_bundle(
            out,
            name=bundle.name,
            contents={name: bundle.read(name) for name in bundle.manifest.files},
            weights=bundle.manifest.weights,
            created_by=bundle.manifest.created_by,
            validation=bundle.manifest.validation,
        )
        path = out
    facts: Mapping[str, Any] = {
        "data": data,
        **{name: value for name, value in report.to_dict().items() if name not in ("before", "after", "temperature")},
    }
    return add_files(
        path,
        {},
        created_by={"ghostzoo": __version__},
        section="calibration",
        facts=facts,
        calibration=report.calibration,
    )


def reliability_picture(report: CalibrationReport, title: str) -> bytes:
    """Draw the accuracy of images over their confidence, before and after, as a PNG; right on the diagonal is best."""
    figure = require_matplotlib().Figure(figsize=(9, 4.8), layout="constrained")
    for place, (name, bins) in enumerate({"before": report.before, "after": report.after}.items(), start=1):
        axes = figure.add_subplot(1, 2, place)
        seen = [index for index, count in enumerate(bins.images) if count]
        axes.bar(
            [(index + 0.5) / _BINS for index in seen],
            [bins.accuracy[index] for index in seen],
            width=0.9 / _BINS,
            color="teal",
            alpha=0.7,
        )
        axes.plot([bins.confidence[index] for index in seen], [bins.accuracy[index] for index in seen], "o", color="k")
        axes.plot([0, 1], [0, 1], ":", color="grey")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
        axes.set_title(f"{name} (ECE {bins.error:.4f})")
    figure.suptitle(f"{title}: temperature {report.calibration.temperature:.3f}", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
