from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

import ghostzoo
from ghostzoo.catalog import (
    DEFAULT_MODEL,
    get_model,
    get_official_model,
    list_families,
    list_models,
    list_official_models,
)
from ghostzoo.errors import OptionError, UnknownModelError
from ghostzoo.images.preprocessing import MAX_IMAGE_SIZE, Preprocessing
from ghostzoo.network.architecture import EMBEDDING_SIZE, Architecture
from ghostzoo.network.families import FAMILIES

OFFICIAL = ["GhostNet_x0_5", "GhostNet_x1_0", "GhostNet_x1_3", "GhostNet_x1_3_ssld"]
# Parameters and multiply-adds in millions, as counted with hooks on timm's own models.
TIMM = {
    "ghostnet_100": (5.183, 141.15),
    "repghostnet_050": (2.307, 43.31),
    "repghostnet_058": (2.538, 59.80),
    "repghostnet_080": (3.267, 95.52),
    "repghostnet_100": (4.059, 142.39),
    "repghostnet_111": (4.524, 170.12),
    "repghostnet_130": (5.459, 231.12),
    "repghostnet_150": (6.553, 301.32),
    "repghostnet_200": (9.766, 515.87),
    "ghostnetv2_100": (6.157, 167.05),
    "ghostnetv2_130": (8.960, 269.32),
    "ghostnetv2_160": (12.393, 398.61),
    "ghostnetv3_100": (6.148, 167.05),
}
NAMES = [*OFFICIAL, DEFAULT_MODEL, *(f"{name}.in1k" for name in TIMM)]


def test_four_official_models_and_their_widths() -> None:
    assert list_official_models() == OFFICIAL
    assert [get_model(name).width for name in OFFICIAL] == [0.5, 1.0, 1.3, 1.3]
    assert {get_model(name).num_classes for name in OFFICIAL} == {1000}


def test_models_are_listed_family_by_family() -> None:
    assert list_models() == NAMES
    assert list_families() == ["ghostnet", "repghostnet", "ghostnetv2", "ghostnetv3"]
    assert list_models(family="repghostnet") == [name for name in NAMES if name.startswith("rep")]
    best = ["GhostNet_x1_3_ssld", "repghostnet_200.in1k", "ghostnetv2_160.in1k"]
    assert list_models(min_top1=0.775, sort="top1") == best
    assert list_models(sort="top1")[-1] == DEFAULT_MODEL  # whose accuracy is of other images
    for wrong in ({"family": "resnet"}, {"sort": "beauty"}):
        with pytest.raises(OptionError, match=r"resnet|beauty"):
            list_models(**wrong)


def test_the_bundled_model_has_no_official_weights() -> None:
    record = get_model(DEFAULT_MODEL)
    assert record.embedded
    assert (record.weights_url, record.archive_url, record.published) == (None, None, None)
    with pytest.raises(OptionError, match="no official weights"):
        get_official_model(DEFAULT_MODEL)
    assert get_official_model("GhostNet_x1_0") is get_model("GhostNet_x1_0")


def test_measured_figures_are_those_of_the_stored_report() -> None:
    report = json.loads((Path(ghostzoo.__file__).parent / "data" / f"{DEFAULT_MODEL}.json").read_text(encoding="utf-8"))
    measured = get_model(DEFAULT_MODEL).measured
    assert measured is not None
    assert report["model"] == DEFAULT_MODEL
    assert (measured.top1, measured.top5) == (report["top1"]["right"] / 5000, report["top5"]["right"] / 5000)
    assert measured.images == report["images"] == sum(row["recall"]["total"] for row in report["classes"]) == 5000


def test_what_is_said_of_photographs_is_their_report() -> None:
    file = Path(ghostzoo.__file__).parent / "data" / f"{DEFAULT_MODEL}.photographs.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["model"] == DEFAULT_MODEL
    assert (report["damaged"], report["unreadable"]) == ([], [])
    measured = get_model(DEFAULT_MODEL).measured
    assert measured is not None
    whole, *classes = re.findall(r"(\w+)? ?\b(\d+) of (\d+)", measured.photographs)
    of = {f"{row['label']}s": (row["recall"]["right"], row["recall"]["total"]) for row in report["classes"]}
    assert whole[1:] == tuple(str(sum(counts)) for counts in zip(*of.values(), strict=True))
    assert {name: (int(right), int(total)) for name, right, total in classes} == {
        name: counts for name, counts in of.items() if counts[1] >= 10
    }
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "bundled-model.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| bundled model \|.*$", guide, re.MULTILINE)
    order = [f"{label}s" for label in ("cat", "dog", "bird", "automobile", "horse", "deer", "ship")]
    assert re.findall(r"(\d+) of (\d+)", row) == [*(tuple(map(str, of[name])) for name in order), whole[1:]]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", NAMES),
        ("*x1*", OFFICIAL[1:]),
        ("*X1*", OFFICIAL[1:]),
        ("ghostnet_x0_5", NAMES[:1]),
        ("GhostNet_x?_0", NAMES[1:2]),
        ("*t_*_[01]", NAMES[1:2]),
        ("x1", []),
        ("", []),
        ("[", []),
    ],
)
def test_wildcards_select(pattern: str, names: list[str]) -> None:
    assert list_models(pattern) == names


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("GhostNet_x1_4", "GhostNet_x1_3"),
        ("ghostnet_x1_0", "GhostNet_x1_0"),
        ("GhostNet-x0.5", "GhostNet_x0_5"),
        ("resnet50", "repghostnet_150.in1k"),
        ("", "GhostNet_x0_5"),
    ],
)
def test_unknown_names_suggest_known_ones(name: str, suggested: str) -> None:
    with pytest.raises(UnknownModelError, match=suggested) as error:
        get_model(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_the_architecture(name: str) -> None:
    """PaddleClas counts more than weights and their uses; see ``PublishedFigures``."""
    model = get_model(name)
    size = model.preprocessing.crop_size
    architecture = Architecture.of(model.width, model.num_classes, FAMILIES[model.family])
    parameters, multiply_adds = architecture.count_parameters(), architecture.count_multiply_adds(size)
    assert (model.parameters, model.multiply_adds) == (parameters, multiply_adds)
    if name.removesuffix(".in1k") in TIMM:
        assert (parameters / 1e6, multiply_adds / 1e6) == pytest.approx(TIMM[name.removesuffix(".in1k")], abs=0.005)
        return
    if model.published is not None:
        parameters = sum(map(math.prod, architecture.state_shapes().values()))
        multiply_adds += count_small_operations(architecture, size)
    assert parameters / 1e6 == pytest.approx(model.figures.parameters_millions, abs=0.005)
    assert multiply_adds / 1e6 == pytest.approx(model.figures.multiply_adds_millions, abs=0.005)


def test_published_figures_can_be_true() -> None:
    for name in list_models():
        figures = get_model(name).figures
        assert 0.3 < figures.top1 <= figures.top5 < 1
        times = getattr(figures, "v100_ms", None) or ()
        assert list(times) == sorted(times)


def test_storage_is_four_bytes_a_parameter_unless_published() -> None:
    assert [get_model(name).storage_mb for name in ("GhostNet_x1_3", DEFAULT_MODEL, "ghostnet_100.in1k")] == [29, 5, 21]


def count_small_operations(architecture: Architecture, size: int) -> int:
    """Two for each batch-norm output, one for each value that is pooled and one for each mean."""
    size //= 2
    total = 2 * architecture.stem_channels * size**2
    for block in architecture.blocks:
        total += 2 * block.hidden_channels * size**2
        size //= block.stride
        pixels = size**2
        total += 2 * block.out_channels * pixels
        if block.stride == 2:
            total += 2 * block.hidden_channels * pixels
        if block.se_channels:
            total += block.hidden_channels * (pixels + 1)
        if not block.has_identity_shortcut:
            total += 2 * (block.in_channels + block.out_channels) * pixels
    return total + architecture.last_channels * (3 * size**2 + 1) + 2 * EMBEDDING_SIZE


@pytest.mark.parametrize("name", TIMM)
def test_timm_s_records_name_repository_and_licence(name: str) -> None:
    record = json.loads(json.dumps(get_model(f"{name}.in1k").to_dict()))
    assert record["license"] == ("mit" if name.startswith("rep") else "apache-2.0")
    assert record["weights_url"].startswith(f"https://huggingface.co/timm/{name}.in1k/resolve/")
    assert record["preprocessing"]["interpolation"] == "bicubic"
    assert record["archive_url"] is None
    assert 0 < record["published"]["top1"] < record["published"]["top5"] < 1


@pytest.mark.parametrize("name", OFFICIAL)
def test_records_are_json_and_name_their_sources(name: str) -> None:
    record = json.loads(json.dumps(get_model(name).to_dict()))
    assert record["name"] == name
    assert record["license"] == "apache-2.0"
    assert record["weights_url"].endswith(f"/dygraph/{name}_pretrained.pdparams")
    assert record["archive_url"].endswith(f"/dygraph/inference/{name}_infer.tar")
    assert record["published"]["source"].startswith("https://")
    assert 0 < record["published"]["top1"] < record["published"]["top5"] < 1


def test_records_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        get_model("GhostNet_x1_0").width = 2.0  # type: ignore[misc]


def test_the_original_preprocessing_is_the_default() -> None:
    default = get_model("GhostNet_x1_0").preprocessing
    assert (default.resize_short, default.crop_size, default.rescale_factor) == (256, 224, 0.00392157)
    assert (default.mean, default.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(("resize", "crop"), [(223, 224), (256, 0), (256, -1), (MAX_IMAGE_SIZE + 1, 224), (0, 0)])
def test_impossible_sizes_are_refused(resize: int, crop: int) -> None:
    with pytest.raises(OptionError, match="crop"):
        Preprocessing(resize_short=resize, crop_size=crop)
    for side in (1, MAX_IMAGE_SIZE):
        assert Preprocessing(resize_short=side, crop_size=side).crop_size == side


@pytest.mark.parametrize("bad", [0.0, -0.2, math.nan, math.inf])
def test_impossible_normalisation_is_refused(bad: float) -> None:
    with pytest.raises(OptionError, match="std"):
        Preprocessing(std=(0.2, bad, 0.2))
    with pytest.raises(OptionError, match="rescale_factor"):
        Preprocessing(rescale_factor=bad)
    if not math.isfinite(bad):
        with pytest.raises(OptionError, match="mean"):
            Preprocessing(mean=(bad, 0.5, 0.5))
