"""The metadata at the head of a model card: what the Hub's search, its pages and its leaderboards read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index

from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import CatalogModel

TASK = "image-classification"
PAPER = "arxiv:1911.11907"
"""The Hub links a card to its paper by this tag."""


@dataclass(frozen=True)
class Dataset:
    """A data set as the Hub knows it."""

    id: str
    name: str
    split: str
    """What the figures were taken on."""


_DATASETS = {
    "imagenet1k": Dataset("imagenet-1k", "ImageNet-1k", "validation"),
    "cifar10": Dataset("cifar10", "CIFAR-10", "test"),
}
"""Class list of a catalog model -> what it was trained on."""


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5, as fractions of 1, and who says so."""

    top1: float
    top5: float
    who: str
    """``published by PaddleClas``, ``published by timm``, ``measured by ghostzoo``."""
    data: str
    """The images."""
    dataset: Dataset | None
    """The published data set that they are of, where that is known."""
    source: tuple[str, str] | None = None
    """Name and URL of who published it."""
    photographs: str = ""
    """What became of ordinary photographs, in words, if that differs much."""


def find_dataset(record: CatalogModel | None) -> Dataset | None:
    """Return what a catalog model was trained on."""
    return _DATASETS[record.labels] if record is not None else None


def write_metadata(
    bundle: Bundle, record: CatalogModel | None, license_id: str | None, accuracies: list[Accuracy]
) -> str:
    """Return the YAML, without the lines of dashes around it.

    Args:
        bundle: the model.
        record: the catalog's record of it, if these are its weights.
        license_id: as the Hub spells it.
        accuracies: each stands in ``model-index`` as a result of its own.
    """
    dataset = find_dataset(record)
    card = ModelCardData(
        library_name="ghostzoo",
        pipeline_tag=TASK,
        license=license_id,
        tags=["ghostnet", "onnx", "onnxruntime", "openvino", "transformers.js", "vision", PAPER],
        datasets=[dataset.id] if dataset else None,
        metrics=["accuracy"] if accuracies else None,
    )
    metadata: dict[str, Any] = card.to_dict()  # type: ignore[no-untyped-call]
    # ModelCardData would put all results on one data set together, and give them the first one's source.
    results = [result for accuracy in accuracies for result in _results(bundle.name, accuracy)]
    if results:
        metadata["model-index"] = [{"name": bundle.name, "results": results}]
    text: str = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=100)
    return text.strip()


def _results(name: str, accuracy: Accuracy) -> list[dict[str, Any]]:
    dataset = accuracy.dataset
    source_name, source_url = accuracy.source or (None, None)
    metrics = [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset.id if dataset else "custom",
            dataset_name=f"{accuracy.data}, {accuracy.who}"
            + (f"; {beside}" if (beside := accuracy.photographs) else ""),
            dataset_split=dataset.split if dataset else None,
            metric_type="accuracy",
            metric_name=f"{metric} accuracy, {accuracy.who}",
            metric_value=round(value, 4),
            source_name=source_name,
            source_url=source_url,
        )
        for metric, value in (("Top-1", accuracy.top1), ("Top-5", accuracy.top5))
    ]
    [entry] = eval_results_to_model_index(name, metrics)
    results: list[dict[str, Any]] = entry["results"]
    return results
