"""Images -> engine -> top-k, probabilities, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cached_property, partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ._utils.hardware import check_thread_count
from .engines import engine_class
from .engines.base import Engine, Output, check_count
from .engines.selection import BASE_ENGINE
from .errors import ImageError, OptionError
from .images.inputs import check_single
from .model import LoadedModel
from .network.architecture import EMBEDDING_SIZE
from .predictions import Choice, Prediction

if TYPE_CHECKING:
    from .explanation import Explainer, Explanation
    from .similarity.index import Index, Match


class Classifier(LoadedModel):
    """A loaded model. Safe to call from many threads; what it returns belongs to the caller.

    An *image* is a path, an ``http(s)`` URL, ``bytes``, a binary file object, a PIL image, or a uint8 array (H, W, 3)
    RGB, (H, W, 4) RGBA or (H, W) grey. *Images* are one of these, a folder, a glob pattern, or any iterable of all
    these.
    """

    def __call__(
        self,
        image: Any,
        top_k: int | None = None,
        *,
        min_score: float | None = None,
        calibrated: bool = True,
        coverage: float | None = None,
        unknown_below: float | None = None,
        group: str | Sequence[str] | None = None,
    ) -> list[Prediction]:
        """Classify one image: the classes that it shows, best first; all options are as in ``predict``.

        Raises:
            ImageError: the image cannot be read.
            InputError: this is no single image.
        """
        choice = self._choice(Choice(top_k, min_score, calibrated, coverage, unknown_below, group))
        check_single(image)
        tensor, damaged = self.read_tensor(image)
        logits = self.engine.run(tensor[np.newaxis])
        return self.bundle.postprocessing.predictions(logits, choice, [damaged])[0]

    async def apredict(self, image: Any, top_k: int | None = None, **options: Any) -> list[Prediction]:
        """Classify one image as a call does, in another thread, so that the event loop goes on."""
        import asyncio

        return await asyncio.to_thread(self, image, top_k, **options)

    @overload
    def predict(
        self,
        images: Any,
        top_k: int | None = ...,
        batch_size: int | None = ...,
        *,
        min_score: float | None = ...,
        calibrated: bool = ...,
        coverage: float | None = ...,
        unknown_below: float | None = ...,
        group: str | Sequence[str] | None = ...,
        on_error: Literal["raise"] = ...,
        workers: int | None = ...,
    ) -> Iterator[list[Prediction]]: ...
    @overload
    def predict(
        self,
        images: Any,
        top_k: int | None = ...,
        batch_size: int | None = ...,
        *,
        min_score: float | None = ...,
        calibrated: bool = ...,
        coverage: float | None = ...,
        unknown_below: float | None = ...,
        group: str | Sequence[str] | None = ...,
        on_error: Literal["return"],
        workers: int | None = ...,
    ) -> Iterator[list[Prediction] | ImageError]: ...
    def predict(
        self,
        images: Any,
        top_k: int | None = None,
        batch_size: int | None = None,
        *,
        min_score: float | None = None,
        calibrated: bool = True,
        coverage: float | None = None,
        unknown_below: float | None = None,
        group: str | Sequence[str] | None = None,
        on_error: Literal["raise", "return"] = "raise",
        workers: int | None = None,
    ) -> Iterator[list[Prediction] | ImageError]:
        """Classify images lazily: one result for each, in order, in bounded memory.

        Args:
            images: see the class.
            top_k: classes for each image at most. By default 5, and of a multi-label model as many as reach
                ``min_score``.
            batch_size: images a call of the engine.
            min_score: lowest score of a class, 0 to 1; an image without any gets an empty list. By default 0, and of
                a multi-label model 0.5.
            calibrated: use the temperature of a model that was calibrated (``ghostzoo eval --calibrate``).
            coverage: as many classes as it takes for the right one to be among them with this probability, such as
                0.95, whatever ``top_k`` would be. It needs a calibrated model.
            unknown_below: no class at all for an image that is less familiar to the network than this share, such as
                0.05, of the images that the model was calibrated on: so many of those that it knows get none, either.
            group: what the scores of classes are added up for: a WordNet group such as ``dog``, by one of its names or
                its id, several of them, or ``basic``, the groups that people name first. A class of several counts for
                the smallest, and one of none stays by itself.
            on_error: ``raise`` an unreadable image's ``ImageError`` (after the results of all images before it), or
                ``return`` it in its place and go on.
            workers: threads that each read images and run the network, a few batches ahead of the results. By default
                as many as the engine has CPU threads for a folder, a pattern, and a list or tuple of many paths, URLs,
                bytes or arrays; and 1 for anything else: an iterator is read as results are asked for, and with a
                ``batch_size`` of 1 each result is there before the next image is read.

        Raises:
            InputError: ``images`` is of a kind that is not accepted, or an empty folder or pattern.
        """
        choice = self._choice(Choice(top_k, min_score, calibrated, coverage, unknown_below, group))
        if workers is not None:
            check_count("workers", workers)
            check_thread_count("workers", workers)
        size = self._images_per_call(batch_size)
        if on_error not in ("raise", "return"):
            raise OptionError(f"on_error must be 'raise' or 'return', not {on_error!r}.")
        rank = partial(self.bundle.postprocessing.predictions, choice=choice)
        return self._predict(images, rank, size, on_error == "raise", workers)

    def logits(self, images: Any, batch_size: int | None = None) -> NDArray[np.float32]:
        """Return the network's raw outputs, (N, classes) float32, for all images.

        Raises:
            ImageError: an image cannot be read.
        """
        return self._collect(images, batch_size, "logits", self.bundle.num_classes)

    def probabilities(
        self, images: Any, batch_size: int | None = None, *, calibrated: bool = True
    ) -> NDArray[np.float32]:
        """Return probabilities, (N, classes) float32, for all images; raises as ``logits`` does.

        Each image's are a softmax, so that they add up to 1, with the model's temperature if it is ``calibrated``; of a
        multi-label model each is a sigmoid by itself.
        """
        return self.bundle.postprocessing.probabilities(self.logits(images, batch_size), calibrated)

    def known(self, images: Any, batch_size: int | None = None) -> NDArray[np.float64]:
        """Say how familiar images are to the network, (N,) float64 from 0 to 1, for all images.

        It is the share of the images that the model was calibrated on whose logits, as log(sum(exp(logits))), are
        smaller: images unlike all classes are near 0. ``unknown_below`` of ``predict`` is compared with it.

        Raises:
            ImageError: an image cannot be read.
            OptionError: the model is not calibrated.
        """
        self.bundle.postprocessing.check(Choice(unknown_below=0.5))
        return self.bundle.postprocessing.known(self.logits(images, batch_size))

    def embed(self, images: Any, batch_size: int | None = None) -> NDArray[np.float32]:
        """Return the vectors before the last layer, (N, 1280) float32, for all images; raises as ``logits`` does."""
        return self._collect(images, batch_size, "embedding", EMBEDDING_SIZE)

    def explain(self, image: Any, index: int | str | None = None, against: int | str | None = None) -> Explanation:
        """Say where in an image a class's logit comes from: an exact map, and a constant that comes from no place.

        It runs a graph of its own with one more output, which is made and opened at the first call; engines that cannot
        return that output are refused, unless automatic selection chose them: then it runs in ONNX Runtime, as
        ``Explanation.engine`` says.

        Args:
            image: one image.
            index: the class, by its index or label; by default the one with the largest logit.
            against: a second class, to explain the difference of the two logits: what speaks for the one rather than
                the other. It says more than one class's map where the constant is a large part of the logit.

        Raises:
            OptionError: there is no such class, or the model was loaded in another precision than float32.
            EngineUnavailableError: the engine does not return the tensor that is needed.
            BundleError: the graph does not end as GhostNets do.
            ImageError, InputError: as for a call.
        """
        check_single(image)
        wanted, other = self.explainer.find("index", index), self.explainer.find("against", against)
        tensor, _ = self.read_tensor(image)
        features = self.features(tensor[np.newaxis])[0]
        return self.explainer.explain(features, wanted, other, self.features_engine.name)

    def similar(
        self, image: Any, index: Index | str | PathLike[str], k: int = 5, *, approximate: bool = False
    ) -> list[Match]:
        """Find the pictures of an index that are most similar to an image, the most similar first.

        Args:
            image: one image, which need not be in the index.
            index: what ``ghostzoo.build_index`` wrote with this model, or the file's path.
            k: pictures at most.
            approximate: as for ``Index.search``.

        Raises:
            IndexFileError: the index is damaged, or of another model.
            OptionError, EngineUnavailableError: as for ``Index.search``.
            ImageError, InputError: as for a call.
        """
        from .similarity.embedding import identity_of
        from .similarity.index import Index

        check_single(image)
        opened = index if isinstance(index, Index) else Index.open(index)
        opened.check(self.bundle.name, identity_of(self))
        return opened.search(self.embed([image]), k, approximate=approximate)[0]

    @cached_property
    def explainer(self) -> Explainer:
        """What explains this model's logits."""
        from .explanation import Explainer

        bundle = self.bundle
        explainer = Explainer(bundle.head(), bundle.labels, bundle.preprocessing, self.read_image)
        bundle.release()
        return explainer

    @property
    def features_engine(self) -> Engine:
        """The engine that returns the tensor before the pooling; raises as ``explain`` does."""
        kind = type(self.engine)
        chosen = self.selection.origin in ("measured", "cached") and not kind.gives_features
        return self.engines.for_features(self.explainer.head, engine_class(BASE_ENGINE) if chosen else None)

    def features(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network on preprocessed images (N, 3, S, S) float32 up to the pooling: (N, C, H, W) float32."""
        return self.features_engine.run(batch, "features")

    @property
    def groups(self) -> dict[str, list[int]]:
        """What ``group`` of ``predict`` may be, by its first name -> indices of the model's classes in it."""
        from .groups import group_names

        return group_names(self.bundle.original_labels or self.bundle.labels)

    def __repr__(self) -> str:
        return f"<Classifier {self.bundle.name} on {self.engine.name}, {self.bundle.num_classes} classes>"

    def _predict(
        self,
        images: Any,
        rank: Callable[..., list[list[Prediction]]],
        batch_size: int,
        raise_errors: bool,
        workers: int | None,
    ) -> Iterator[list[Prediction] | ImageError]:
        from .engines.batches import each_answer

        yield from each_answer(self.outputs(images, batch_size, "logits", raise_errors, workers), rank)

    def _collect(self, images: Any, batch_size: int | None, output: Output, width: int) -> NDArray[np.float32]:
        parts = []
        with closing(self.outputs(images, self._images_per_call(batch_size), output, True)) as batches:
            for done in batches:
                if done.failure is not None:
                    raise done.failure
                if done.rows is not None:
                    parts.append(done.rows)
        return np.concatenate(parts) if parts else np.empty((0, width), np.float32)

    def _choice(self, choice: Choice) -> Choice:
        if choice.top_k is not None:
            check_count("top_k", choice.top_k)
        self.bundle.postprocessing.check(choice)
        return choice
