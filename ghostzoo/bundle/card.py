"""The model card of a newly converted bundle: what it is, where it comes from, how to load it.

Publishing extends it to the full card: it replaces the metadata and the section ``Use`` and keeps the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..catalog import CatalogModel
from ..images.preprocessing import BICUBIC, BILINEAR, Preprocessing
from ..network.architecture import Architecture
from ..predictions import THRESHOLD

_TEMPLATE = """\
---
{metadata}
---

# {name}

{family} {kind} of width {width:g} for {num_classes:,} classes as an ONNX graph, {origin}.

| | |
|---|---|
| input | `pixel_values`, float32 (N, 3, {size}, {size}) |
| outputs | `logits`, float32 (N, {num_classes}); `embedding`, float32 (N, 1280) |
| preprocessing | RGB, short side to {resize} ({filter}), centre crop {size}, \
`(x * {rescale} - mean) / std` with mean {mean} and std {std} |
| scores | {scores} |
| parameters | {parameters} |
| multiply-adds | {multiply_adds} |
| weights | `{file_name}`, SHA-256 `{sha256}` |

## Use

```python
import ghostzoo

clf = ghostzoo.load({load_from})
print(clf("photo.jpg"))
```

## Validation

`golden.npz` holds inputs with reference outputs, `ghostzoo.json` the hash of every file and this report:

{validation}
{notes}"""

_FILTERS = {BILINEAR: "bilinear, not antialiased", BICUBIC: "bicubic, antialiased, as in Pillow"}
_SCORES = {
    False: "softmax of the logits",
    True: f"sigmoid of each logit; an image shows every class with a score of at least {THRESHOLD:g}",
}


def write_card(
    name: str,
    architecture: Architecture,
    preprocessing: Preprocessing,
    *,
    record: CatalogModel | None,
    weights: Mapping[str, Any],
    validation: Mapping[str, Any],
    multi_label: bool = False,
    notes: str = "",
) -> str:
    """Return the card in Markdown; ``record`` is the catalog's if these are its weights."""
    metadata = ["library_name: ghostzoo", "pipeline_tag: image-classification", "tags: [ghostnet, onnx]"]
    origin = "of custom weights"
    if record is not None:
        metadata.append(f"license: {record.license}")
        origin = record.description
        if "source_url" in weights:
            origin += f"; the original weights are at <{weights['source_url']}>"
    return _TEMPLATE.format(
        metadata="\n".join(metadata),
        name=name,
        family=architecture.family.title,
        kind="multi-label image classifier" if multi_label else "image classifier",
        scores=_SCORES[multi_label],
        width=architecture.width,
        num_classes=architecture.num_classes,
        origin=origin,
        load_from="" if record is not None and record.embedded else '"path/to/this/folder"',
        size=preprocessing.crop_size,
        resize=preprocessing.resize_short,
        filter=_FILTERS[preprocessing.interpolation],
        rescale=preprocessing.rescale_factor,
        mean=preprocessing.mean,
        std=preprocessing.std,
        parameters=describe_parameters(architecture.count_parameters(), record),
        multiply_adds=describe_multiply_adds(architecture.count_multiply_adds(preprocessing.crop_size), record),
        file_name=weights["file_name"],
        sha256=weights["sha256"],
        validation="\n".join(f"- {title(key)}: {phrase(value)}" for key, value in validation.items()),
        notes=f"\n{notes.strip()}\n" if notes else "",
    )


_AGREEMENT = ("max_difference", "scale", "relative", "top5_equal")


def describe_parameters(count: int, record: CatalogModel | None) -> str:
    """Say how many parameters there are, and how many are published of the catalog's model."""
    beside = _beside(record, "parameters_millions", "with them")
    return f"{count / 1e6:.2f} M without batch-norm statistics{beside}"


def describe_multiply_adds(count: int, record: CatalogModel | None) -> str:
    """Say how many multiply-adds an image takes, and how many are published of the catalog's model."""
    beside = _beside(record, "multiply_adds_millions", "with batch-norm and pooling")
    return f"{count / 1e6:.1f} M in convolutions and linear layers{beside}"


def _beside(record: CatalogModel | None, name: str, what: str) -> str:
    millions = getattr(record.published, name, None) if record is not None else None
    return f" (published: {millions} M, {what})" if millions is not None else ""


def title(key: str) -> str:
    """Write a key of the validation report for people."""
    return key.replace("_", " ").replace("top1", "top-1").replace("top5", "top-5")


def phrase(value: object, depth: int = 4) -> str:
    """Write a value of the validation report for people; what is nested deeper is left out."""
    if not depth:
        return "..."
    if isinstance(value, Mapping):
        difference, scale = value.get("max_difference"), value.get("scale")
        parts = []
        if isinstance(difference, float) and isinstance(scale, float) and scale > 0:  # as Agreement.to_dict() has it
            parts.append(f"within {difference / scale:.1e} of their scale")
            value = {key: item for key, item in value.items() if key not in _AGREEMENT or item is False}
        return "; ".join([*parts, *(f"{title(key)} {_entry(key, item, depth - 1)}" for key, item in value.items())])
    if isinstance(value, list | tuple):
        return ", ".join(phrase(item, depth - 1) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _entry(key: str, value: object, depth: int) -> str:
    """Write a value as ``phrase`` does, accuracies with as many digits as everywhere else."""
    return f"{value:.4f}" if key.startswith("top") and isinstance(value, float) else phrase(value, depth)


_PRECISIONS_START, _PRECISIONS_END = "<!-- precisions -->", "<!-- /precisions -->"


def replace_precisions(card: str, precisions: Mapping[str, Mapping[str, Any]]) -> str:
    """Insert the section on the smaller graphs into a card, replacing an older one.

    Args:
        card: the card in Markdown.
        precisions: the measurements, as in the manifest's ``validation.precisions``.
    """
    rows = [
        "| precision | size, of float32 | top-1 as float32's | top-1 | float32's top-1 | images | what it is |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, facts in sorted(precisions.items()):
        precision, _, engine = key.partition("_")
        measured = facts.get("labelled_images", facts["unseen_images"])
        accuracies = (f"{measured[key]:.4f}" if key in measured else "-" for key in ("top1", "float32_top1"))
        cells = (
            f"`{precision}`, `{engine}`" if engine else f"`{precision}`",
            f"{facts['size_ratio']:.3f}",
            f"{measured['same_top1']:.4f}",
            *accuracies,
            str(measured["images"]),
            facts["description"],
        )
        rows.append(f"| {' | '.join(cells)} |")
    section = "\n".join(
        [
            _PRECISIONS_START,
            "## Smaller graphs",
            "",
            '`ghostzoo.load(..., precision="fp16")` and `"int8"` take them. Measured in ONNX Runtime, or in the '
            "engine named, without `--data` on images that had no part in the calibration:",
            "",
            *rows,
            _PRECISIONS_END,
        ]
    )
    before, start, rest = card.partition(_PRECISIONS_START)
    if not start:
        return f"{card.rstrip()}\n\n{section}\n"
    return f"{before}{section}{rest.partition(_PRECISIONS_END)[2]}"
