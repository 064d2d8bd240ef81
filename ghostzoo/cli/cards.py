"""What ``ghostzoo info`` shows of a model: a title, and rows of a label and a text."""

from __future__ import annotations

from collections.abc import Iterator

from ..bundle.card import describe_multiply_adds, describe_parameters, phrase, title
from ..bundle.converted import describe_formats
from ..bundle.folder import MODEL_FILES, Bundle
from ..catalog import CatalogModel, find_record
from ..images.preprocessing import Preprocessing
from ..network.families import FAMILIES
from .console import format_size

Rows = Iterator[tuple[str, object]]

_NAMED_CLASSES = 20
"""So many classes at most are named."""
_CLASS_LISTS = {"imagenet1k": "ImageNet-1k", "cifar10": "CIFAR-10"}


def catalog_card(record: CatalogModel) -> tuple[str, Rows]:
    """Tell what the catalog knows of a model."""
    return f"{record.name}: {record.description}", _catalog_rows(record)


def bundle_card(bundle: Bundle) -> tuple[str, Rows]:
    """Tell what a bundle says of itself."""
    return f"{bundle.name}: {bundle.config.architecture.title}, {bundle.num_classes:,} classes", _bundle_rows(bundle)


def _catalog_rows(record: CatalogModel) -> Rows:
    yield "family", FAMILIES[record.family].title
    yield "classes", f"{record.num_classes:,} ({_CLASS_LISTS[record.labels]})"
    yield from _input(record.preprocessing)
    yield "parameters", describe_parameters(record.parameters, record)
    yield "multiply-adds", describe_multiply_adds(record.multiply_adds, record)
    figures = record.figures
    accuracy = f"top-1 {figures.top1:.4f}, top-5 {figures.top5:.4f}"
    if record.measured is not None:
        yield "accuracy", f"{accuracy}, measured on {record.measured.data} ({record.measured.images:,} images)"
        if record.measured.photographs:
            yield "recognises", record.measured.photographs
    if record.published is not None:
        published = record.published
        yield "accuracy", f"{accuracy} on ImageNet-1k, published by {published.publisher}"
        if published.reference_top1 is not None:
            top5 = f", top-5 {published.reference_top5:.4f}" if published.reference_top5 is not None else ""
            yield "in the paper", f"top-1 {published.reference_top1:.4f}{top5}"
        if published.snapdragon855_ms:
            one, two, four = published.snapdragon855_ms
            yield "Snapdragon 855", f"{one} ms with 1 thread, {two} with 2, {four} with 4; published"
        if published.v100_ms:
            one, four, eight = published.v100_ms
            yield "V100", f"{one} ms for 1 image, {four} for 4, {eight} for 8, by TensorRT in float32; published"
    yield "size", f"{record.storage_mb} MB"
    if record.limits:
        yield "limits", record.limits
    yield "licence", record.license
    if record.published is not None:
        yield "published at", record.published.source
    for name, url in (("weights", record.weights_url), ("archive", record.archive_url)):
        if url:
            yield name, url


def _bundle_rows(bundle: Bundle) -> Rows:
    weights = bundle.manifest.weights
    record = find_record(bundle.name, weights.get("source_url"))
    architecture = bundle.config.architecture
    yield bundle.origin, bundle.path
    if bundle.num_classes <= _NAMED_CLASSES:
        yield "classes", ", ".join(label.label for label in bundle.labels)
    yield from _input(bundle.preprocessing)
    yield "parameters", describe_parameters(architecture.count_parameters(), record)
    multiply_adds = architecture.count_multiply_adds(bundle.config.image_size)
    yield "multiply-adds", describe_multiply_adds(multiply_adds, record)
    sizes = {name: format_size(file.size) for name, file in bundle.manifest.files.items()}
    yield "precisions", ", ".join(f"{each} ({sizes[MODEL_FILES[each]]})" for each in bundle.precisions)
    formats = describe_formats(bundle.manifest.files)
    if formats:
        yield "other formats", ", ".join(formats)
    yield "weights", str(weights.get("file_name", "unknown"))
    yield "SHA-256", str(weights.get("sha256", "unknown"))
    if weights.get("source_url"):
        yield "published at", str(weights["source_url"])
    yield "made with", ", ".join(f"{name} {version}" for name, version in bundle.manifest.created_by.items())
    for key, value in bundle.manifest.validation.items():
        yield title(key), phrase(value)


def _input(preprocessing: Preprocessing) -> Rows:
    side, filter_ = preprocessing.crop_size, preprocessing.interpolation
    yield "input", f"RGB, {side} x {side} pixels: short side to {preprocessing.resize_short} ({filter_}), centre crop"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    yield "normalisation", f"scaled by {preprocessing.rescale_factor:g}; mean {mean}; std {std}"
