"""Every error that ghostzoo raises on purpose: one tree, so one ``except`` catches all of it.

Each message says what happened, to which file or model, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class GhostZooError(Exception):
    """Base of all errors that ghostzoo raises on purpose."""


class UnknownModelError(GhostZooError):
    """The name is neither in the catalog nor a bundle folder."""


class FetchError(GhostZooError):
    """A model could not be got from where it is; the message says what was tried, in which order."""


class UnknownEngineError(GhostZooError):
    """The name is no engine that ghostzoo knows."""


class EngineUnavailableError(GhostZooError):
    """The engine is known but cannot be used on this machine; the message says why."""


class OptionError(GhostZooError):
    """An option has a wrong value, or the engine cannot honour it."""


class EngineError(GhostZooError):
    """The engine refused the model or failed while running it."""


class WeightsError(GhostZooError):
    """A weight file cannot be read safely, or does not fit the architecture."""


class LabelsError(GhostZooError):
    """A label file cannot be read, or does not fit the number of classes."""


class BundleError(GhostZooError):
    """A bundle is damaged or unsafe: a missing file, a changed byte, a path outside the folder."""


class BundleVersionError(BundleError):
    """The bundle was written in a newer format than this version of ghostzoo reads."""


class ParityError(GhostZooError):
    """Two implementations that must agree do not; nothing was written."""


class InputError(GhostZooError):
    """What was passed as image(s) is of a kind that ghostzoo does not accept."""


class IndexFileError(GhostZooError):
    """An index of pictures is damaged, of another model or folder, or cannot be read or written."""


class ImageError(GhostZooError):
    """One image could not be read.

    Attributes:
        source: how the caller named the image (a path, a URL, or a description such as ``<bytes>``).
        reason: what was wrong with it, without the name.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return (type(self), (self.source, self.reason))


def innermost(error: BaseException) -> BaseException:
    """Return the first cause of ``error``, which says most."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


_CONFUSED = str.maketrans("oli", "011", "-_. ")
"""Letters that are typed for digits, and what stands between the parts of a name."""


def nearest(
    name: object, known: Iterable[str], synonyms: Mapping[str, str] | None = None, examples: Iterable[str] = ()
) -> str:
    """Return a sentence naming the known names closest to ``name``, or when none is close, ``examples`` or all of them.

    Args:
        name: what was given instead of a known name.
        known: the names.
        synonyms: further spellings in lower case, each with the known name that it means.
        examples: some of the names, where all of them are too many.
    """
    from difflib import get_close_matches

    text, names = str(name).lower(), list(known)
    key = text.translate(_CONFUSED)
    by_key = {candidate.lower().translate(_CONFUSED): candidate for candidate in names}
    meant = (synonyms or {}).get(text) or by_key.get(key)
    if meant is not None:
        return f"Did you mean {meant}?"
    close = [by_key[match] for match in get_close_matches(key, by_key, n=3, cutoff=0.6)]
    close = close or [candidate for candidate in names if len(text) > 2 and candidate.lower().startswith(text)]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    shown = list(examples)
    return f"Known are {', '.join(shown)} and others." if shown else f"Known: {', '.join(names)}."
