"""Batches of images: each image is read, all run through the network in one call, and each gets its answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .base import Engine, Output

_T = TypeVar("_T")


@dataclass
class Outputs:
    """A batch of images after the network."""

    rows: NDArray[np.float32] | None = None
    """(N, width) float32, for the N images that could be read; ``None`` without any."""
    damaged: list[bool] = field(default_factory=list)
    """One for each of these."""
    errors: list[ImageError | None] = field(default_factory=list)
    """One for each image, ``None`` where it has a row."""
    failure: Exception | None = None
    """What ended the batch early: it comes after the results of the images before it."""


def run_batch(
    batch: Iterable[Any],
    read: Callable[[Any], tuple[NDArray[np.float32], bool]],
    engine: Engine,
    output: Output,
    raise_errors: bool,
) -> Outputs:
    """Read the images of ``batch`` one after the other with ``read``, and run ``engine`` once on all of them.

    Args:
        batch: images, and perhaps an exception of the iterable itself.
        read: image -> (3, H, W) float32 and whether it is damaged, or ``ImageError``.
        engine: may be shared with other threads.
        output: which of the network's outputs is wanted.
        raise_errors: whether an ``ImageError`` ends the batch.
    """
    tensors: list[NDArray[np.float32]] = []
    done = Outputs()
    try:
        for source in batch:
            try:
                tensor, damaged = read(source)
                tensors.append(tensor)
                done.damaged.append(damaged)
                done.errors.append(None)
            except ImageError as error:
                if raise_errors:
                    raise
                done.errors.append(error)
    except Exception as failure:
        done.failure = failure
    if tensors:
        done.rows = engine.run(np.stack(tensors), output)
    return done


def each_answer(
    batches: Generator[Outputs, None, None], answer: Callable[..., Iterable[_T]]
) -> Iterator[_T | ImageError]:
    """Yield an answer for each image, or why it could not be read, in order; ``batches`` is closed at the end.

    Args:
        batches: of images after the network; what ended one is raised after the answers of the images before it.
        answer: rows (N, width) and ``damaged`` -> N answers.
    """
    with closing(batches):
        for done in batches:
            answers = iter(answer(done.rows, damaged=done.damaged) if done.rows is not None else ())
            for error in done.errors:
                yield next(answers) if error is None else error
            if done.failure is not None:
                raise done.failure
