"""Pictures in, columns out: what the batch command, Ray and Spark share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from .._utils.parallel import map_batches
from .._version import __version__
from ..engines.batches import Outputs, run_batch
from ..errors import OptionError
from ..groups import split
from ..predictions import ALL_DEFAULTS, Choice, Prediction, check_min_score

if TYPE_CHECKING:
    from ..classifier import Classifier

BATCH_SIZE = 4
"""Images a call of the engine; on CPUs, batches of 2 to 4 give the most images a second."""


@dataclass(frozen=True)
class Row:
    """What became of one picture."""

    predictions: Sequence[Prediction]
    """Best first; empty where the picture could not be read, or no class reaches ``min_score``."""
    embedding: NDArray[np.float32] | None
    """(1280,), where embeddings were asked for and the picture could be read."""
    error: str | None
    """Why it could not be read."""

    def to_dict(self) -> dict[str, Any]:
        """Return the columns of this row as Python's own types; null values where there is an error."""
        return {
            "indices": [prediction.index for prediction in self.predictions],
            "labels": [prediction.label for prediction in self.predictions],
            "scores": [prediction.score for prediction in self.predictions],
            "error": self.error,
        }


@dataclass(frozen=True)
class Task:
    """What is asked of a model; it can be pickled, and loads the model in each process when the first picture comes."""

    model: Any = None
    """As for ``ghostzoo.load``."""
    top_k: int | None = None
    min_score: float | None = None
    embeddings: bool = False
    batch_size: int = BATCH_SIZE
    load: tuple[tuple[str, Any], ...] = ()
    """Further options of ``ghostzoo.load``."""
    ranking: tuple[tuple[str, Any], ...] = ()
    """Further fields of ``Choice``."""

    def __post_init__(self) -> None:
        check_min_score(self.min_score)
        for name, value in (("top_k", self.top_k), ("batch_size", self.batch_size)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise OptionError(f"{name} must be a whole number from 1 on, not {value!r}.")

    @classmethod
    def of(cls, model: Any, *, embeddings: bool = False, batch_size: int = BATCH_SIZE, **options: Any) -> Self:
        """Return what ``options`` ask for: fields of ``Choice``, and options of ``ghostzoo.load``."""
        choice = {field.name: options.pop(field.name) for field in fields(Choice) if field.name in options}
        if choice.get("group") is not None:
            choice["group"] = list(split(choice["group"]))
        asked = {name: value for name, value in choice.items() if value != getattr(ALL_DEFAULTS, name)}
        top_k, min_score = (asked.pop(name, None) for name in ("top_k", "min_score"))
        return cls(model, top_k, min_score, embeddings, batch_size, tuple(options.items()), tuple(asked.items()))

    @cached_property
    def classifier(self) -> Classifier:
        from ..loading import load

        classifier = load(self.model, **dict(self.load))
        try:
            classifier.bundle.postprocessing.check(self.choice)
        except OptionError:
            classifier.close()
            raise
        return classifier

    @property
    def choice(self) -> Choice:
        """Which classes are wanted of each picture."""
        return Choice(self.top_k, self.min_score, **dict(self.ranking))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("classifier", "_head")}

    @property
    def facts(self) -> dict[str, str]:
        """What produced the rows: the model, the SHA-256 of its graph, and the version of ghostzoo."""
        bundle = self.classifier.bundle
        graph = bundle.model_hash(bundle.source_precision(self.classifier.engine.options.precision))
        return {"model": bundle.name, "model_sha256": graph, "ghostzoo_version": __version__}

    def rows(self, images: Iterable[Any], workers: int | None = None) -> Iterator[Row]:
        """Yield a row for each image, lazily and in order; images that cannot be read have rows too.

        Args:
            images: single images, of the kinds that a classifier takes.
            workers: threads that read images and run the network; by default as many as fit on the CPUs.

        Raises:
            EngineError: the network cannot be run.
        """
        engines = self.classifier.engines
        if workers is None:
            workers = engines.concurrent_calls
        work = partial(
            run_batch,
            read=self.classifier.read_tensor,
            engine=engines.for_calls if workers == 1 else engines.for_many,
            output="embedding" if self.embeddings else "logits",
            raise_errors=False,
        )
        with closing(map_batches(work, images, self.batch_size, workers)) as batches:
            for done in batches:
                yield from self._rows(done)
                if done.failure is not None:
                    raise done.failure

    def _rows(self, done: Outputs) -> Iterator[Row]:
        outputs = done.rows if done.rows is not None else np.empty((0, 0), np.float32)
        logits = self._logits(outputs) if self.embeddings and len(outputs) else outputs
        postprocessing = self.classifier.bundle.postprocessing
        found = iter(postprocessing.predictions(logits, self.choice, done.damaged)) if len(logits) else iter(())
        embeddings = iter(outputs)
        for error in done.errors:
            if error is not None:
                yield Row((), None, error.reason)
            else:
                embedding = next(embeddings)
                yield Row(next(found), embedding if self.embeddings else None, None)

    def _logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        weight, bias = self._head
        logits: NDArray[np.float32] = embeddings @ weight.T + bias
        return logits

    @cached_property
    def _head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The last layer, so that the network runs once for embeddings and classes: (classes, 1280) and (classes,)."""
        head = self.classifier.bundle.head()
        return head.class_weight, head.class_bias


def column_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return rows as columns: ``index``, ``label`` and ``score`` of the best class, all of them as lists, ``error``."""
    best = [row.predictions[0] if row.predictions else None for row in rows]
    dicts = [row.to_dict() for row in rows]
    return {
        "index": [None if each is None else each.index for each in best],
        "label": [None if each is None else each.label for each in best],
        "score": [None if each is None else each.score for each in best],
        **{name: [each[name] for each in dicts] for name in ("indices", "labels", "scores", "error")},
    }


class Encoded:
    """A picture that is read when a worker comes to it, as a file whose name is that of the picture."""

    def __init__(self, name: str, read: Callable[[], bytes]) -> None:
        self.name = name
        self._read = read
        self._done = False

    def read(self, size: int = -1) -> bytes:
        """Return all bytes at the first call, and none after it."""
        if self._done:
            return b""
        self._done = True
        return self._read()
