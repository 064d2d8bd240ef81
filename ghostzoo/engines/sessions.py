"""The engines that one classifier holds in this process: for single calls, for many side by side, and for lone ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .._utils.hardware import usable_cpus
from .._utils.locks import opening
from ..bundle.folder import Bundle
from ..errors import OptionError
from .base import Engine, EngineOptions

if TYPE_CHECKING:
    from ..network.head import Head

_TRIAL_SECONDS = 0.3
"""For which a model is timed on one CPU and on all."""
_WORTH_IT = 0.9
"""A call that is alone takes all CPUs if it takes at most this part of the time that it takes on one."""


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
        from .._utils.timing import median_ms, time_in_turn

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
