"""The engines that one classifier holds in this process: one for single calls, and one for many calls side by side."""

from __future__ import annotations

from dataclasses import replace

from ..bundle.folder import Bundle
from ..errors import OptionError
from .base import Engine, opening


class OpenedEngines:
    """Opens a bundle's engine again where the one that there is cannot serve: in a forked process, for side by side."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle = bundle
        self._kind = type(engine)
        self._options = replace(engine.options, device=engine.device)
        self._for_calls = engine
        self._for_many: Engine | None = None
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
    def concurrent_calls(self) -> int:
        """How many concurrent calls make the most of the CPUs that the engine may use."""
        return self._options.thread_count

    def close(self) -> None:
        self._closed = True
        for engine in (self._for_calls, self._for_many):
            if engine is not None:
                engine.close()

    @property
    def _shares_cpu(self) -> bool:
        return self._for_calls.device.lower() == "cpu" and self._options.thread_count > 1

    def _open(self, threads: int | None) -> Engine:
        engine = self._kind.load(self._bundle, replace(self._options, threads=threads))
        self._bundle.release()
        return engine
