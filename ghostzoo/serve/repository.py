"""The models of one server: loaded once for each engine, unloaded and loaded again while others are served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.folder import Bundle
from ..classifier import Classifier
from ..engines.base import Engine
from ..engines.selection import check_engine_name
from ..errors import EngineError, GhostZooError, OptionError, nearest
from ..fetch.resolver import fetch
from ..images.decode import read_image
from ..images.transform import cut_centre
from ..loading import load
from ..names import LANGUAGES, has_names, preferred
from ..predictions import Postprocessing
from .options import ServeOptions
from .request_errors import RequestError, bad_request, not_found, overloaded
from .scheduler import Scheduler

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Pixel values -> logits."""


class ModelInstance:
    """A model on one engine, as the scheduler runs it."""

    def __init__(self, classifier: Classifier) -> None:
        self.model = classifier.bundle.name
        self.engine = classifier.engine.name
        self.side_by_side = classifier.engine.device.lower() == "cpu"
        self.classifier = classifier
        self.preprocessing = classifier.bundle.preprocessing
        self.features = FeaturesInstance(self)

    def decode(self, source: bytes) -> NDArray[np.uint8]:
        return np.ascontiguousarray(cut_centre(read_image(source, self.classifier.limits), self.preprocessing))

    def run(self, batch: NDArray[np.float32], *, alone: bool) -> NDArray[np.float32]:
        engines = self.classifier.engines
        return (engines.for_lone if alone else engines.for_calls).run(batch)

    def postprocessing(self, accepted: str) -> Postprocessing:
        """Return what ranks classes, with labels in the language that an ``Accept-Language`` header likes best; the
        model's own if there is none, or no names in it."""
        language = preferred(accepted, self._named) if accepted else None
        return self.classifier.bundle.postprocessing if language is None else self._named[language]

    @cached_property
    def _named(self) -> dict[str, Postprocessing]:
        own = self.classifier.bundle.postprocessing
        return {language: own.named(language) for language in LANGUAGES if has_names(own.labels, language)}

    def close(self) -> None:
        """Free the model."""
        self.classifier.close()


class FeaturesInstance:
    """A model on one engine up to the pooling, for explanations: the scheduler's answers hold (C, H, W) for an image.

    The engine opens it when it is first asked for.
    """

    def __init__(self, instance: ModelInstance) -> None:
        self.model, self.engine, self.side_by_side = instance.model, instance.engine, instance.side_by_side
        self.preprocessing = instance.preprocessing
        self.decode = instance.decode
        self._classifier = instance.classifier

    def run(self, batch: NDArray[np.float32], *, alone: bool) -> NDArray[np.float32]:
        return self._classifier.features(batch)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model."""

    bundle: Bundle
    instances: Mapping[str, ModelInstance]
    """By the engine's name; the first is the default."""

    @property
    def name(self) -> str:
        return self.bundle.name

    def instance(self, engine: str | None) -> ModelInstance:
        """Return the model on ``engine``, or on its first one for ``None``.

        Raises:
            RequestError: it was not loaded with that engine.
        """
        if engine is None:
            return next(iter(self.instances.values()))
        if engine not in self.instances:
            raise not_found(f"{self.name} is not served on {engine[:80]!r}. {nearest(engine, self.instances)}")
        return self.instances[engine]

    def describe(self) -> dict[str, Any]:
        """Return what clients may know of it, as JSON types."""
        return {
            "name": self.name,
            "ready": True,
            "classes": self.bundle.num_classes,
            "multi_label": self.bundle.config.multi_label,
            "temperature": self.bundle.temperature,
            "image_size": self.bundle.config.image_size,
            "engines": list(self.instances),
            "running": [instance.classifier.engine.describe() for instance in self.instances.values()],
            "files": {name: record.size for name, record in self.bundle.manifest.files.items()},
        }


class Repository:
    """The models that the server was started with, loaded or not."""

    def __init__(self, options: ServeOptions, scheduler: Scheduler) -> None:
        self._options = options
        self._scheduler = scheduler
        self._sources: dict[str, str | None] = {}
        self._models: dict[str, ServedModel | None] = {}
        self._reasons: dict[str, str] = {}
        self._changing = asyncio.Lock()

    async def load_all(self) -> None:
        """Load every model of the options, once all have been found.

        Raises:
            GhostZooError: one cannot be used, or two have the same name.
        """
        for engine in self._options.engines:
            check_engine_name(engine)
        for source in self._options.models or (None,):
            name = (await asyncio.to_thread(fetch, source, self._options.fetching)).name
            if name in self._sources:
                raise OptionError(f"{source} and another model are both named {name}; rename one of them.")
            self._sources[name] = source
        for name, source in self._sources.items():
            self._models[name] = await asyncio.to_thread(load_model, source, self._options)

    @property
    def names(self) -> list[str]:
        return list(self._models)

    @property
    def loaded(self) -> list[str]:
        return [name for name, model in self._models.items() if model is not None]

    @property
    def ready(self) -> bool:
        """Whether every model that has not been unloaded on purpose is loaded."""
        return bool(self._models) and not any(self._reasons.get(name) for name in self._models)

    def get(self, name: str | None = None) -> ServedModel:
        """Return a loaded model; the first one for ``None``.

        Raises:
            RequestError: there is none of that name, or it is not loaded.
        """
        if name is None:
            name = next(iter(self._models))
        if name not in self._models:
            raise not_found(f"There is no model {name[:120]!r} here. {nearest(name[:120], self._models)}")
        model = self._models[name]
        if model is None:
            raise overloaded(f"{name} is not loaded; load it, or ask for another model.")
        return model

    def describe(self) -> list[dict[str, Any]]:
        """Return what clients may know of the models, as JSON types."""
        return [
            model.describe() if model is not None else {"name": name, "ready": False}
            for name, model in self._models.items()
        ]

    def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """Return name, version, state and reason of the models, as the protocol's repository index has them."""
        return [
            {
                "name": name,
                "version": "1",
                "state": "READY" if model is not None else "UNAVAILABLE",
                "reason": self._reasons.get(name, "") or ("" if model is not None else "unloaded"),
            }
            for name, model in self._models.items()
            if model is not None or not only_ready
        ]

    async def load(self, name: str, parameters: Iterable[str] = ()) -> None:
        """Load the model again, from where it came; requests are served by the old one until the new one is there.

        Args:
            parameters: names of what a client sent, of which there may be none.

        Raises:
            RequestError: there is no such model, or clients may not do this, or not so.
            GhostZooError: it cannot be used; what was loaded stays.
        """
        if parameters:
            raise bad_request(f"Loading takes no parameters here; leave out {', '.join(parameters)[:200]}.")
        self._check_control(name)
        async with self._changing:
            try:
                model = await asyncio.to_thread(load_model, self._sources[name], self._options)
                if model.name != name:
                    raise EngineError(f"{self._sources[name]} now holds {model.name}; restart the server to serve it.")
            except GhostZooError as error:
                self._reasons[name] = "" if self._models[name] is not None else str(error)
                raise
            old, self._models[name] = self._models[name], model
            self._reasons[name] = ""
            await self._retire(old)

    async def unload(self, name: str) -> None:
        """Take no more requests for the model, finish those that wait, and free it; raises as ``load`` does."""
        self._check_control(name)
        async with self._changing:
            old, self._models[name] = self._models[name], None
            self._reasons[name] = ""
            await self._retire(old)

    async def close(self) -> None:
        """Free all models; the scheduler must have ended."""
        for model in self._models.values():
            for instance in model.instances.values() if model is not None else ():
                instance.close()

    def _check_control(self, name: str) -> None:
        if not self._options.model_control:
            raise RequestError(403, "This server was started without --model-control; its models stay as they are.")
        if name not in self._models:
            raise not_found(
                f"There is no model {name[:120]!r} here, and only models that the server was started with can be "
                f"loaded. {nearest(name[:120], self._models)}"
            )

    async def _retire(self, model: ServedModel | None) -> None:
        for instance in model.instances.values() if model is not None else ():
            for each in (instance, instance.features):
                await asyncio.to_thread(self._scheduler.retire, each)
            instance.close()


def load_model(source: str | None, options: ServeOptions) -> ServedModel:
    """Load ``source`` once for each engine, and hold each against the bundle's golden vectors before it serves.

    Raises:
        GhostZooError: it cannot be used, or an engine gives other answers than the original.
    """
    instances = {}
    for engine in options.engines:
        classifier = load(
            source,
            engine=engine,
            threads=options.engine_threads,
            device=options.device,
            precision=options.precision,
            limits=options.limits.image,
            **vars(options.fetching),
        )
        # Opens what an engine has for batches, large and small.
        check(classifier.bundle, classifier.engine, classifier.engine.run)
        check(classifier.bundle, classifier.engine, repeated(classifier.engine, options.max_batch))
        if options.threads is None:
            classifier.engines.open_for_lone()
        for opened in {classifier.engine, classifier.engines.for_lone}:
            check(classifier.bundle, opened, one_by_one(opened))
        instances[classifier.engine.name] = ModelInstance(classifier)
    return ServedModel(next(iter(instances.values())).classifier.bundle, instances)


def one_by_one(engine: Engine) -> Run:
    """Return ``engine.run`` for a batch, as it answers each image alone."""
    return lambda batch: np.concatenate([engine.run(image[np.newaxis]) for image in batch])


def repeated(engine: Engine, times: int) -> Run:
    """Return ``engine.run`` for a batch, as it answers it ``times`` over in one larger batch."""
    return lambda batch: engine.run(np.concatenate([batch] * times))[: len(batch)]


def check(bundle: Bundle, engine: Engine, run: Run) -> None:
    """Hold an engine against the bundle's golden vectors.

    Raises:
        EngineError: it gives other answers than the original.
    """
    try:
        bundle.golden().require(run, engine.options.precision, engine.name)
    except EngineError as error:
        raise EngineError(f"{bundle.name}: {error} Serve it on another engine.") from error
