"""``ghostzoo.load``: what the caller asks for -> a classifier."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from os import PathLike
from typing import Any

from .catalog import DEFAULT_MODEL, get_model
from .classifier import Classifier
from .engines.base import EngineOptions
from .engines.selection import AUTO
from .errors import OptionError
from .fetch.options import FetchOptions, Progress
from .images.decode import ImageLimits
from .images.options import parse_colour
from .model import LoadRequest

_log = logging.getLogger("ghostzoo")


def load(
    model: str | PathLike[str] | None = None,
    *,
    engine: str = AUTO,
    threads: int | None = None,
    device: str | None = None,
    precision: str = "fp32",
    batch_size: int | None = None,
    engine_options: Mapping[str, Any] | None = None,
    limits: ImageLimits | None = None,
    background: str | Sequence[int] | None = None,
    lenient: bool = False,
    draft: bool = False,
    labels: str | PathLike[str] | Sequence[str] | None = None,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    offline: bool | None = None,
    endpoint: str | None = None,
    token: str | bool | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Load a model.

    Args:
        model: a bundle folder; the name of a model; or a repository of the Hub, ``owner/name[@revision]``, with
            ``hf://`` before it or not. A name is looked for in the package, in the folders of ``GHOSTZOO_MODELS``, in
            the cache, on the Hub, and among the official weights, of which the bundle is then built;
            ``Classifier.bundle.origin`` tells where it was found. Without one it is the small model that comes with the
            package, and a warning is logged, once in a process (to stderr, unless logging is set up otherwise).
        engine: the inference library; ``auto`` takes the one that ``GHOSTZOO_ENGINE`` names, or else measures on this
            machine which is the fastest. ``Classifier.selection`` tells which it is and why.
        threads: CPU threads within one call; by default the CPUs that this process may use.
        device: by the engine's own name for it, such as ``cpu`` or ``cuda:0``; ``None`` takes the engine's default.
        precision: ``fp32``; ``fp16`` or ``int8`` where the bundle has them; ``bf16``, the float32 graph computed in
            bfloat16, where the CPU can and an engine that computes in it is installed.
        batch_size: specialise the model for this number of images a call; any number is still accepted.
        engine_options: passed on to the engine in its own terms.
        limits: what images may cost at most.
        background: colour to show behind transparent pixels: ``white``, ``black``, ``grey``, ``#rrggbb``, or three
            numbers from 0 to 255. By default transparency is dropped, as the original drops it: transparent pixels show
            the colour that the file has for them, often black, and half-transparent ones their full colour.
        lenient: classify a truncated or damaged JPEG by what can be decoded of it, the rest being grey or blurred; its
            predictions are marked ``damaged``. By default it is an ``ImageError``.
        draft: decode large JPEGs at a half, a quarter or an eighth of their size, but no smaller than twice what the
            network resizes to. Faster and inexact: scores differ a little from those of the original.
        labels: what to call the classes: ``en`` for short English names, of which no two are the same, ``zh`` for
            Chinese ones (models of ImageNet and CIFAR-10); or a list of names, or a file with them, in the order of the
            classes. By default they have the names that the original gives them.
        revision: branch, tag or commit of the Hub repository.
        cache_dir: folder that keeps fetched models; by default ``models`` in ghostzoo's cache folder.
        offline: make no request; by default as ``HF_HUB_OFFLINE`` says.
        endpoint: address of the Hub; by default ``HF_ENDPOINT`` or https://huggingface.co.
        token: the Hub's token; by default that of ``HF_TOKEN`` or ``hf auth login``, ``False`` for none.
        progress: told of downloads as they go: a title, the bytes so far, and the bytes in all where they are known.

    Raises:
        GhostZooError: the model, the engine or an option cannot be used; the message says why and what to do.
    """
    if limits is not None and not isinstance(limits, ImageLimits):
        raise OptionError(f"limits must be a ghostzoo.ImageLimits, not {limits!r}.")
    options = EngineOptions(threads, device, precision, batch_size, {} if engine_options is None else engine_options)
    fetching = FetchOptions(revision, cache_dir, offline, endpoint, token, progress)
    colour = None if background is None else parse_colour(background)
    request = LoadRequest(model, engine, options, fetching, limits or ImageLimits(), colour, lenient, draft, labels)
    classifier = Classifier.open(request)
    if model is None:
        announce_bundled()
    return classifier


@cache
def announce_bundled() -> None:
    """Say which model it is when none was named: a warning in the log, once in a process."""
    record = get_model(DEFAULT_MODEL)
    _log.warning("Using the bundled %s (%d classes); see 'ghostzoo list'.", record.name, record.num_classes)
