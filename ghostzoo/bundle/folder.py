"""Bundles on disk, read and verified.

The manifest lists every other file with its size and SHA-256. Opening a bundle reads and checks each file once and
returns exactly the bytes that were checked. Nothing in a bundle is executed or unpickled, and no engine sees a graph
whose operators, shapes and cost are not those of a GhostNet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.cache import cache_key, find_cached, write_cached
from .._utils.files import restore
from .._utils.urls import as_path
from .._version import __version__
from ..errors import BundleError, OptionError, nearest
from ..images.preprocessing import Preprocessing
from ..labels import ClassLabel
from ..predictions import Postprocessing
from .hub_configs import CONFIG_FILE, PREPROCESSOR_FILE, ModelConfig, preprocessing_from_json
from .manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest, read_file, read_verified

if TYPE_CHECKING:
    from ..network.head import Head
    from .golden import Golden

CARD_FILE = "README.md"
GOLDEN_FILE = "golden.npz"
MODEL_FILES = {
    "fp32": "onnx/model.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_quantized.onnx",
}
"""Graph file by precision. Every bundle has the first."""
COMPUTED = {"bf16": "fp32"}
"""Precisions without a graph of their own, which some engines compute another graph in."""
_PRECISIONS = {
    **dict.fromkeys(("float32", "float", "f32", "single", "full"), "fp32"),
    **dict.fromkeys(("float16", "half", "f16"), "fp16"),
    **dict.fromkeys(("bfloat16",), "bf16"),
    **dict.fromkeys(("uint8", "i8", "quantized"), "int8"),
}
"""What other libraries call them."""
CONVERTED_FILES = {
    "paddle": ("paddle/inference.json", "paddle/inference.pdiparams"),
    "ncnn": ("ncnn/model.param", "ncnn/model.bin"),
    "mnn": ("mnn/model.mnn",),
    "litert": ("litert/model.tflite",),
}
"""Files in their own format by engine, for engines that do not read ONNX, in float32. All are optional."""

_REQUIRED_FILES = (CARD_FILE, CONFIG_FILE, PREPROCESSOR_FILE, GOLDEN_FILE, MODEL_FILES["fp32"])


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    path: Path
    origin: str
    """Where it was found: ``folder``, ``embedded``, ``models folder``, ``cache``, ``hub`` or ``official weights``."""
    manifest: Manifest
    config: ModelConfig
    preprocessing: Preprocessing
    _contents: dict[str, bytes] = field(repr=False, compare=False)
    _admitted: set[str] = field(default_factory=set, repr=False, compare=False)
    """Precisions whose graph has been checked; a graph that is read again has the same hash."""
    language: str | None = None
    """Of ``names.LANGUAGES``, if the labels are names in it."""
    original_labels: tuple[ClassLabel, ...] | None = None
    """Those of the files, if ``labels`` are others."""

    @classmethod
    def open(cls, path: str | PathLike[str], *, origin: str = "folder", manifest_sha256: str | None = None) -> Bundle:
        """Read the bundle in the folder ``path`` and check every file in it against the manifest.

        Args:
            path: the folder.
            origin: where it was found.
            manifest_sha256: the expected SHA-256 of the manifest itself, if known.

        Raises:
            BundleVersionError: it was written in a newer format.
            BundleError: it is not a bundle, a file is missing, changed or unreadable, or a path leaves the folder.
        """
        path = as_path(path, "A bundle")
        restore(path)
        try:
            listing = read_file(path, MANIFEST_FILE, MAX_MANIFEST_BYTES)
            if manifest_sha256 is not None and hashlib.sha256(listing).hexdigest() != manifest_sha256:
                raise BundleError(f"{MANIFEST_FILE} is not the published one: its SHA-256 is not {manifest_sha256}.")
            manifest = Manifest.from_json(listing)
            absent = [name for name in _REQUIRED_FILES if name not in manifest.files]
            if absent:
                raise BundleError(f"{MANIFEST_FILE} does not list {', '.join(absent)}; do not use this bundle.")
            contents = {name: read_verified(path, name, record) for name, record in manifest.files.items()}
            config = ModelConfig.from_json(contents[CONFIG_FILE])
            preprocessing = preprocessing_from_json(contents[PREPROCESSOR_FILE])
            if config.multi_label != manifest.multi_label:
                raise BundleError(
                    f"only one of {MANIFEST_FILE} and {CONFIG_FILE} says that it is a multi-label model; do not use "
                    "this bundle."
                )
            if preprocessing.crop_size != config.image_size:
                raise BundleError(
                    f"{PREPROCESSOR_FILE} crops to {preprocessing.crop_size} pixels but {CONFIG_FILE} says "
                    f"{config.image_size}; do not use this bundle."
                )
        except BundleError as error:
            raise type(error)(f"Bundle {path}: {error}") from error
        return cls(path, origin, manifest, config, preprocessing, contents)

    def __repr__(self) -> str:
        facts = f"{self.num_classes:,} classes, width {self.config.width:g}, {' '.join(self.precisions)}"
        return f"<Bundle {self.name}: {facts}, {self.origin} {str(self.path)!r}>"

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def labels(self) -> tuple[ClassLabel, ...]:
        """The classes, in the order of the logits."""
        return self.config.labels

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.config.labels)

    @property
    def temperature(self) -> float | None:
        """What the logits of a calibrated model are divided by before the softmax."""
        return None if self.manifest.calibration is None else self.manifest.calibration.temperature

    @cached_property
    def postprocessing(self) -> Postprocessing:
        """What makes predictions of logits."""
        config, original = self.config, self.original_labels
        return Postprocessing(config.labels, config.multi_label, self.manifest.calibration, self.language, original)

    def with_labels(self, labels: str | PathLike[str] | Sequence[str] | None) -> Bundle:
        """Return the bundle with other names of its classes, as ``names.choose`` does; ``None`` leaves its own."""
        if labels is None:
            return self
        from ..names import choose

        found, language = choose(labels, self.labels)
        config = replace(self.config, labels=found)
        return replace(self, config=config, language=language, original_labels=self.labels)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions for which this bundle has a graph."""
        return tuple(precision for precision, name in MODEL_FILES.items() if name in self.manifest.files)

    def read(self, name: str) -> bytes:
        """Return the verified content of one file, by its path in the manifest."""
        content = self._contents.get(name)
        if content is not None:
            return content
        try:
            return read_verified(self.path, name, self.manifest.files[name])
        except BundleError as error:
            raise type(error)(f"Bundle {self.path}: {error}") from error

    def model(self, precision: str = "fp32") -> bytes:
        """Return the verified ONNX graph of ``precision``, checked as data (see ``network.graph_check``).

        Raises:
            OptionError: the bundle has no such graph.
            BundleError: the graph contains something a GhostNet does not need, or does not fit the bundle.
        """
        name = self._model_file(precision)
        data = self.read(name)
        if name not in self._admitted:
            self._check_graph(data, name)
            self._admitted.add(name)
        return data

    def _check_graph(self, data: bytes, name: str) -> None:
        """Check a graph once on this machine: that it passed is kept in the cache, by everything that it depends on."""
        facts = (self.manifest.files[name].sha256, self.num_classes, self.config.image_size, __version__)
        passed = f"checked/{cache_key(*facts)}"
        if find_cached(passed) is not None:
            return
        from ..network.graph_check import check_graph

        try:
            check_graph(data, name, num_classes=self.num_classes, image_size=self.config.image_size)
        except BundleError as error:
            raise BundleError(f"Bundle {self.path}: {error}") from error
        write_cached(passed, b"")

    def head(self) -> Head:
        """Return the last layers of the float32 graph.

        Raises:
            BundleError: it does not end as the family's networks do.
        """
        from ..network.head import read_head
        from ..network.wire import RefusedGraphError

        try:
            return read_head(self.model(), num_classes=self.num_classes, image_size=self.config.image_size)
        except RefusedGraphError as fault:
            raise BundleError(f"Bundle {self.path}: {MODEL_FILES['fp32']} {fault}; convert the model again.") from None

    def model_hash(self, precision: str = "fp32") -> str:
        """Return the SHA-256 of the graph of ``precision``, in hexadecimal; raises the errors of ``model``."""
        return self.manifest.files[self._model_file(precision)].sha256

    def source_precision(self, precision: str) -> str:
        """Return the precision of the graph that is run for ``precision``: fp32 where an engine makes it of that."""
        return precision if precision in self.precisions else "fp32"

    def converted(self, engine: str, precision: str = "fp32") -> dict[str, bytes]:
        """Return the verified files of an engine that does not read ONNX, by their paths in the manifest.

        Raises:
            OptionError: the bundle has files for the engine, but in other precisions.
            EngineUnavailableError: it has none for the engine.
        """
        return {name: self.read(name) for name in self.converted_files(engine, precision)}

    def converted_files(self, engine: str, precision: str = "fp32") -> tuple[str, ...]:
        """Return the paths of an engine's own files; none if it reads ONNX. Raises the errors of ``converted``."""
        if engine not in CONVERTED_FILES:
            return ()
        from .converted import find_files

        return find_files(self.name, self.manifest.files, engine, precision)

    def golden(self) -> Golden:
        """Return the inputs and reference outputs for checking an engine."""
        from .golden import Golden

        data = self.read(GOLDEN_FILE)
        try:
            return Golden.from_bytes(data, num_classes=self.num_classes, image_size=self.config.image_size)
        except BundleError as error:
            raise BundleError(f"Bundle {self.path}: {error}") from error

    def _model_file(self, precision: str) -> str:
        precision = COMPUTED.get(precision, precision)
        if precision not in self.precisions:
            raise self.missing_precision(precision)
        return MODEL_FILES[precision]

    def missing_precision(self, precision: str) -> OptionError:
        """Return the error for a precision that this bundle has no graph for."""
        check_precision(precision)
        return OptionError(
            f"{self.name} has no {precision} graph, only {' and '.join(self.precisions)}; take "
            f"{' or '.join(self.precisions)}, or ask the model's publisher for {precision}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the facts about the bundle as JSON types."""
        return {
            "name": self.name,
            "path": str(self.path),
            "origin": self.origin,
            "family": self.config.family.name,
            "width": self.config.width,
            "classes": self.num_classes,
            "multi_label": self.config.multi_label,
            "calibrated": self.manifest.calibration is not None,
            "precisions": list(self.precisions),
            "preprocessing": asdict(self.preprocessing),
            "weights": dict(self.manifest.weights),
            "created_by": dict(self.manifest.created_by),
            "validation": dict(self.manifest.validation),
        }

    def release(self) -> None:
        """Free the files' contents; a later ``read`` reads and verifies them again."""
        self._contents.clear()


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        OptionError: there is no such precision; the message names the nearest one.
    """
    known = (*MODEL_FILES, *COMPUTED)
    if precision not in known:
        raise OptionError(f"There is no precision {precision!r}. {nearest(precision, known, _PRECISIONS)}")
