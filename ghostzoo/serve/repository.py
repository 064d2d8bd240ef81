"""The models of one server: loaded once for each engine, unloaded and loaded again while others are served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.folder import Bundle
from ..classifier import Classifier, load
from ..errors import EngineError, GhostZooError, OptionError, nearest
from ..images.preprocess import preprocess
from ..images.reading import read_image
from ..parity import engine_tolerance
from .failures import RequestError, not_found, overloaded
from .options import ServeOptions
from .scheduler import Scheduler


class EngineLane:
    """A model on one engine, as the scheduler runs it."""

    def __init__(self, classifier: Classifier) -> None:
        self.model = classifier.bundle.name
        self.engine = classifier.engine.name
        self.classifier = classifier

    def decode(self, source: bytes) -> NDArray[np.float32]:
        return preprocess(read_image(source, self.classifier.limits), self.classifier.bundle.preprocessing)

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.classifier.engine.run(batch)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model."""

    bundle: Bundle
    lanes: Mapping[str, EngineLane]
    """By the engine's name; the first is the default."""

    @property
    def name(self) -> str:
        return self.bundle.name

    def lane(self, engine: str | None) -> EngineLane:
        """Return the model on ``engine``, or on its first one for ``None``.

        Raises:
            RequestError: it was not loaded with that engine.
        """
        if engine is None:
            return next(iter(self.lanes.values()))
        if engine not in self.lanes:
            raise not_found(f"{self.name} is not served on {engine[:80]!r}. {nearest(engine, self.lanes)}")
        return self.lanes[engine]

    def describe(self) -> dict[str, Any]:
        """Return what clients may know of it, as JSON types."""
        return {
            "name": self.name,
            "ready": True,
            "classes": self.bundle.num_classes,
            "image_size": self.bundle.config.image_size,
            "engines": list(self.lanes),
            "running": [lane.classifier.engine.describe() for lane in self.lanes.values()],
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
        """Load every model of the options.

        Raises:
            GhostZooError: one cannot be used, or two have the same name.
        """
        for source in self._options.models or (None,):
            model = await asyncio.to_thread(load_model, source, self._options)
            if model.name in self._models:
                raise OptionError(f"{source} and another model are both named {model.name}; rename one of them.")
            self._sources[model.name] = source
            self._models[model.name] = model

    @property
    def names(self) -> list[str]:
        return list(self._models)

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

    def index(self) -> list[dict[str, str]]:
        """Return name, version, state and reason of every model, as the protocol's repository index has them."""
        return [
            {
                "name": name,
                "version": "1",
                "state": "READY" if model is not None else "UNAVAILABLE",
                "reason": self._reasons.get(name, "") or ("" if model is not None else "unloaded"),
            }
            for name, model in self._models.items()
        ]

    async def load(self, name: str) -> None:
        """Load the model again, from where it came; requests are served by the old one until the new one is there.

        Raises:
            RequestError: there is no such model, or clients may not do this.
            GhostZooError: it cannot be used; what was loaded stays.
        """
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
            for lane in model.lanes.values() if model is not None else ():
                lane.classifier.close()

    def _check_control(self, name: str) -> None:
        if not self._options.model_control:
            raise RequestError(403, "This server was started with --no-model-control; its models stay as they are.")
        if name not in self._models:
            raise not_found(
                f"There is no model {name[:120]!r} here, and only models that the server was started with can be "
                f"loaded. {nearest(name[:120], self._models)}"
            )

    async def _retire(self, model: ServedModel | None) -> None:
        for lane in model.lanes.values() if model is not None else ():
            await asyncio.to_thread(self._scheduler.retire, lane)
            lane.classifier.close()


def load_model(source: str | None, options: ServeOptions) -> ServedModel:
    """Load ``source`` once for each engine, and hold each against the bundle's golden vectors before it serves.

    Raises:
        GhostZooError: it cannot be used, or an engine gives other answers than the original.
    """
    lanes = {}
    for engine in options.engines:
        classifier = load(
            source,
            engine=engine,
            threads=options.engine_threads,
            device=options.device,
            precision=options.precision,
            limits=options.limits.image,
        )
        tolerance = engine_tolerance(options.precision)
        agreement = classifier.bundle.golden().check(classifier.engine.run, tolerance)
        if not agreement.within(tolerance):
            raise EngineError(
                f"{classifier.engine.name} fails the golden check of {classifier.bundle.name}: {agreement}; at most "
                f"{tolerance:g} is accepted. Serve it on another engine."
            )
        lanes[classifier.engine.name] = EngineLane(classifier)
    return ServedModel(next(iter(lanes.values())).classifier.bundle, lanes)
