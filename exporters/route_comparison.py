"""The proof before a bundle is written: every way of running the weights must give the original's logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.routes import Route
from ghostzoo.errors import ParityError
from ghostzoo.images.decode import describe, read_image
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess
from ghostzoo.parity import EXACT_TOLERANCE, Agreement, compare_logits

_GOLDEN_IMAGES = 2
_BATCH_SIZE = 8


@dataclass(frozen=True)
class RouteComparison:
    """Every route compared with the reference on the same images, one by one."""

    reference: str
    images: tuple[str, ...]
    agreements: Mapping[str, tuple[Agreement, ...]]
    """Name of a route -> its difference from the reference on each image, on the scale of all images."""

    def summary(self, route: str) -> Agreement:
        """Return the difference of ``route`` from the reference over all images."""
        rows = self.agreements[route]
        difference = max(row.max_difference for row in rows)
        return Agreement(difference, rows[0].scale, all(row.top5_equal for row in rows))

    def worst_image(self, route: str) -> str:
        """Return the image on which ``route`` differs most from the reference, different top-5 first."""
        rows = self.agreements[route]
        return max(zip(self.images, rows, strict=True), key=lambda pair: _badness(pair[1]))[0]

    def to_report(self) -> dict[str, Any]:
        """Return the summaries as JSON types; images are named by their file names only."""
        return {
            "reference": self.reference,
            "images": len(self.images),
            "tolerance": EXACT_TOLERANCE,
            "routes": {
                route: {
                    **self.summary(route).to_dict(),
                    "relative": self.summary(route).relative,
                    "worst_image": PurePath(self.worst_image(route)).name,
                }
                for route in self.agreements
            },
        }


def compare_on_images(
    routes: Mapping[str, Route],
    sources: Sequence[Any],
    preprocessing: Preprocessing,
    reference: str,
    subject: str,
    on_step: Callable[[str], object],
) -> tuple[NDArray[np.float32], NDArray[np.float32], RouteComparison]:
    """Run all routes on all images, a batch at a time, and compare them.

    Args:
        routes, reference, subject: as for ``compare_routes``.
        sources: the images.
        preprocessing: what becomes of them.
        on_step: called before each image.

    Returns:
        The first few images, preprocessed, the reference's logits (N, classes), and the comparison.

    Raises:
        ImageError: an image cannot be read; none is skipped.
        ParityError: a route differs from the reference.
    """
    first: NDArray[np.float32] | None = None
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in routes}
    for start in range(0, len(sources), _BATCH_SIZE):
        tensors = []
        for source in sources[start : start + _BATCH_SIZE]:
            on_step(f"comparing on {PurePath(describe(source)).name}")
            tensors.append(preprocess(read_image(source), preprocessing))
        pixel_values = np.stack(tensors)
        first = pixel_values[:_GOLDEN_IMAGES] if first is None else first
        for name, route in routes.items():
            logits[name].append(route(pixel_values))
    whole = {name: np.concatenate(parts) for name, parts in logits.items()}
    names = [describe(source) for source in sources]
    return np.asarray(first), whole[reference], compare_routes(names, reference, whole, subject)


def compare_routes(
    images: Sequence[str], reference: str, routes: Mapping[str, NDArray[np.float32]], subject: str
) -> RouteComparison:
    """Compare every route with the ``reference`` route.

    Args:
        images: names of the images.
        reference: the key of ``routes`` that the others are compared with.
        routes: (N, classes) logits by name of the route.
        subject: what is compared, for error messages.

    Raises:
        ParityError: on some image a route differs by more than 1e-5 of the logits' scale (the largest absolute
            reference logit on all images), or in the top-5, ties aside.
    """
    expected = routes[reference]
    for route, logits in routes.items():
        if logits.shape != expected.shape:
            raise ParityError(
                f"{subject}: {route} gives {logits.shape}, {reference} {expected.shape}. Nothing was written."
            )
    comparison = RouteComparison(
        reference,
        tuple(images),
        {name: _by_image(expected, logits) for name, logits in routes.items() if name != reference},
    )
    faults = [
        f"{route} differs from {reference} on {len(wrong)} of {len(images)} images, most on {worst}: {agreement}"
        for route, rows in comparison.agreements.items()
        if (wrong := [row for row in rows if not row.within(EXACT_TOLERANCE)])
        for worst, agreement in [(comparison.worst_image(route), max(rows, key=_badness))]
    ]
    if faults:
        raise ParityError(
            f"{subject}: {'; '.join(faults)}. At most {EXACT_TOLERANCE:g} with equal top-5 is accepted. "
            "Nothing was written."
        )
    return comparison


def _by_image(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> tuple[Agreement, ...]:
    whole = compare_logits(expected, actual)
    rows = []
    for index in range(len(expected)):
        reference, candidate = expected[index : index + 1], actual[index : index + 1]
        # Ties, like the tolerance, are relative to the scale of all images.
        own_scale = float(np.abs(reference).max())
        tolerance = EXACT_TOLERANCE * (whole.scale / own_scale if own_scale > 0 else 1.0)
        rows.append(replace(compare_logits(reference, candidate, tolerance), scale=whole.scale))
    return tuple(rows)


def _badness(agreement: Agreement) -> tuple[bool, float]:
    return not agreement.top5_equal, agreement.relative
