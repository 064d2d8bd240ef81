"""Add a float16 or int8 graph to a bundle, with its accuracy on real images: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.edge_formats import import_converter
from exporters.quantize import PLANS, QuantizationPlan, to_int8
from ghostzoo.bundle.card import replace_precisions
from ghostzoo.bundle.converted import CONVERTED_INT8_FILES
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import CARD_FILE, MODEL_FILES, Bundle
from ghostzoo.engines.base import Engine, EngineOptions
from ghostzoo.engines.onnxruntime import OnnxRuntimeEngine
from ghostzoo.errors import InputError, OptionError, ParityError
from ghostzoo.evaluation.datasets import UNLABELLED, ImageDataset, Sample
from ghostzoo.evaluation.evaluate import Proportion, take_evenly
from ghostzoo.images.decode import read_image
from ghostzoo.images.transform import preprocess
from ghostzoo.network.float16 import to_float16
from ghostzoo.parity import compare_logits, engine_tolerance

PRECISIONS = ("fp16", "int8")
ENGINES = ("onnxruntime", "litert")
"""Whose files are written: the first one's is ONNX, which most others run as well."""
REQUIRED_AGREEMENT = 0.98
"""Share of unseen images on which an int8 graph must keep the top-1; else the next, more accurate plan is tried."""

_BATCH_SIZE = 8


@dataclass(frozen=True)
class GraphComparison:
    """A smaller graph compared with the float32 graph on the same images."""

    same_top1: Proportion
    largest_difference: float
    """Of logits, relative to the scale of the float32 logits."""
    top1: Proportion | None = None
    """Accuracy of the smaller graph, if the images are labelled."""
    float32_top1: Proportion | None = None

    @property
    def lost_points(self) -> float | None:
        """Percentage points of top-1 that the smaller graph loses; negative if it gains."""
        if self.top1 is None or self.float32_top1 is None:
            return None
        return 100 * (self.float32_top1.value - self.top1.value)

    def to_dict(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "images": self.same_top1.total,
            "same_top1": round(self.same_top1.value, 5),
            "largest_difference": self.largest_difference,
        }
        if self.top1 is not None and self.float32_top1 is not None:
            facts |= {"top1": round(self.top1.value, 5), "float32_top1": round(self.float32_top1.value, 5)}
        return facts


@dataclass(frozen=True)
class Quantized:
    """What was added to a bundle."""

    bundle: Bundle
    precision: str
    engine: str
    """Of ``ENGINES``."""
    description: str
    size: int
    """Bytes of the graph."""
    size_ratio: float
    """Relative to the float32 graph."""
    unseen: GraphComparison
    """On images that were not used for calibration."""
    evaluated: GraphComparison | None
    """On the labelled images."""


def quantize_bundle(
    path: str | PathLike[str],
    precision: str,
    images: ImageDataset,
    *,
    engine: str = ENGINES[0],
    labelled: ImageDataset | None = None,
    max_images: int = 512,
    max_loss: float | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Quantized:
    """Add a graph in ``precision`` to the bundle at ``path``, and its measurements to manifest and card.

    Args:
        path: the bundle; its folder is replaced as a whole.
        precision: ``fp16`` or ``int8``.
        images: real images like those that the model is for. Every second one calibrates an int8 graph; the others
            decide how much of the network may compute in int8, and serve to measure the agreement.
        engine: whose file is written and measured; ``litert`` has int8 alone.
        labelled: images with the model's class indices, to measure accuracy on.
        max_images: use this many of ``images``, evenly spaced.
        max_loss: percentage points of top-1 on ``labelled`` that may be lost.
        on_step: called at the start of each step.

    Raises:
        ParityError: the graph loses too much; nothing was written.
        GhostZooError: the bundle or an image cannot be used; nothing was written.
    """
    bundle = Bundle.open(path)
    chosen = take_evenly(images, max_images).samples
    if precision not in PRECISIONS:
        raise OptionError(f"A bundle can be made smaller as {' or '.join(PRECISIONS)}, not {precision!r}.")
    if engine not in ENGINES:
        raise OptionError(f"A smaller graph is made for {' or '.join(ENGINES)}, not for {engine!r}.")
    if engine == "litert" and precision != "int8":
        raise OptionError(f"{engine} has no smaller graph in {precision}; take int8, or engine onnxruntime.")
    if len(chosen) < 2:
        raise InputError("Quantising needs at least two images: one to calibrate on, one to measure on.")
    if max_loss is not None and labelled is None:
        raise OptionError("The loss of accuracy is measured on labelled images; give some, or no limit.")
    calibration = chosen[::2]
    unseen = [replace(sample, label=UNLABELLED) for sample in chosen[1::2]]
    size = len(bundle.model("fp32"))
    fault = None
    for description, graph in _candidates(bundle, precision, engine, calibration, on_step):
        agreement, evaluated = compare_graphs(bundle, graph, precision, unseen, engine), None
        if labelled is not None:
            on_step("measuring the accuracy")
            evaluated = compare_graphs(bundle, graph, precision, labelled.samples, engine)
        result = Quantized(bundle, precision, engine, description, len(graph), len(graph) / size, agreement, evaluated)
        fault = _find_fault(result, graph, max_loss)
        if fault is None:
            break
    if fault is not None:
        raise ParityError(
            f"{bundle.name} in {precision} for {engine} {fault}. Nothing was written; calibrate on more or more "
            "typical images."
        )
    on_step("writing the bundle")
    return replace(result, bundle=_write(result, graph, len(calibration)))


def compare_graphs(
    bundle: Bundle, graph: bytes, precision: str, samples: Sequence[Sample], engine: str = ENGINES[0]
) -> GraphComparison:
    """Run ``graph``, a file of ``engine``'s, and the bundle's float32 graph in ONNX Runtime on every sample."""
    same = right = original_right = 0
    difference = scale = 0.0
    labels = np.array([sample.label for sample in samples])
    with _open(bundle, bundle.model("fp32"), "fp32") as original, _open(bundle, graph, precision, engine) as smaller:
        for start, batch in zip(range(0, len(samples), _BATCH_SIZE), _batches(bundle, samples), strict=True):
            expected, actual = original.run(batch), smaller.run(batch)
            best, original_best = actual.argmax(1), expected.argmax(1)
            truth = labels[start : start + len(batch)]
            same += int((best == original_best).sum())
            right += int((best == truth).sum())
            original_right += int((original_best == truth).sum())
            difference = max(difference, float(np.abs(expected - actual).max()))
            scale = max(scale, float(np.abs(expected).max()))
    total = len(samples)
    relative = difference / scale if scale else difference
    if (labels == UNLABELLED).all():
        return GraphComparison(Proportion(same, total), relative)
    return GraphComparison(
        Proportion(same, total), relative, Proportion(right, total), Proportion(original_right, total)
    )


def _candidates(
    bundle: Bundle, precision: str, engine: str, calibration: Sequence[Sample], on_step: Callable[[str], None]
) -> Iterator[tuple[str, bytes]]:
    """Yield description and graph, from the fastest to the most accurate."""
    if precision == "fp16":
        on_step("converting to float16")
        yield "float16 weights and activations", to_float16(bundle.model("fp32"))
        return
    for plan in PLANS:
        on_step(f"quantising: {plan.name}")
        graph = _int8(bundle, plan, calibration)
        yield plan.description, import_converter(engine).convert_graph(bundle, graph) if engine == "litert" else graph


def _find_fault(result: Quantized, graph: bytes, max_loss: float | None) -> str | None:
    """Return why the graph is not good enough; ``None`` if it is."""
    golden, tolerance = result.bundle.golden(), engine_tolerance(result.precision)
    with _open(result.bundle, graph, result.precision, result.engine) as engine:
        distance = compare_logits(golden.logits, engine.run(golden.pixel_values), tolerance)
    if not distance.within(tolerance):
        return f"is too far from its golden logits: {distance}; at most {tolerance:g} is accepted"
    same = result.unseen.same_top1
    if result.precision == "int8" and same.value < REQUIRED_AGREEMENT:
        return f"keeps the best class of {same.right} of {same.total} images, less than {REQUIRED_AGREEMENT:g} of them"
    measured = result.evaluated
    lost = measured.lost_points if measured is not None else None
    if measured is not None and max_loss is not None and lost is not None and lost > max_loss:
        images = measured.same_top1.total
        return f"loses {lost:.2f} points of top-1 on {images} images, more than the {max_loss:g} allowed"
    return None


def _int8(bundle: Bundle, plan: QuantizationPlan, calibration: Sequence[Sample]) -> bytes:
    return to_int8(bundle.model("fp32"), plan, lambda: _batches(bundle, calibration))


def _batches(bundle: Bundle, samples: Sequence[Sample]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(samples), _BATCH_SIZE):
        pictures = [read_image(sample.read()) for sample in samples[start : start + _BATCH_SIZE]]
        yield np.stack([preprocess(picture, bundle.preprocessing) for picture in pictures])


def _open(bundle: Bundle, graph: bytes, precision: str, engine: str = ENGINES[0]) -> Engine:
    options = EngineOptions(precision=precision)
    if engine == "litert":
        from ghostzoo.engines.litert import LiteRtEngine

        return LiteRtEngine({_file(precision, engine): graph}, options, bundle.config.image_size)
    return OnnxRuntimeEngine(graph, options)


def _file(precision: str, engine: str) -> str:
    if engine == "litert":
        (path,) = CONVERTED_INT8_FILES[engine]
        return path
    return MODEL_FILES[precision]


def _write(result: Quantized, graph: bytes, calibration_images: int) -> Bundle:
    bundle, precision, engine = result.bundle, result.precision, result.engine
    tools = {"onnxruntime": version("onnxruntime")}
    if engine == "litert":
        tools |= import_converter(engine).tools()
    facts: dict[str, Any] = {
        "description": result.description,
        "size_ratio": round(result.size_ratio, 4),
        "tool": ", ".join(f"{name} {number}" for name, number in tools.items()),
        "unseen_images": result.unseen.to_dict(),
    }
    if precision == "int8":
        facts["calibration_images"] = calibration_images
    if result.evaluated is not None:
        facts["labelled_images"] = result.evaluated.to_dict()
    key = precision if engine == ENGINES[0] else f"{precision}_{engine}"
    precisions = {**bundle.manifest.validation.get("precisions", {}), key: facts}
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    contents[_file(precision, engine)] = graph
    contents[CARD_FILE] = replace_precisions(contents[CARD_FILE].decode(), precisions).encode()
    return write_bundle(
        bundle.path,
        name=bundle.name,
        contents=contents,
        weights=bundle.manifest.weights,
        created_by=bundle.manifest.created_by,
        validation={**bundle.manifest.validation, "precisions": precisions},
        overwrite=True,
    )
