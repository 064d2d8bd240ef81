"""A model that was loaded: its bundle, the engines that it holds in this process, and how it reads images."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ._utils.hardware import usable_cpus
from ._utils.locks import opening
from .bundle.folder import Bundle
from .engines.base import Engine, EngineOptions, Output, check_count
from .engines.selection import Selection, check_engine_name, open_engine
from .errors import BundleError, OptionError
from .fetch.options import FetchOptions
from .fetch.resolver import fetch
from .images.decode import ImageLimits, read_picture
from .images.inputs import count_at_hand, expand
from .images.options import Colour, ReadOptions
from .images.transform import preprocess

if TYPE_CHECKING:
    from .engines.batches import Outputs
    from .network.head import Head
    from .parity import Agreement

_DEFAULT_BATCH_SIZE = 4
"""Images a call of the engine; on CPUs, batches of 2 to 4 give the most images a second."""
_DRAFT_FACTOR = 2
"""How many times the size that the network resizes to is left of an image that is decoded in ``draft``."""
_MANY = 32
"""From this many images on, it pays to open an engine for several threads."""
_TRIAL_SECONDS = 0.3
"""For which a model is timed on one CPU and on all."""
_WORTH_IT = 0.9
"""A call that is alone takes all CPUs if it takes at most this part of the time that it takes on one."""


@dataclass(frozen=True)
class LoadRequest:
    """What the caller of ``load`` asked for: enough to load the same model in another process."""

    model: str | PathLike[str] | None
    engine: str
    options: EngineOptions
    fetching: FetchOptions
    limits: ImageLimits
    background: Colour | None = None
    lenient: bool = False
    draft: bool = False
    labels: str | PathLike[str] | Sequence[str] | None = None


class OpenedEngines:
    """Opens a bundle's engine again where the first one cannot serve: in a forked process, or for concurrent calls."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle = bundle
        self._kind = type(engine)
        self._options = replace(engine.options, device=engine.device)
        self._for_calls = engine
        self._for_many: Engine | None = None
        self._for_lone: Engine | None = None
        self._for_features: Engine | None = None
        self._closed = False

    @property
    def for_calls(self) -> Engine:
        """The engine as the caller asked for it; opened anew in a forked process, where its threads are missing."""
        if self._for_calls.is_inherited and not self._closed:
            with opening:
                if self._for_calls.is_inherited:
                    self._for_calls = self._open(self._options.threads)
        return self._for_calls

    @property
    def for_many(self) -> Engine:
        """The engine for as many concurrent calls as there are CPU threads: on a CPU, each call takes one thread."""
        if not self._shares_cpu:
            return self.for_calls
        with opening:
            if self._closed:
                return self.for_calls
            if self._for_many is None or self._for_many.is_inherited:
                try:
                    self._for_many = self._open(threads=1)
                except OptionError:  # the caller's engine_options set the threads, and have the last word
                    self._for_many = self.for_calls
        return self._for_many

    @property
    def for_lone(self) -> Engine:
        """The engine for a call that has the machine to itself, see ``open_for_lone``."""
        return self._for_lone or self.for_calls

    def for_features(self, head: Head, kind: type[Engine] | None = None) -> Engine:
        """The engine that returns the tensor before the pooling, which is opened when it is first asked for.

        Args:
            head: the last layers of the bundle's graph.
            kind: another engine for it, on its default device; by default that of the calls.

        Raises:
            OptionError: the model was loaded in another precision than float32.
            EngineUnavailableError: the engine does not return the tensor.
        """
        if self._options.precision != "fp32":
            raise OptionError(
                f"{self._bundle.name} was loaded in {self._options.precision}, and what is explained is the float32 "
                "graph; load it with precision='fp32'."
            )
        with opening:
            engine = self._for_features
            if engine is None or (engine.is_inherited and not self._closed):
                options = self._options if kind is None else EngineOptions(threads=self._options.threads)
                engine = (kind or self._kind).load_features(self._bundle, head, options)
                self._bundle.release()
                self._for_features = engine
                if self._closed:
                    engine.close()
        return engine

    def open_for_lone(self) -> None:
        """Where calls take one CPU each: open the model on all of them, too, if an image that is alone is faster there.

        It is no faster for small networks, and where other programs want the CPUs too.

        Raises:
            EngineError: it cannot be opened.
        """
        engine = self._for_calls
        if engine.device.lower() != "cpu" or engine.options.threads != 1 or usable_cpus() == 1:
            return
        from ._utils.timing import median_ms, time_in_turn

        opened = self._open(None)
        side = self._bundle.config.image_size
        image = np.zeros((1, 3, side, side), np.float32)
        durations = time_in_turn({each: partial(each.run, image) for each in (engine, opened)}, _TRIAL_SECONDS)
        if median_ms(durations[opened]) > _WORTH_IT * median_ms(durations[engine]):
            opened.close()
        else:
            self._for_lone = opened

    @property
    def concurrent_calls(self) -> int:
        """How many concurrent calls make best use of the engine's CPUs."""
        return self._options.thread_count

    def close(self) -> None:
        self._closed = True
        for engine in (self._for_calls, self._for_many, self._for_lone, self._for_features):
            if engine is not None:
                engine.close()

    @property
    def _shares_cpu(self) -> bool:
        return self._for_calls.device.lower() == "cpu" and self._options.thread_count > 1

    def _open(self, threads: int | None) -> Engine:
        engine = self._kind.load(self._bundle, replace(self._options, threads=threads))
        self._bundle.release()
        return engine


class LoadedModel:
    """A verified bundle and its engines, from images to the network's outputs; what these mean is ``Classifier``'s."""

    def __init__(self, bundle: Bundle, engine: Engine, selection: Selection, request: LoadRequest) -> None:
        self.bundle = bundle
        self.selection = selection
        self.limits = request.limits
        self._request = request
        draft_side = _DRAFT_FACTOR * bundle.preprocessing.resize_short if request.draft else None
        self._reading = ReadOptions(request.background, request.lenient, draft_side)
        self.engines = OpenedEngines(bundle, engine)
        """All that it holds, for those who make calls of their own."""

    @classmethod
    def open(cls, request: LoadRequest) -> Self:
        """Load what was asked for; raises as ``ghostzoo.load`` does."""
        check_engine_name(request.engine)
        bundle = fetch(request.model, request.fetching).with_labels(request.labels)
        engine, selection = open_engine(bundle, request.engine, request.options)
        bundle.release()
        return cls(bundle, engine, selection, request)

    @classmethod
    def _reopen(cls, request: LoadRequest, model_hash: str) -> Self:
        """Load a pickled classifier's model in this process."""
        classifier = cls.open(request)
        bundle = classifier.bundle
        if bundle.model_hash(bundle.source_precision(request.options.precision)) != model_hash:
            classifier.close()
            raise BundleError(
                f"Bundle {bundle.path}: its model has changed since the classifier was pickled; pickle it again."
            )
        return classifier

    @property
    def engine(self) -> Engine:
        """The engine for single calls; in a forked process, one that was opened there."""
        return self.engines.for_calls

    def read_image(self, image: Any) -> NDArray[np.uint8]:
        """Return one image as it is read for the network, before it is resized: (H, W, 3) uint8 RGB.

        Raises:
            ImageError: the image cannot be read.
            InputError: this is no image.
        """
        return read_picture(image, self.limits, self._reading).rgb

    def read_tensor(self, image: Any) -> tuple[NDArray[np.float32], bool]:
        """Return the network's input (3, S, S) float32 for one image, and whether the image is damaged."""
        picture = read_picture(image, self.limits, self._reading)
        return preprocess(picture.rgb, self.bundle.preprocessing), picture.damaged

    def outputs(
        self, images: Any, batch_size: int, output: Output, raise_errors: bool, workers: int | None = None
    ) -> Generator[Outputs, None, None]:
        """Read images and run the network on them, a batch after the other or several side by side.

        Args:
            images: as for ``Classifier``.
            batch_size: images a call of the engine.
            output: which of the network's outputs is wanted.
            raise_errors: whether an ``ImageError`` ends it.
            workers: as for ``Classifier.predict``.
        """
        from ._utils.parallel import map_batches
        from .engines.batches import run_batch

        if workers is None:
            workers = self.engines.concurrent_calls if count_at_hand(images) >= _MANY else 1
        engine = self.engines.for_calls if workers == 1 else self.engines.for_many
        work = partial(run_batch, read=self.read_tensor, engine=engine, output=output, raise_errors=raise_errors)
        return map_batches(work, expand(images), batch_size, workers)

    def warmup(self, batch_size: int | None = None) -> None:
        """Run the network once on made-up pixels, so that the first image does not wait for what is done only once.

        Args:
            batch_size: images in that call; by default the fixed batch size, or 1.
        """
        count = self.engine.options.batch_size or 1 if batch_size is None else batch_size
        check_count("batch_size", count)
        side = self.bundle.config.image_size
        self.engine.run(np.zeros((count, 3, side, side), np.float32))

    def self_check(self) -> Agreement:
        """Run the bundle's golden inputs on this engine and compare the logits with the original's."""
        from .parity import engine_tolerance

        return self.bundle.golden().check(self.engine.run, engine_tolerance(self.engine.options.precision))

    def close(self) -> None:
        """Free the model."""
        self.engines.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what was asked for, not the model: it is loaded again in the other process, and has to be there.

        A token is left out: the other process takes its own.
        """
        request = self._request
        if self.bundle.origin == "folder":  # a relative path may mean something else there
            request = replace(request, model=self.bundle.path.resolve())
        if request.labels is not None and self.bundle.language is None:  # so may a label file
            request = replace(request, labels=[label.label for label in self.bundle.labels])
        if isinstance(request.fetching.token, str):
            request = replace(request, fetching=replace(request.fetching, token=None))
        source = self.bundle.source_precision(request.options.precision)
        return self._reopen, (request, self.bundle.model_hash(source))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _images_per_call(self, batch_size: int | None) -> int:
        if batch_size is None:
            return self.engine.options.batch_size or _DEFAULT_BATCH_SIZE
        check_count("batch_size", batch_size)
        return batch_size
