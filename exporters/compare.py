"""The comparison that stands between weights and a bundle: every route must give the original's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ghostzoo.errors import ParityError
from ghostzoo.parity import EXACT_TOLERANCE, Agreement, compare_logits

# The smallest normal float32: below it, a probability says nothing of its logit any more.
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Comparison:
    """Each route held against the reference on the same images."""

    reference: str
    images: int
    agreements: Mapping[str, Agreement]
    """Name of a route -> how far it is from the reference."""

    def to_report(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "images": self.images,
            "tolerance": EXACT_TOLERANCE,
            "routes": {
                name: agreement.to_dict() | {"relative": agreement.relative}
                for name, agreement in self.agreements.items()
            },
        }


def compare_routes(
    names: Sequence[str], reference: str, routes: Mapping[str, NDArray[np.float32]], subject: str
) -> Comparison:
    """Compare every route with the ``reference`` route.

    Args:
        names: the images, for messages.
        reference: the key of ``routes`` that the others are held against.
        routes: (N, classes) logits by name of the route.
        subject: what is compared, for messages.

    Raises:
        ParityError: a route differs by more than 1e-5 of the logits' scale, or in the top-5 of an image (ties aside).
    """
    expected = routes[reference]
    agreements = {}
    for name, logits in routes.items():
        if name == reference:
            continue
        agreement = compare_logits(expected, logits)
        if not agreement.within(EXACT_TOLERANCE):
            raise ParityError(
                f"{subject}: {name} differs from {reference} by {agreement}, worst on "
                f"{names[_worst_image(expected, logits)]}; at most {EXACT_TOLERANCE:g} with equal top-5 is accepted. "
                "Nothing was written."
            )
        agreements[name] = agreement
    return Comparison(reference, len(names), agreements)


def log_probabilities(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax outputs -> logits up to a constant for each image, which is as much as a softmax leaves of them."""
    logs: NDArray[np.float32] = np.log(np.maximum(probabilities, _SMALLEST_PROBABILITY))
    return logs


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (N, classes) -> log-probabilities, cut off where ``log_probabilities`` cuts off."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.maximum(logs, np.log(_SMALLEST_PROBABILITY)).astype(np.float32)


def _worst_image(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> int:
    distance = np.abs(expected - actual).max(axis=1)
    return int(np.where(np.isfinite(distance), distance, np.inf).argmax())
