"""Teachers of any kind: an ONNX classifier or feature extractor, described by a small JSON file.

Its outputs for all training images are computed once and kept in the run's folder. A teacher that does not know the
data's classes teaches them through a linear classifier, which is fitted on its features of the labelled images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.training.data import ImageCache
from exporters.training.probe import fit_probabilities
from ghostzoo.errors import InputError, OptionError
from ghostzoo.evaluation.datasets import UNLABELLED, ImageDataset
from ghostzoo.network.architecture import EMBEDDING_SIZE

INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
MAX_SIDE = 2048
_BATCH = 32

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Description:
    """What the file says of a teacher; ``pixel_values = (uint8 / 255 - mean) / std``."""

    model: str
    """The ONNX file, relative to the description; its one input is float32 (N, 3, image_size, image_size)."""
    image_size: int
    resize_short: int
    """Shorter side before the centre crop."""
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    feature: str | None = None
    """The output (N, D) that a classifier is fitted on, and that the student's embedding is to resemble."""
    logits: str | None = None
    """The output (N, classes) for the data's own classes, in their order."""


def read_description(path: Path) -> Description:
    """Read a teacher's description.

    Raises:
        InputError: it is not a JSON file with these entries.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no description of a teacher ({error}); it must be a JSON file.") from error
    try:
        entries = {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}
        description = Description(**entries)
    except (AttributeError, TypeError) as error:
        reason = str(error).replace("Description.__init__() ", "")
        names = ", ".join(Description.__dataclass_fields__)
        raise InputError(f"{path} is no description of a teacher ({reason}); its entries are {names}.") from error
    problem = _problem(description)
    if problem:
        raise InputError(f"{path}: {problem}.")
    return description


def _problem(description: Description) -> str | None:
    sizes = (description.image_size, description.resize_short)
    if not all(isinstance(size, int) for size in sizes) or not 8 <= sizes[0] <= sizes[1] <= MAX_SIDE:
        return f"image_size and resize_short must be whole numbers, 8 <= image_size <= resize_short <= {MAX_SIDE}"
    if description.interpolation not in INTERPOLATIONS:
        return f"interpolation must be one of {', '.join(INTERPOLATIONS)}"
    for name in ("mean", "std"):
        values = getattr(description, name)
        if not (isinstance(values, tuple) and len(values) == 3 and all(isinstance(v, int | float) for v in values)):
            return f"{name} must be a list of three numbers"
    if min(description.std) <= 0:
        return "std must be above zero"
    if not description.feature and not description.logits:
        return 'name an output of the model as "feature", "logits" or both'
    return None


def pixel_values(image: Image, description: Description) -> NDArray[np.float32]:
    """Preprocess an RGB image (H, W, 3) for the teacher: float32 (3, image_size, image_size)."""
    height, width = image.shape[:2]
    scale, crop = description.resize_short / min(height, width), description.image_size
    size = (max(crop, round(width * scale)), max(crop, round(height * scale)))
    resized = cv2.resize(image, size, interpolation=INTERPOLATIONS[description.interpolation])
    top, left = (size[1] - crop) // 2, (size[0] - crop) // 2
    window = resized[top : top + crop, left : left + crop].astype(np.float32) / 255
    values = (window - np.array(description.mean, np.float32)) / np.array(description.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


@dataclass(frozen=True)
class DescribedTeacher:
    """A teacher that was asked before: what it says of all whole training images, in their order."""

    name: str
    sha256: str
    """Of its description and model."""
    probabilities: Tensor
    """(images, classes), float32."""
    features: Tensor | None
    """(images, 1280), float16; ``None`` where only the probabilities are learnt."""

    def rows(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Return probabilities (N, classes) and features (N, 1280) of these images, float32."""
        chosen = torch.from_numpy(indices)
        features = None if self.features is None else self.features[chosen].float().to(device)
        return self.probabilities[chosen].to(device), features

    def accuracy(self, dataset: ImageDataset) -> float:
        """Return its accuracy on the labelled images that it was asked about."""
        labels = torch.tensor([sample.label for sample in dataset.samples])
        right = self.probabilities.argmax(dim=1) == labels
        return float(right[labels != UNLABELLED].float().mean())


def ask_teacher(
    path: Path,
    dataset: ImageDataset,
    images: ImageCache,
    cache: Path,
    *,
    threads: int,
    needs_feature: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> DescribedTeacher:
    """Run a teacher on all training images, or take up what the cache already holds of it.

    Args:
        path: the teacher's description.
        dataset: the training images, labelled and unlabelled.
        images: reads them.
        cache: folder for the outputs; a run that was interrupted goes on where it stopped.
        threads: of the teacher.
        needs_feature: whether the student's embedding is to be compared with the teacher's feature.
        advance: called after each image.

    Raises:
        GhostZooError: the teacher cannot be used, or does not fit the data.
    """
    description = read_description(path)
    model = _read_model(path, description)
    run = _Runner(model, description, threads)
    widths = [each.shape[1] for each in run([images.read(dataset.samples[0])])]
    size = dict(zip(run.outputs, widths, strict=True))
    if needs_feature and size.get(description.feature or "") != EMBEDDING_SIZE:
        raise OptionError(
            f"feature-weight needs a teacher with a feature of {EMBEDDING_SIZE} numbers, as many as the embedding; "
            f"that of {path} has {size.get(description.feature or '', 'no name')}. Leave --feature-weight out."
        )
    if description.logits and size[description.logits] != len(dataset.classes):
        raise OptionError(
            f"The teacher's output {description.logits!r} has {size[description.logits]} classes, the data have "
            f'{len(dataset.classes)}; name its "feature" alone in {path}, and a classifier is fitted on that.'
        )
    sha256 = _hash(description, model)
    folder = cache / hashlib.sha256(f"{sha256} {dataset.fingerprint()}".encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_open_rows(folder / f"{place}.npy", len(dataset.samples), width) for place, width in enumerate(widths)]
    _fill(rows, run, dataset, images, advance)
    arrays = dict(zip(run.outputs, rows, strict=True))
    feature = arrays.get(description.feature or "")
    if feature is None or description.logits:
        logits = torch.from_numpy(arrays[str(description.logits)].astype(np.float32))
        probabilities = torch.softmax(logits, dim=1)
    else:
        labels = np.array([sample.label for sample in dataset.samples], np.int64)
        probabilities = fit_probabilities(feature, labels, len(dataset.classes))
    features = torch.from_numpy(feature) if needs_feature and feature is not None else None
    return DescribedTeacher(path.name, sha256, probabilities, features)


def _hash(description: Description, model: bytes) -> str:
    digest = hashlib.sha256(json.dumps(asdict(description), sort_keys=True).encode())
    digest.update(model)
    return digest.hexdigest()


def _read_model(path: Path, description: Description) -> bytes:
    model = path.parent / description.model
    try:
        return model.read_bytes()
    except OSError as error:
        raise InputError(f"The teacher's model {model} cannot be read ({error.strerror or error}).") from error


class _Runner:
    """A teacher in ONNX Runtime: RGB images -> each of its named outputs (N, D), float32."""

    def __init__(self, model: bytes, description: Description, threads: int) -> None:
        import onnxruntime

        self.outputs = [name for name in (description.feature, description.logits) if name]
        self._description = description
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads = threads
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has many kinds
            raise InputError(f"ONNX Runtime does not run the teacher {description.model}: {error}") from error
        present = [each.name for each in self._session.get_outputs()]
        inputs = [each.name for each in self._session.get_inputs()]
        if len(inputs) != 1 or not set(self.outputs) <= set(present):
            raise InputError(
                f"The teacher {description.model} must have one input and the outputs {', '.join(self.outputs)}; "
                f"it has {len(inputs)} and {', '.join(present)}."
            )
        self._input = inputs[0]

    def __call__(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        with ThreadPoolExecutor(self._threads) as pool:
            values = np.stack(list(pool.map(lambda image: pixel_values(image, self._description), images)))
        try:
            found = self._session.run(self.outputs, {self._input: values})
        except Exception as error:
            raise InputError(f"The teacher {self._description.model} does not run on its images: {error}") from error
        return [np.asarray(each).reshape(len(images), -1) for each in found]


def _fill(
    arrays: Sequence[NDArray[np.float16]],
    run: _Runner,
    dataset: ImageDataset,
    images: ImageCache,
    advance: Callable[[], None],
) -> None:
    """Compute the rows that are not numbers yet."""
    for start in range(0, len(dataset.samples), _BATCH):
        batch = dataset.samples[start : start + _BATCH]
        if any(np.isnan(array[start : start + _BATCH]).any() for array in arrays):
            for array, rows in zip(arrays, run([images.read(sample) for sample in batch]), strict=True):
                if not np.abs(rows).max() < np.finfo(np.float16).max:
                    raise InputError(f"The teacher's outputs from {batch[0].name} on are no numbers that float16 has.")
                array[start : start + _BATCH] = rows
        for _ in batch:
            advance()


def _open_rows(path: Path, count: int, width: int) -> NDArray[np.float16]:
    if not path.exists():
        rows = np.lib.format.open_memmap(path, "w+", np.float16, (count, width))
        rows[:] = np.nan
        return rows
    rows = np.lib.format.open_memmap(path, "r+")
    if rows.shape != (count, width) or rows.dtype != np.float16:
        raise InputError(f"{path} is not what this teacher's outputs were kept in; remove the folder {path.parent}.")
    return rows
