"""A model folder on disk: read it, verify it, write it.

Every file but the manifest is listed in the manifest with its size and SHA-256. Opening a bundle reads each of them
once and checks it; what is handed out are the very bytes that were checked. Nothing in a bundle is executed or
unpickled, and no engine sees a graph that is not a GhostNet's in operators, shapes and cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from .._utils.cache import cache_key, find_cached, write_cached
from .._utils.folders import recover, replaced, restore
from .._version import __version__
from ..errors import BundleError, EngineUnavailableError, OptionError
from ..images.preprocessing import Preprocessing
from ..labels import ClassLabel
from .golden import Golden
from .hub_configs import CONFIG_FILE, PREPROCESSOR_FILE, ModelConfig, preprocessing_from_json
from .manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, FileRecord, Manifest

CARD_FILE = "README.md"
GOLDEN_FILE = "golden.npz"
MODEL_FILES = {
    "fp32": "onnx/model.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_quantized.onnx",
}
"""Precision -> graph. Every bundle has the first."""
CONVERTED_FILES = {
    "paddle": ("paddle/inference.json", "paddle/inference.pdiparams"),
    "ncnn": ("ncnn/model.param", "ncnn/model.bin"),
    "mnn": ("mnn/model.mnn",),
    "litert": ("litert/model.tflite",),
}
"""Engine that reads no ONNX -> the same network in its own format. A bundle has those that were asked for."""

_REQUIRED_FILES = (CARD_FILE, CONFIG_FILE, PREPROCESSOR_FILE, GOLDEN_FILE, MODEL_FILES["fp32"])


@dataclass(frozen=True)
class Bundle:
    """A verified model folder."""

    path: Path
    origin: str
    """Where it was found: ``folder``, ``embedded``, ``models folder``, ``cache``, ``hub`` or ``official weights``."""
    manifest: Manifest
    config: ModelConfig
    preprocessing: Preprocessing
    _contents: dict[str, bytes] = field(repr=False, compare=False)
    _admitted: set[str] = field(default_factory=set, repr=False, compare=False)
    """Graphs that were checked; what is read again has the same hash."""

    @classmethod
    def open(cls, path: str | PathLike[str], *, origin: str = "folder", manifest_sha256: str | None = None) -> Bundle:
        """Read the bundle in the folder ``path`` and check every file in it against the manifest.

        Args:
            path: the folder.
            origin: where it was found.
            manifest_sha256: what the manifest's own SHA-256 must be, where it is known.

        Raises:
            BundleVersionError: it was written in a newer format.
            BundleError: it is no bundle, a file is missing, changed or unreadable, or a path leads out of the folder.
        """
        path = Path(path)
        restore(path)
        try:
            listing = _read_file(path, MANIFEST_FILE, MAX_MANIFEST_BYTES)
            if manifest_sha256 is not None and hashlib.sha256(listing).hexdigest() != manifest_sha256:
                raise BundleError(f"{MANIFEST_FILE} is not the published one: its SHA-256 is not {manifest_sha256}.")
            manifest = Manifest.from_json(listing)
            absent = [name for name in _REQUIRED_FILES if name not in manifest.files]
            if absent:
                raise BundleError(f"{MANIFEST_FILE} does not list {', '.join(absent)}; do not use this bundle.")
            contents = {name: _read_verified(path, name, record) for name, record in manifest.files.items()}
            config = ModelConfig.from_json(contents[CONFIG_FILE])
            preprocessing = preprocessing_from_json(contents[PREPROCESSOR_FILE])
            if preprocessing.crop_size != config.image_size:
                raise BundleError(
                    f"{PREPROCESSOR_FILE} crops to {preprocessing.crop_size} pixels but {CONFIG_FILE} says "
                    f"{config.image_size}; do not use this bundle."
                )
        except BundleError as error:
            raise type(error)(f"Bundle {path}: {error}") from error
        return cls(path, origin, manifest, config, preprocessing, contents)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def labels(self) -> tuple[ClassLabel, ...]:
        return self.config.labels

    @property
    def num_classes(self) -> int:
        return len(self.config.labels)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that this bundle has a graph for."""
        return tuple(precision for precision, name in MODEL_FILES.items() if name in self.manifest.files)

    def read(self, name: str) -> bytes:
        """Return the verified content of one file, by its path in the manifest."""
        content = self._contents.get(name)
        if content is not None:
            return content
        try:
            return _read_verified(self.path, name, self.manifest.files[name])
        except BundleError as error:
            raise type(error)(f"Bundle {self.path}: {error}") from error

    def model(self, precision: str = "fp32") -> bytes:
        """Return the verified ONNX graph of ``precision``, checked as data (see ``network.graph_check``).

        Raises:
            OptionError: the bundle has no such graph.
            BundleError: the graph has what a GhostNet does not need, or does not fit the bundle.
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

    def model_hash(self, precision: str = "fp32") -> str:
        """Return the SHA-256 of the graph of ``precision``, in hexadecimal; raises as ``model`` does."""
        return self.manifest.files[self._model_file(precision)].sha256

    def converted(self, engine: str) -> dict[str, bytes]:
        """Return the verified files of an engine that reads no ONNX, by their paths in the manifest.

        Raises:
            EngineUnavailableError: the bundle lacks them.
        """
        return {name: self.read(name) for name in self.converted_files(engine)}

    def converted_files(self, engine: str) -> tuple[str, ...]:
        """Return the paths of an engine's own files; none for one that reads ONNX. Raises as ``converted`` does."""
        names = CONVERTED_FILES.get(engine, ())
        if not all(name in self.manifest.files for name in names):
            # A folder that is not the user's own, such as the Hub's cache, is copied and not added to.
            place = (
                f"{self.path} --to {engine}" if self.origin == "folder" else f"{self.name} --to {engine} --out FOLDER"
            )
            raise EngineUnavailableError(
                f"{self.name} has no files for {engine}; 'python -m exporters export-edge {place}' in a checkout of "
                "ghostzoo adds them."
            )
        return names

    def golden(self) -> Golden:
        """Return the inputs and reference outputs for checking an engine."""
        data = self.read(GOLDEN_FILE)
        try:
            return Golden.from_bytes(data, num_classes=self.num_classes, image_size=self.config.image_size)
        except BundleError as error:
            raise BundleError(f"Bundle {self.path}: {error}") from error

    def _model_file(self, precision: str) -> str:
        if precision not in self.precisions:
            raise OptionError(
                f"{self.name} has no graph in precision {precision!r}; it has {', '.join(self.precisions)}. "
                "From a checkout, 'python -m exporters quantize BUNDLE --to fp16' (or int8) adds one."
            )
        return MODEL_FILES[precision]

    def to_dict(self) -> dict[str, Any]:
        """Return what the bundle says of itself, as JSON types."""
        return {
            "name": self.name,
            "path": str(self.path),
            "origin": self.origin,
            "width": self.config.width,
            "classes": self.num_classes,
            "precisions": list(self.precisions),
            "preprocessing": asdict(self.preprocessing),
            "weights": dict(self.manifest.weights),
            "created_by": dict(self.manifest.created_by),
            "validation": dict(self.manifest.validation),
        }

    def release(self) -> None:
        """Let go of the files' contents; a later ``read`` reads and verifies again."""
        self._contents.clear()


def write_bundle(
    out: str | PathLike[str],
    *,
    name: str,
    contents: Mapping[str, bytes],
    weights: Mapping[str, Any],
    created_by: Mapping[str, str],
    validation: Mapping[str, Any],
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle to a temporary folder beside ``out``, verify it there, and rename it into place.

    Args:
        out: the folder to make. It must not exist, or be empty, unless ``overwrite``.
        name: the model's name.
        contents: file content by path relative to the folder; all of a bundle but the manifest.
        weights, created_by, validation: as in the manifest.
        overwrite: replace an existing bundle (and nothing else).

    Raises:
        BundleError: ``out`` exists, or cannot be written.
    """
    out = Path(out)
    check_target(out, overwrite)
    files = {file: FileRecord(hashlib.sha256(data).hexdigest(), len(data)) for file, data in contents.items()}
    manifest = Manifest(name, weights, files, created_by, validation).to_json()
    Manifest.from_json(manifest)  # refuses a path that leads out before anything is written to it
    try:
        with replaced(out) as folder:
            for file, data in {**contents, MANIFEST_FILE: manifest}.items():
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            Bundle.open(folder)
            _check_free(out, overwrite)
    except OSError as error:
        raise BundleError(f"Cannot write {out}: {error.strerror or error}; nothing was changed.") from error
    return Bundle.open(out)


def check_target(out: Path, overwrite: bool) -> None:
    """Check that a bundle may be written to ``out``, after what killed writers left beside it is cleared away.

    Raises:
        BundleError: something is there already that may not be replaced, or this is the working folder or one above.
    """
    if out.name in ("", ".."):
        raise BundleError(f"{str(out)!r} is no name for a new folder; name the folder that is to be made.")
    recover(out.parent)
    _check_free(out, overwrite)


def _check_free(out: Path, overwrite: bool) -> None:
    try:
        if not (out.exists() or out.is_symlink()) or (out.is_dir() and not any(out.iterdir())):
            return
        is_bundle = out.is_dir() and (out / MANIFEST_FILE).is_file()
    except OSError as error:
        raise BundleError(f"Cannot write {out}: {error.strerror or error}; choose another folder.") from error
    if not is_bundle:
        raise BundleError(f"{out} exists and is no bundle; choose another folder.")
    if not overwrite:
        raise BundleError(f"{out} exists; choose another folder, or ask to overwrite it.")


def _read_verified(root: Path, name: str, record: FileRecord) -> bytes:
    data = _read_file(root, name, record.size)
    if len(data) != record.size:
        raise BundleError(
            f"{name} has {len(data)} bytes, the manifest says {record.size}; download or convert the model again."
        )
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise BundleError(
            f"{name} was changed: its SHA-256 is not the manifest's; download or convert the model again."
        )
    return data


def _read_file(root: Path, name: str, max_bytes: int) -> bytes:
    file = root / name
    try:
        if not root.is_dir():
            raise BundleError("there is no such folder; check the path.")
        resolved = file.resolve(strict=True)
        if not resolved.is_relative_to(root.resolve(strict=True)):
            raise BundleError(f"{name} is a link out of the folder; do not use this bundle.")
        if not resolved.is_file():
            raise BundleError(f"{name} is no regular file; download or convert the model again.")
        with resolved.open("rb") as stream:
            # read() allocates what it is asked for, so never what the manifest says alone.
            data = stream.read(min(max_bytes, resolved.stat().st_size) + 1)
    except FileNotFoundError:
        if name == MANIFEST_FILE:
            raise BundleError(f"it holds no {MANIFEST_FILE}, so it is no ghostzoo model; check the path.") from None
        raise BundleError(f"{name} is missing; download or convert the model again.") from None
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise BundleError(f"{name} cannot be read: {reason}; check its permissions.") from error
    if len(data) > max_bytes:
        raise BundleError(f"{name} has more than {max_bytes} bytes; download or convert the model again.")
    return data
