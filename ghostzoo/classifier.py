"""Images -> engine -> top-k, probabilities, embeddings."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from .architecture import EMBEDDING_SIZE
from .bundle import Bundle
from .engines.base import Engine, EngineOptions, Output
from .engines.select import AUTO, Selection, check_name, open_engine
from .errors import ImageError, InputError, OptionError
from .fetch import fetch
from .images import ImageLimits, read_image
from .parity import Agreement
from .predictions import Prediction, softmax, top_predictions
from .preprocess import preprocess
from .sources import expand, is_single

_log = logging.getLogger("ghostzoo")

_DEFAULT_BATCH_SIZE = 4
"""Images a call of the engine in ``predict``; on CPUs, batches of 2 to 4 give the most images a second."""


def load(
    model: str | PathLike[str] | None = None,
    *,
    engine: str = AUTO,
    threads: int | None = None,
    device: str | None = None,
    precision: str = "fp32",
    batch_size: int | None = None,
    engine_options: Mapping[str, Any] | None = None,
    limits: ImageLimits | None = None,
) -> Classifier:
    """Load a model.

    Args:
        model: a bundle folder, or the name of a model. Without one it is the small model that comes with the package,
            and a warning is logged (which goes to stderr unless logging is set up otherwise) that names its classes.
        engine: the inference library; ``auto`` takes the one that ``GHOSTZOO_ENGINE`` names, or else measures on this
            machine which is the fastest. ``Classifier.selection`` tells which it is and why.
        threads: CPU threads within one call; by default the CPUs that this process may use.
        device: by the engine's own name for it, such as ``cpu`` or ``cuda:0``; ``None`` takes the engine's default.
        precision: ``fp32``, or ``fp16`` or ``int8`` where the bundle has them.
        batch_size: specialise the model for this number of images a call; any number is still accepted.
        engine_options: passed on to the engine in its own terms.
        limits: what images may cost at most.

    Raises:
        GhostZooError: the model, the engine or an option cannot be used; the message says why and what to do.
    """
    options = EngineOptions(threads, device, precision, batch_size, dict(engine_options or {}))
    check_name(engine)
    bundle = fetch(model)
    if model is None:
        _log.warning(
            "No model was named, so this is %s, which comes with ghostzoo and knows %d everyday classes: %s. "
            "For ImageNet's 1,000 classes name another one, such as GhostNet_x1_0; 'ghostzoo list' shows them all.",
            bundle.name,
            bundle.num_classes,
            ", ".join(label.label for label in bundle.labels),
        )
    loaded, selection = open_engine(bundle, engine, options)
    bundle.release()
    return Classifier(bundle, loaded, selection, limits)


class Classifier:
    """A loaded model. Safe to call from many threads; what it returns belongs to the caller.

    An *image* is a path, an ``http(s)`` URL, ``bytes``, a binary file object, a PIL image, or a uint8 array (H, W, 3)
    RGB, (H, W, 4) RGBA or (H, W) grey. *Images* are one of these, a folder, a glob pattern, or any iterable of all
    these.
    """

    def __init__(self, bundle: Bundle, engine: Engine, selection: Selection, limits: ImageLimits | None = None) -> None:
        self.bundle = bundle
        self.engine = engine
        self.selection = selection
        self.limits = limits or ImageLimits()

    def __call__(self, image: Any, top_k: int = 5) -> list[Prediction]:
        """Classify one image: its ``top_k`` classes, best first.

        Raises:
            ImageError: the image cannot be read.
            InputError: this is no single image.
        """
        _check_count("top_k", top_k)
        if not is_single(image):
            raise InputError("A call takes one image; use predict() for several, a folder or a pattern.")
        return self._top(self._infer([self._read(image)], "logits"), top_k)[0]

    @overload
    def predict(
        self, images: Any, top_k: int = ..., batch_size: int | None = ..., *, on_error: Literal["raise"] = ...
    ) -> Iterator[list[Prediction]]: ...
    @overload
    def predict(
        self, images: Any, top_k: int = ..., batch_size: int | None = ..., *, on_error: Literal["return"]
    ) -> Iterator[list[Prediction] | ImageError]: ...
    def predict(
        self,
        images: Any,
        top_k: int = 5,
        batch_size: int | None = None,
        *,
        on_error: Literal["raise", "return"] = "raise",
    ) -> Iterator[list[Prediction] | ImageError]:
        """Classify images lazily: one result for each, in order, with at most ``batch_size`` images in memory.

        Args:
            images: see the class.
            top_k: classes for each image.
            batch_size: images a call of the engine; with 1, each result is there before the next image is read.
            on_error: ``raise`` an unreadable image's ``ImageError`` (after the results of all images before it), or
                ``return`` it in its place and go on.

        Raises:
            InputError: ``images`` is of a kind that is not accepted, or an empty folder or pattern.
        """
        _check_count("top_k", top_k)
        size = self._batch_size(batch_size)
        if on_error not in ("raise", "return"):
            raise OptionError(f"on_error must be 'raise' or 'return', not {on_error!r}.")
        return self._predict(iter(expand(images)), top_k, size, on_error == "raise")

    def logits(self, images: Any, batch_size: int | None = None) -> NDArray[np.float32]:
        """Return the network's raw outputs, (N, classes) float32, for all images.

        Raises:
            ImageError: an image cannot be read.
        """
        return self._collect(images, batch_size, "logits", self.bundle.num_classes)

    def probabilities(self, images: Any, batch_size: int | None = None) -> NDArray[np.float32]:
        """Return softmax probabilities, (N, classes) float32, for all images; raises as ``logits`` does."""
        return softmax(self.logits(images, batch_size))

    def embed(self, images: Any, batch_size: int | None = None) -> NDArray[np.float32]:
        """Return the vectors before the last layer, (N, 1280) float32, for all images; raises as ``logits`` does."""
        return self._collect(images, batch_size, "embedding", EMBEDDING_SIZE)

    def self_check(self) -> Agreement:
        """Run the bundle's golden inputs on this engine and compare the logits with the original's."""
        return self.bundle.golden().check(self.engine.run)

    def close(self) -> None:
        """Free the model."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Classifier {self.bundle.name} on {self.engine.name}, {self.bundle.num_classes} classes>"

    def _read(self, image: Any) -> NDArray[np.float32]:
        return preprocess(read_image(image, self.limits), self.bundle.preprocessing)

    def _infer(self, tensors: list[NDArray[np.float32]], output: Output) -> NDArray[np.float32]:
        return self.engine.run(np.stack(tensors), output)

    def _top(self, logits: NDArray[np.float32], top_k: int) -> list[list[Prediction]]:
        return [top_predictions(row, self.bundle.labels, top_k) for row in softmax(logits)]

    def _predict(
        self, sources: Iterator[Any], top_k: int, batch_size: int, raise_errors: bool
    ) -> Iterator[list[Prediction] | ImageError]:
        failure: Exception | None = None
        while failure is None:
            tensors: list[NDArray[np.float32]] = []
            slots: list[ImageError | None] = []
            try:
                for source in islice(sources, batch_size):
                    slots.append(self._read_into(tensors, source, raise_errors))
            except Exception as error:  # the caller's own iterable may fail too: first the results of what came before
                failure = error
            if not slots and failure is None:
                return
            results = iter(self._top(self._infer(tensors, "logits"), top_k) if tensors else [])
            for slot in slots:
                yield next(results) if slot is None else slot
        raise failure

    def _read_into(self, tensors: list[NDArray[np.float32]], source: Any, raise_errors: bool) -> ImageError | None:
        """Append the image's tensor; return the error instead of raising it if that is asked for."""
        try:
            tensors.append(self._read(source))
        except ImageError as error:
            if raise_errors:
                raise
            return error
        return None

    def _collect(self, images: Any, batch_size: int | None, output: Output, width: int) -> NDArray[np.float32]:
        size = self._batch_size(batch_size)
        parts = [self._infer(tensors, output) for tensors in _batches(map(self._read, expand(images)), size)]
        return np.concatenate(parts) if parts else np.empty((0, width), np.float32)

    def _batch_size(self, batch_size: int | None) -> int:
        if batch_size is None:
            return self.engine.options.batch_size or _DEFAULT_BATCH_SIZE
        _check_count("batch_size", batch_size)
        return batch_size


def _batches(items: Iterable[NDArray[np.float32]], size: int) -> Iterator[list[NDArray[np.float32]]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} must be a whole number of at least 1, not {value!r}.")
