"""The catalog: one frozen record a model, and the only place where a model is described."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from .errors import OptionError, UnknownModelError, nearest
from .images.preprocessing import Preprocessing
from .network.architecture import Architecture

MODEL_PAGE = "https://github.com/PaddlePaddle/PaddleClas/blob/release/2.6/docs/zh_CN/models/ImageNet1k/GhostNet.md"
"""Where PaddleClas publishes the accuracy, speed and size of its GhostNets."""

DEFAULT_MODEL = "GhostNet_x0_5_cifar10"
"""The model that comes with the package, so that it works without network and weights."""


_WEIGHTS = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a model achieves and costs. Accuracies are fractions of 1."""

    top1: float
    top5: float
    parameters_millions: float
    multiply_adds_millions: float
    """At the model's image size."""
    storage_mb: int


@dataclass(frozen=True, kw_only=True)
class PublishedFigures(Figures):
    """What PaddleClas reports on ImageNet-1k's validation images (not measured by ghostzoo).

    It counts more than ``CatalogModel.parameters`` and ``multiply_adds`` do: batch-norm statistics, two operations for
    each batch-norm output, and the global poolings.
    """

    reference_top1: float
    """Top-1 of the paper's authors, as PaddleClas quotes it."""
    reference_top5: float
    snapdragon855_ms: tuple[float, float, float]
    """Milliseconds at batch 1 on a Snapdragon 855 with 1, 2 and 4 threads."""
    v100_ms: tuple[float, float, float]
    """Milliseconds on a V100 with TensorRT in FP32 at batch 1, 4 and 8."""
    source: str = MODEL_PAGE


@dataclass(frozen=True, kw_only=True)
class MeasuredFigures(Figures):
    """What ghostzoo measured itself, with ``ghostzoo eval``, on images that it was not trained on.

    Parameters and multiply-adds are those of ``CatalogModel``.
    """

    data: str
    """The images."""
    images: int
    """How many."""
    photographs: str = ""
    """What became of ordinary photographs, in words; to be shown wherever ``top1`` is, if the two differ much."""

    @classmethod
    def of_report(cls, name: str, **facts: Any) -> Self:
        """Take the accuracy from the report that ``ghostzoo eval`` wrote, which is in ``data``."""
        report = json.loads((Path(__file__).parent / "data" / f"{name}.json").read_bytes())
        accuracies = {key: report[key]["value"] for key in ("top1", "top5")}
        return cls(**accuracies, images=report["images"], **facts)


@dataclass(frozen=True)
class CatalogModel:
    """One model that ghostzoo knows by name: with ``published`` figures if it is PaddleClas's, else ``measured``."""

    name: str
    width: float
    published: PublishedFigures | None = None
    measured: MeasuredFigures | None = None
    num_classes: int = 1000
    labels: str = "imagenet1k"
    """Name of the class list."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    license: str = "apache-2.0"
    description: str = "trained by PaddleClas on ImageNet-1k"
    limits: str = ""
    """What a user has to know before relying on it."""
    embedded: bool = False
    """Whether its bundle comes with the package, in ``ghostzoo/models``; if not, there are official weights."""

    @property
    def figures(self) -> Figures:
        """The published figures, or else the measured ones."""
        figures = self.published or self.measured
        assert figures is not None, self.name  # noqa: S101
        return figures

    @property
    def parameters(self) -> int:
        """Trainable parameters; batch-norm statistics are none."""
        return self._architecture.count_parameters()

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the convolutions and linear layers for one image of the model's size."""
        return self._architecture.count_multiply_adds(self.preprocessing.crop_size)

    @property
    def _architecture(self) -> Architecture:
        return Architecture.of(self.width, self.num_classes)

    @property
    def weights_url(self) -> str | None:
        """The official training weights: a ``.pdparams`` file; ``None`` for an embedded model."""
        return None if self.embedded else f"{_WEIGHTS}/{self.name}_pretrained.pdparams"

    @property
    def archive_url(self) -> str | None:
        """The official inference model: a tar of a Paddle program and its weights; ``None`` for an embedded model."""
        return None if self.embedded else f"{_WEIGHTS}/inference/{self.name}_infer.tar"

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        names = ("parameters", "multiply_adds", "weights_url", "archive_url")
        return asdict(self) | {name: getattr(self, name) for name in names}


_MODELS = (
    CatalogModel(
        name="GhostNet_x0_5",
        width=0.5,
        published=PublishedFigures(
            top1=0.6688,
            top5=0.8695,
            reference_top1=0.662,
            reference_top5=0.866,
            parameters_millions=2.60,
            multiply_adds_millions=46.15,
            storage_mb=10,
            snapdragon855_ms=(5.28, 3.95, 3.29),
            v100_ms=(1.66, 2.24, 2.73),
        ),
    ),
    CatalogModel(
        name="GhostNet_x1_0",
        width=1.0,
        published=PublishedFigures(
            top1=0.7402,
            top5=0.9165,
            reference_top1=0.739,
            reference_top5=0.914,
            parameters_millions=5.21,
            multiply_adds_millions=148.78,
            storage_mb=20,
            snapdragon855_ms=(12.89, 8.66, 6.72),
            v100_ms=(1.69, 2.73, 3.81),
        ),
    ),
    CatalogModel(
        name="GhostNet_x1_3",
        width=1.3,
        published=PublishedFigures(
            top1=0.7579,
            top5=0.9254,
            reference_top1=0.757,
            reference_top5=0.927,
            parameters_millions=7.38,
            multiply_adds_millions=236.89,
            storage_mb=29,
            snapdragon855_ms=(19.16, 12.25, 9.40),
            v100_ms=(1.84, 2.88, 3.94),
        ),
    ),
    CatalogModel(
        name="GhostNet_x1_3_ssld",
        width=1.3,
        published=PublishedFigures(
            top1=0.7938,
            top5=0.9449,
            reference_top1=0.757,
            reference_top5=0.927,
            parameters_millions=7.38,
            multiply_adds_millions=236.89,
            storage_mb=29,
            snapdragon855_ms=(19.16, 17.85, 10.18),
            v100_ms=(1.85, 3.17, 4.29),
        ),
        description="distilled by PaddleClas (SSLD) from a stronger teacher, then tuned on ImageNet-1k",
    ),
    CatalogModel(
        name=DEFAULT_MODEL,
        width=0.5,
        measured=MeasuredFigures.of_report(
            DEFAULT_MODEL,
            parameters_millions=1.32,
            multiply_adds_millions=8.36,
            storage_mb=5,
            data="half of CIFAR-10's test images",
            photographs=(
                "53 % of 215 full-size photographs of its classes (dogs 52 of 118, birds 39 of 59, ships 5 of 12)"
            ),
        ),
        num_classes=10,
        labels="cifar10",
        preprocessing=Preprocessing(resize_short=110, crop_size=96),
        description="trained by ghostzoo on CIFAR-10",
        limits=(
            "It takes every image for one of its ten classes, whatever the image shows. It learnt from pictures of "
            "32 x 32 pixels with one object each, and large photographs look different to it. "
            "CIFAR-10 (Krizhevsky, 2009) was gathered from the web for research, and states no licence of its images."
        ),
        embedded=True,
    ),
)
_BY_NAME = {model.name: model for model in _MODELS}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the catalog's models that match the wildcard ``pattern`` (``*``, ``?``, ``[...]``), ignoring case."""
    if not isinstance(pattern, str):
        raise OptionError(f"pattern must be a string with wildcards, not {pattern!r}.")
    return [name for name in _BY_NAME if fnmatchcase(name.lower(), pattern.lower())]


def list_official_models() -> list[str]:
    """Names of the models whose weights PaddleClas publishes."""
    return [name for name, model in _BY_NAME.items() if not model.embedded]


def find_record(name: str, source_url: str | None) -> CatalogModel | None:
    """Return the record of ``name`` if weights from ``source_url`` are those that it describes."""
    record = _BY_NAME.get(name)
    return record if record is not None and (record.embedded or record.weights_url == source_url) else None


def get_model(name: str) -> CatalogModel:
    """Return the record of ``name``.

    Raises:
        UnknownModelError: no such model; the message names the nearest ones.
    """
    if not isinstance(name, str) or name not in _BY_NAME:
        raise UnknownModelError(f"There is no model named {name!r}. {nearest(name, _BY_NAME)}")
    return _BY_NAME[name]


def get_official_model(name: str) -> CatalogModel:
    """Return the record of ``name``, whose weights PaddleClas publishes.

    Raises:
        UnknownModelError: no such model; the message names the nearest ones.
        OptionError: the model is ghostzoo's own.
    """
    model = get_model(name)
    if model.embedded:
        raise OptionError(
            f"{name} comes with ghostzoo as a bundle and has no official weights; for weights of your own give a name "
            "of your own instead of a catalog model."
        )
    return model
