"""The models: one frozen record each, and the only place where a model is described."""

from __future__ import annotations

from ..images.preprocessing import Preprocessing
from ..network.architecture import Architecture
from .record import TIMM_RESULTS, CatalogModel, MeasuredFigures, PublishedFigures

DEFAULT_MODEL = "GhostNet_x0_5_cifar10"
"""The model that comes with the package, so that it works without network and weights."""


def _of_timm(name: str, top1: float, top5: float, *reference: float, commit: str = "main") -> CatalogModel:
    """timm's ``name``.in1k, with its accuracy in percent and that of the network's authors, as far as it was found."""
    architecture = Architecture.named(name)
    reference_top1, reference_top5, *_ = (*(round(each / 100, 4) for each in reference), None, None)
    return CatalogModel(
        name=f"{name}.in1k",
        width=architecture.width,
        published=PublishedFigures(
            top1=round(top1 / 100, 4),
            top5=round(top5 / 100, 4),
            reference_top1=reference_top1,
            reference_top5=reference_top5,
            source=TIMM_RESULTS,
            publisher="timm",
        ),
        preprocessing=Preprocessing.timm(),
        license="mit" if name.startswith("repghostnet") else "apache-2.0",
        description=f"{architecture.family.title.partition(' ')[0]} trained on ImageNet-1k, as timm publishes it",
        family=architecture.family.name,
        repo=f"timm/{name}.in1k",
        commit=commit,
    )


MODELS = (
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
        measured=MeasuredFigures.of_reports(
            DEFAULT_MODEL,
            parameters_millions=1.32,
            multiply_adds_millions=8.36,
            storage_mb=5,
            data="half of CIFAR-10's test images",
        ),
        num_classes=10,
        labels="cifar10",
        preprocessing=Preprocessing(resize_short=110, crop_size=96),
        description="trained by ghostzoo on CIFAR-10",
        limits=(
            "It takes every image for one of its ten classes, whatever the image shows. It learnt from pictures of "
            "32 x 32 pixels with one object each, and large photographs look different to it. Its teacher, an "
            "EfficientNet-Lite2 with ImageNet's weights (Apache-2.0), was tuned to the same pictures, of which it "
            "recognised 94 %. How much its features tell of other classes was measured on small pictures only. "
            "CIFAR-10 (Krizhevsky, 2009) was gathered from the web for research, and states no licence of its images."
        ),
        embedded=True,
    ),
    _of_timm("ghostnet_100", 73.96, 91.54, 73.98, 91.46, commit="700dcdf6314c1b68f170e6ba1ee85ee94e5b37b5"),
    _of_timm("repghostnet_050", 66.98, 86.94, 66.9, 86.9),
    _of_timm("repghostnet_058", 68.94, 88.39, 68.9, 88.4),
    _of_timm("repghostnet_080", 72.24, 90.49, 72.2, 90.5),
    _of_timm("repghostnet_100", 74.21, 91.55, 74.2, 91.5),
    _of_timm("repghostnet_111", 75.06, 92.20, 75.1, 92.2),
    _of_timm("repghostnet_130", 76.38, 92.90, 76.4, 92.9),
    _of_timm("repghostnet_150", 77.47, 93.50, 77.5, 93.5),
    _of_timm("repghostnet_200", 78.80, 94.33, 78.8, 94.3),
    _of_timm("ghostnetv2_100", 75.19, 92.33, 75.3),
    _of_timm("ghostnetv2_130", 76.75, 93.36, 76.9),
    _of_timm("ghostnetv2_160", 77.84, 93.95, 77.8),
    _of_timm("ghostnetv3_100", 76.94, 93.12),
)
