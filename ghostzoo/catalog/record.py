"""What is known of one model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from .._utils.hashes import COMMIT
from ..images.preprocessing import Preprocessing
from ..network.architecture import Architecture
from ..network.families import FAMILIES, PADDLE_GHOSTNET

MODEL_PAGE = "https://github.com/PaddlePaddle/PaddleClas/blob/release/2.6/docs/zh_CN/models/ImageNet1k/GhostNet.md"
"""Where PaddleClas publishes the accuracy, speed and size of its GhostNets."""
TIMM_RESULTS = "https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv"
"""Where timm publishes the accuracy that it measured."""
HUB = "https://huggingface.co"
TIMM_FILE = "model.safetensors"
"""The weights in a repository of timm's."""

_ENOUGH_PHOTOGRAPHS = 10
"""Of a class; fewer tell little of it."""
_WEIGHTS = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a model achieves and costs. Accuracies are fractions of 1."""

    top1: float
    top5: float
    parameters_millions: float | None = None
    multiply_adds_millions: float | None = None
    """At the model's image size."""
    storage_mb: int | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedFigures(Figures):
    """What PaddleClas or timm reports on ImageNet-1k's validation images (not measured by ghostzoo).

    PaddleClas counts more than ``CatalogModel.parameters`` and ``multiply_adds`` do: batch-norm statistics, two
    operations for each batch-norm output, and the global poolings. timm gives accuracies only.
    """

    reference_top1: float | None = None
    """Top-1 that the network's authors report, where it was found."""
    reference_top5: float | None = None
    snapdragon855_ms: tuple[float, ...] = ()
    """Milliseconds at batch 1 on a Snapdragon 855 with 1, 2 and 4 threads."""
    v100_ms: tuple[float, ...] = ()
    """Milliseconds on a V100 with TensorRT in FP32 at batch 1, 4 and 8."""
    source: str = MODEL_PAGE
    publisher: Literal["PaddleClas", "timm"] = "PaddleClas"


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
    def of_reports(cls, name: str, **facts: Any) -> Self:
        """Take the figures from the two reports of ``ghostzoo eval`` in ``data``: its images', and photographs'."""
        report, photographs = (
            json.loads((Path(__file__).parents[1] / "data" / f"{name}{suffix}.json").read_bytes())
            for suffix in ("", ".photographs")
        )
        accuracies = {key: report[key]["value"] for key in ("top1", "top5")}
        return cls(**accuracies, images=report["images"], photographs=_recognised(photographs), **facts)


def _recognised(report: Mapping[str, Any]) -> str:
    """What a report on photographs says, with the classes that have enough of them, best first."""
    rows = [row for row in report["classes"] if row["recall"]["total"] >= _ENOUGH_PHOTOGRAPHS]
    rows.sort(key=lambda row: row["recall"]["value"], reverse=True)
    counts = ", ".join(f"{row['label']}s {row['recall']['right']} of {row['recall']['total']}" for row in rows)
    top1 = report["top1"]
    return f"{top1['right']} of {top1['total']} full-size photographs of its classes ({counts})"


@dataclass(frozen=True)
class CatalogModel:
    """One model that ghostzoo knows by name: with ``published`` figures, or ``measured`` ones where it is its own."""

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
    family: str = PADDLE_GHOSTNET.name
    """Name of the family in ``network.families``."""
    repo: str | None = None
    """The repository of the Hub that has the official weights, as ``owner/name``; PaddleClas's are elsewhere."""
    commit: str = "main"
    """The commit of that repository, where it is known; the branch otherwise."""

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
    def storage_mb(self) -> int:
        """Size of the weights: as published, or four bytes a parameter."""
        return self.figures.storage_mb or round(4 * self.parameters / 1e6)

    @property
    def group(self) -> str:
        """The family, whoever trained the model: PaddleClas's GhostNets and timm's are one."""
        return self.family.removesuffix("_paddle")

    @property
    def _architecture(self) -> Architecture:
        return Architecture.of(self.width, self.num_classes, FAMILIES[self.family])

    @property
    def weights_url(self) -> str | None:
        """The official training weights: a ``.pdparams`` or safetensors file; ``None`` for an embedded model."""
        if self.repo is not None:
            return f"{HUB}/{self.repo}/resolve/{self.commit}/{TIMM_FILE}"
        return None if self.embedded else f"{_WEIGHTS}/{self.name}_pretrained.pdparams"

    @property
    def archive_url(self) -> str | None:
        """PaddleClas's inference model: a tar of a Paddle program and its weights; ``None`` for all others."""
        is_paddle = not self.embedded and self.repo is None
        return f"{_WEIGHTS}/inference/{self.name}_infer.tar" if is_paddle else None

    def has_weights_at(self, url: str | None) -> bool:
        """Whether the official weights are those at ``url``, of whatever commit where none is pinned."""
        if self.repo is None or self.commit != "main":
            return url == self.weights_url
        commit = (url or "").removeprefix(f"{HUB}/{self.repo}/resolve/").removesuffix(f"/{TIMM_FILE}")
        return commit == "main" or COMMIT.fullmatch(commit) is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        names = ("parameters", "multiply_adds", "weights_url", "archive_url")
        return asdict(self) | {name: getattr(self, name) for name in names}
