"""``ghostzoo.fit``: a folder per class -> a bundle with these classes, on the features of another model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._utils.urls import as_path
from ..bundle.edit import check_target
from ..bundle.folder import Bundle
from ..bundle.manifest import check_model_name
from ..catalog import is_model
from ..errors import BundleError, ImageError, InputError, OptionError
from ..evaluation.datasets import ImageDataset, open_dataset
from ..evaluation.evaluate import Proportion
from ..loading import load
from .findings import Copy, Doubt, find_copies, find_doubts, find_warnings
from .pictures import MAX_PICTURES, PICTURES_FILE, Pictures, read_pictures
from .ridge import cross_validate, make_folds
from .writing import general_warnings, write_fitted

_LEAST = 2
"""Pictures of a class, so that each can be left out."""
_SHOWN_DOUBTS = 20


@dataclass(frozen=True)
class Fit:
    """A fitted bundle, and what cross-validation says of it: of each picture, by a head that was fitted without it."""

    bundle: Bundle
    classes: tuple[str, ...]
    accuracy: Proportion
    """Pictures that were recognised; with a 95 % confidence interval."""
    confusion: NDArray[np.int64] = field(repr=False)
    """(classes, classes): pictures of the row's class that were taken for the column's."""
    suspects: tuple[Doubt, ...] = field(repr=False)
    """Pictures that look mislabelled, the surest first."""
    unsure: tuple[Doubt, ...] = field(repr=False)
    """The pictures of least certainty, the least certain first."""
    copies: tuple[Copy, ...] = field(repr=False)
    """Pictures that are nearly the same, those across classes first."""
    warnings: tuple[str, ...]
    """Sentences on what is wrong with the pictures."""
    unreadable: tuple[ImageError, ...] = field(repr=False)
    strength: float
    """Of the regularisation, as a fraction of the embeddings' total variance."""
    seconds: float
    kept_bytes: int
    """Size in the bundle of what it takes to add pictures; 0 where it was not kept."""

    @property
    def balanced_accuracy(self) -> float:
        """The mean of the classes' accuracies."""
        return float((self.confusion.diagonal() / self.confusion.sum(axis=1)).mean())

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON types."""
        return {
            "bundle": str(self.bundle.path),
            "classes": list(self.classes),
            "pictures": self.confusion.sum(axis=1).tolist(),
            "accuracy": self.accuracy.to_dict(),
            "balanced_accuracy": self.balanced_accuracy,
            "confusion": self.confusion.tolist(),
            "suspects": [doubt.to_dict() for doubt in self.suspects],
            "unsure": [doubt.to_dict() for doubt in self.unsure],
            "copies": [{"pictures": [copy.first, copy.second], "classes": list(copy.classes)} for copy in self.copies],
            "warnings": list(self.warnings),
            "unreadable": [{"image": error.source, "error": error.reason} for error in self.unreadable],
            "strength": self.strength,
            "seconds": round(self.seconds, 3),
            "kept_bytes": self.kept_bytes,
        }


def fit(
    data: str | PathLike[str],
    out: str | PathLike[str],
    *,
    model: str | PathLike[str] | None = None,
    add_to: str | PathLike[str] | None = None,
    name: str | None = None,
    keep: bool = True,
    overwrite: bool = False,
    on_start: Callable[[int], Callable[[], object]] = lambda _: lambda: None,
    **options: Any,
) -> Fit:
    """Make a bundle with classes of your own: a linear classifier on the embeddings of a model, which stay as they are.

    Args:
        data: a folder with a folder of pictures for each class, or a tar of one.
        out: the bundle's folder; it must not exist unless ``overwrite``.
        model: whose embeddings are taken; as for ``load``.
        add_to: a bundle of an earlier ``fit``, to add these pictures to its own, and their classes to its classes; the
            earlier pictures need not be there. It gives the model, so ``model`` is left out.
        name: the bundle's name; that of the folder by default.
        keep: keep the pictures' embeddings, names and hashes in the bundle, so that more can be added later: 2.6 kB
            for each. The pictures themselves are never in it.
        overwrite: replace an existing bundle.
        on_start: called with the number of pictures once they are listed; what it returns is called after each.
        options: further ones of ``load``: engine, threads, limits of images, where models come from.

    Raises:
        InputError: there are fewer than two classes, a class has too few pictures, or the data are of another kind.
        GhostZooError: the model or ``out`` cannot be used; nothing was written.
    """
    start = time.perf_counter()
    data, out = as_path(data, "data"), as_path(out, "out")
    name = out.resolve().name if name is None else name
    check_model_name(name)
    if is_model(name):
        raise OptionError(f"{name} is the name of another model; give this one a name of its own, as in name='mine'.")
    if add_to is not None and model is not None:
        raise OptionError("The bundle that is added to has its model already; leave the model out.")
    if options.get("precision", "fp32") != "fp32":
        raise OptionError("A head is fitted to float32 embeddings; leave precision out.")
    check_target(out, overwrite)
    dataset = open_dataset(data)
    with load(model if add_to is None else add_to, **options) as classifier:
        earlier = None if add_to is None else _earlier(classifier.bundle)
        classes = _classes(dataset, classifier.bundle if earlier is not None else None)
        if len(classes) < 2:
            raise InputError(
                f"{data} has one class, {dataset.classes[0]}, and there is nothing to tell it from; add a folder of "
                "another one, such as 'other' with pictures of anything else."
            )
        pictures, unreadable = read_pictures(classifier, dataset, data, on_start(len(dataset.samples)))
        pictures = _joined(pictures, dataset, earlier, classes)
        _check_counts(pictures, classes, unreadable)
        copies, groups = find_copies(pictures, classes)
        if len(np.unique(groups)) < 2:
            raise InputError(f"All pictures in {data} are copies of one; add other pictures of each class.")
        embeddings = pictures.embeddings.astype(np.float32)
        fitted = cross_validate(embeddings, pictures.labels, make_folds(pictures.labels, groups))
        confusion = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(confusion, (pictures.labels, fitted.probabilities.argmax(axis=1)), 1)
        suspects, unsure = find_doubts(pictures, fitted.probabilities, classes)
        counts = confusion.sum(axis=1).tolist()
        kept = pictures.to_bytes() if keep else b""
        accuracy = Proportion(int(confusion.trace()), len(pictures))
        facts = {
            "pictures": len(pictures),
            "pictures_of_classes": dict(zip(classes, counts, strict=True)) if len(classes) <= 100 else len(classes),
            "cross_validated_accuracy": round(accuracy.value, 4),
            "interval_of_95_percent": [round(end, 4) for end in accuracy.interval],
            "strength_of_the_regularisation": fitted.strength,
        }
        general = general_warnings(classifier.bundle, grows=earlier is not None)
        bundle = write_fitted(classifier, out, name, classes, fitted.head, facts, kept, overwrite)
    return Fit(
        bundle=bundle,
        classes=classes,
        accuracy=accuracy,
        confusion=confusion,
        suspects=suspects,
        unsure=unsure[:_SHOWN_DOUBTS],
        copies=copies,
        warnings=(*general, *find_warnings(counts, classes, copies, suspects)),
        unreadable=tuple(unreadable),
        strength=fitted.strength,
        seconds=time.perf_counter() - start,
        kept_bytes=len(kept),
    )


def _earlier(bundle: Bundle) -> Pictures:
    if PICTURES_FILE not in bundle.manifest.files:
        raise BundleError(
            f"Bundle {bundle.path} holds no embeddings of its pictures, so nothing can be added to it: it was not made "
            "by 'ghostzoo fit', or with --no-keep. Fit a new one with all pictures."
        )
    try:
        pictures = Pictures.from_bytes(bundle.read(PICTURES_FILE))
    except BundleError as error:
        raise BundleError(f"Bundle {bundle.path}: {error}") from error
    if pictures.labels.max() >= bundle.num_classes:
        raise BundleError(f"Bundle {bundle.path}: {PICTURES_FILE} has more classes than the model; fit it anew.")
    return pictures


def _classes(dataset: ImageDataset, earlier: Bundle | None) -> tuple[str, ...]:
    """The names of all classes: those of the bundle in its order, and then new ones."""
    known = [label.label for label in earlier.labels] if earlier is not None else []
    return tuple(dict.fromkeys([*known, *dataset.classes]))


def _joined(pictures: Pictures, dataset: ImageDataset, earlier: Pictures | None, classes: tuple[str, ...]) -> Pictures:
    """Give new pictures the indices of all classes, and put them after the earlier ones; what is there already in the
    same class is left out."""
    indices = np.array([classes.index(name) for name in dataset.classes], np.int64)
    pictures = replace(pictures, labels=indices[pictures.labels])
    if earlier is None:
        return pictures.in_order()
    known = set(zip(map(bytes, earlier.digests), earlier.labels.tolist(), strict=True))
    pairs = zip(map(bytes, pictures.digests), pictures.labels.tolist(), strict=True)
    new = np.array([index for index, pair in enumerate(pairs) if pair not in known], np.int64)
    return earlier.with_more(pictures.taken(new)).in_order()


def _check_counts(pictures: Pictures, classes: tuple[str, ...], unreadable: list[ImageError]) -> None:
    why = f"; {len(unreadable)} could not be read, the first because {unreadable[0]}" if unreadable else ""
    counts = np.bincount(pictures.labels, minlength=len(classes)) if len(pictures) else np.zeros(len(classes), int)
    short = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < _LEAST]
    if short:
        raise InputError(
            f"A class takes at least {_LEAST} pictures that can be read, and 5 or more to be of use; too few are in "
            f"{', '.join(short[:5])}{why}."
        )
    if len(pictures) > MAX_PICTURES:
        raise InputError(
            f"{len(pictures)} pictures are more than the {MAX_PICTURES} that one fit takes; leave some out."
        )
