"""Where in an image a class's logit comes from: an exact map, without gradients and without trying things out.

The network ends in global average pooling, a linear layer, ReLU and another linear layer. For one image that ReLU is a
mask D of the units that are above zero, and with the tensor F before the pooling, the weights W1, b1, W2, b2 and H x W
places p, the logit of class c is exactly

    sum over p of (W2_c D W1 F_p / (H W))  +  W2_c D b1 + b2_c

which is a map, whose values add up to what the places contribute, and a constant that comes from none of them. It is
what Grad-CAM (Selvaraju et al., 2017) computes for such networks, before its ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import OptionError, nearest
from .images.preprocessing import Preprocessing
from .labels import ClassLabel
from .network.head import Head

_FOR, _AGAINST = np.array([[255, 40, 20], [20, 90, 255]], np.float32)
"""Red where a place speaks for the class, blue where against it."""
_STRONGEST = 0.7
"""Share of the colour at the map's largest value."""
_UNSEEN = 0.35
"""Brightness of what the network did not see."""


@dataclass(frozen=True)
class Explanation:
    """What a logit of one image, or the difference of two, is made of: ``logit == map.sum() + constant``."""

    index: int
    label: str
    against: int | None
    """The class whose logit was subtracted, or ``None``."""
    against_label: str | None
    map: NDArray[np.float32] = field(repr=False)
    """(H, W) float32: what each place of the square that the network saw adds to the logit; a row is a row of it."""
    constant: float
    """What comes from no place."""
    logit: float
    """Of the class, or the difference of the two classes' logits."""
    engine: str
    """The engine that ran the network."""
    preprocessing: Preprocessing = field(repr=False)
    """What square of the image the network saw."""
    _read: Callable[[Any], NDArray[np.uint8]] = field(repr=False, compare=False)

    @property
    def constant_share(self) -> float:
        """How large the constant is, as a fraction of the logit. Near or above 1, the map says little of the logit:
        the difference from another class says more."""
        return abs(self.constant) / abs(self.logit) if self.logit else float("inf")

    def overlay(self, image: Any) -> NDArray[np.uint8]:
        """Draw the map over its image: red places speak for the class, blue ones against it, the strongest brightest.

        What the network did not see, beside the centre square, is dark.

        Args:
            image: the image that was explained, of any kind that the classifier takes.

        Returns:
            (H, W, 3) uint8 RGB, of the image's own size.

        Raises:
            ImageError, InputError: as for the classifier.
        """
        rgb = self._read(image)
        top, left, side = seen_square(rgb.shape[0], rgb.shape[1], self.preprocessing)
        result = (rgb * np.float32(_UNSEEN)).astype(np.uint8)
        square = rgb[top : top + side, left : left + side].astype(np.float32)
        strength = cv2.resize(self.map, (side, side), interpolation=cv2.INTER_CUBIC)
        strength = np.clip(strength / max(float(np.abs(self.map).max()), 1e-12), -1, 1)[:, :, np.newaxis]
        share = _STRONGEST * np.abs(strength)
        colour = np.where(strength > 0, _FOR, _AGAINST)
        result[top : top + side, left : left + side] = (square * (1 - share) + colour * share).astype(np.uint8)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types; the map as rows of numbers."""
        return {
            "index": self.index,
            "label": self.label,
            "against": self.against,
            "against_label": self.against_label,
            "logit": self.logit,
            "constant": self.constant,
            "map": self.map.tolist(),
            "engine": self.engine,
        }


def seen_square(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Return top, left and side in pixels of the square of an image that the network sees."""
    side = max(1, round(min(height, width) * preprocessing.crop_size / preprocessing.resize_short))
    return (height - side) // 2, (width - side) // 2, side


@dataclass(frozen=True)
class Explainer:
    """Explains the logits of one model."""

    head: Head = field(repr=False)
    labels: tuple[ClassLabel, ...] = field(repr=False)
    preprocessing: Preprocessing
    read: Callable[[Any], NDArray[np.uint8]] = field(repr=False)
    """How the model's images are read."""

    def find(self, name: object, given: int | str | None) -> int | None:
        """Return the index of a class that was given by index, label, synonym or WordNet id.

        Raises:
            OptionError: there is no such class, or several; ``name`` is the option's name.
        """
        if given is None:
            return None
        if isinstance(given, int | np.integer) and not isinstance(given, bool):
            if not 0 <= given < len(self.labels):
                raise OptionError(f"{name}={given} is not a class of the model, which has 0 to {len(self.labels) - 1}.")
            return int(given)
        names: dict[str, set[int]] = {}
        for index, label in enumerate(self.labels):
            for each in {label.wnid or label.label, label.label, *label.label.split(", ")}:
                names.setdefault(each.lower(), set()).add(index)
        found = names.get(str(given).lower(), set())
        if len(found) == 1:
            return found.pop()
        if found:
            raise OptionError(f"{name}={given!r} names the classes {sorted(found)}; give one of these numbers.")
        raise OptionError(f"{name}={given!r} is not a class of the model. {nearest(given, list(names)[:2000])[:300]}")

    def explain(
        self, features: NDArray[np.float32], index: int | None, against: int | None, engine: str
    ) -> Explanation:
        """Explain a logit.

        Args:
            features: (C, H, W) float32, the tensor before the pooling.
            index: the class; by default the one with the largest logit.
            against: the class whose logit is subtracted.
            engine: that which ran the network.

        Raises:
            OptionError: both classes are the same.
        """
        head = self.head
        flat = features.reshape(len(features), -1).astype(np.float64)
        hidden = head.hidden_weight @ flat.mean(axis=1) + head.hidden_bias
        if index is None:
            index = int(np.argmax(head.class_weight @ np.maximum(hidden, 0) + head.class_bias))
        weight, bias = head.class_weight[index].astype(np.float64), float(head.class_bias[index])
        if against is not None:
            if against == index:
                raise OptionError(f"Both classes are {self.labels[index].label!r}; give another one as 'against'.")
            weight, bias = weight - head.class_weight[against], bias - float(head.class_bias[against])
        weight = weight * (hidden > 0)
        places = (weight @ head.hidden_weight) @ flat / flat.shape[1]
        constant = float(weight @ head.hidden_bias) + bias
        return Explanation(
            index=index,
            label=self.labels[index].label,
            against=against,
            against_label=None if against is None else self.labels[against].label,
            map=places.reshape(features.shape[1:]).astype(np.float32),
            constant=constant,
            logit=float(places.sum()) + constant,
            engine=engine,
            preprocessing=self.preprocessing,
            _read=self.read,
        )
