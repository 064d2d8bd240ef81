"""GhostNet image classifiers as proven ONNX models, with a small runtime that matches the original bit for bit.

>>> import ghostzoo
>>> clf = ghostzoo.load("path/to/bundle")
>>> clf("cat.jpg")  # doctest: +SKIP
[Prediction(index=281, label='tabby, tabby cat', score=0.71, wnid='n02123045', damaged=False), ...]

Importing the package imports nothing heavy: each name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .bulk.run import BatchReport, batch
    from .bundle.folder import Bundle
    from .catalog import CatalogModel, get_model, list_models
    from .classifier import Classifier
    from .converter import convert
    from .errors import (
        BundleError,
        BundleVersionError,
        EngineError,
        EngineUnavailableError,
        FetchError,
        GhostZooError,
        ImageError,
        IndexFileError,
        InputError,
        LabelsError,
        OptionError,
        ParityError,
        UnknownEngineError,
        UnknownModelError,
        WeightsError,
    )
    from .explanation import Explanation
    from .fitting.fit import Fit, fit
    from .images.decode import ImageLimits
    from .images.preprocessing import Preprocessing
    from .loading import load
    from .predictions import Prediction
    from .similarity.folders import Duplicates, IndexReport, build_index, find_duplicates
    from .similarity.index import Index, Match

__all__ = [
    "BatchReport",
    "Bundle",
    "BundleError",
    "BundleVersionError",
    "CatalogModel",
    "Classifier",
    "Duplicates",
    "EngineError",
    "EngineUnavailableError",
    "Explanation",
    "FetchError",
    "Fit",
    "GhostZooError",
    "ImageError",
    "ImageLimits",
    "Index",
    "IndexFileError",
    "IndexReport",
    "InputError",
    "LabelsError",
    "Match",
    "OptionError",
    "ParityError",
    "Prediction",
    "Preprocessing",
    "UnknownEngineError",
    "UnknownModelError",
    "WeightsError",
    "__version__",
    "batch",
    "build_index",
    "convert",
    "find_duplicates",
    "fit",
    "get_model",
    "list_models",
    "load",
]

_MODULES = {
    "BatchReport": "bulk.run",
    "batch": "bulk.run",
    "Bundle": "bundle.folder",
    "CatalogModel": "catalog",
    "Preprocessing": "images.preprocessing",
    "get_model": "catalog",
    "list_models": "catalog",
    "Classifier": "classifier",
    "load": "loading",
    "convert": "converter",
    "Explanation": "explanation",
    "Fit": "fitting.fit",
    "fit": "fitting.fit",
    "ImageLimits": "images.decode",
    "Prediction": "predictions",
    "Duplicates": "similarity.folders",
    "IndexReport": "similarity.folders",
    "build_index": "similarity.folders",
    "find_duplicates": "similarity.folders",
    "Index": "similarity.index",
    "Match": "similarity.index",
}
"""Public name -> module that defines it, never one of the same name; the errors are all in ``errors``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
