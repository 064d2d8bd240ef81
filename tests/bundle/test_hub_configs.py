from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ghostzoo.bundle.hub_configs import ModelConfig, preprocessing_from_json, preprocessing_to_json
from ghostzoo.errors import BundleError
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.labels import ClassLabel, imagenet_labels

CONFIG = ModelConfig(0.35, 96, (ClassLabel("cat", "n1"), ClassLabel("Maß"), ClassLabel("cat", "n3")))
PREPROCESSING = Preprocessing(72, 64, 1 / 255, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_the_configuration_comes_back() -> None:
    assert ModelConfig.from_json(CONFIG.to_json()) == CONFIG
    imagenet = ModelConfig(1.3, 224, imagenet_labels())
    assert ModelConfig.from_json(imagenet.to_json()) == imagenet
    assert CONFIG.to_json() == CONFIG.to_json()


def test_the_configuration_speaks_as_the_peers_do() -> None:
    content = json.loads(CONFIG.to_json())
    assert content["model_type"] == "ghostnet"
    assert content["id2label"] == {"0": "cat", "1": "Maß", "2": "cat"}
    assert content["label2id"] == {"cat": 0, "Maß": 1}  # the first of two equal names
    assert content["id2wnid"] == {"0": "n1", "2": "n3"}
    assert (content["image_size"], content["num_channels"], content["hidden_size"]) == (96, 3, 1280)
    assert "id2wnid" not in json.loads(ModelConfig(1.0, 224, (ClassLabel("a"),)).to_json())


def test_a_multi_label_model_says_so_as_the_peers_do() -> None:
    config = replace(CONFIG, multi_label=True)
    assert json.loads(config.to_json())["problem_type"] == "multi_label_classification"
    assert ModelConfig.from_json(config.to_json()) == config
    assert "problem_type" not in json.loads(CONFIG.to_json())
    single = changed(CONFIG.to_json(), "problem_type", "single_label_classification")
    assert ModelConfig.from_json(single) == CONFIG
    for wrong in ("regression", True, 5):
        with pytest.raises(BundleError, match="problem_type"):
            ModelConfig.from_json(changed(CONFIG.to_json(), "problem_type", wrong))


def test_the_preprocessing_comes_back_to_the_last_digit() -> None:
    for preprocessing in (PREPROCESSING, Preprocessing(), Preprocessing.timm(192, 0.9)):
        assert preprocessing_from_json(preprocessing_to_json(preprocessing)) == preprocessing


def test_the_preprocessing_speaks_as_the_peers_do() -> None:
    content = json.loads(preprocessing_to_json(Preprocessing()))
    assert content["size"] == {"shortest_edge": 256}
    assert content["crop_size"] == {"height": 224, "width": 224}
    assert (content["resample"], content["rescale_factor"]) == (2, 0.00392157)
    assert content["image_processor_type"] == "BitImageProcessor"
    assert json.loads(preprocessing_to_json(Preprocessing.timm()))["resample"] == 3


def changed(data: bytes, key: str, value: Any) -> bytes:
    content = json.loads(data)
    *path, last = key.split(".")
    place = content
    for part in path:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(content).encode()


def assert_refused(read: Callable[[bytes], object], data: bytes, file: str) -> None:
    with pytest.raises(BundleError, match=file) as error:
        read(data)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("model_type", value) for value in (..., None, "mobilenet", 5)),
        *(("width", value) for value in (..., None, "1", True, 0, -1, 65, 10**400, [1])),
        *(("image_size", value) for value in (..., 0, -1, 96.0, True, "96", 4097, 10**100, [96, 96])),
        *(("id2label", value) for value in (..., None, {}, [], ["cat"], {"1": "cat"}, {"0": "a", "2": "b"})),
        *(("id2label", value) for value in ({"0": 5}, {"0": None}, {"00": "a"}, {"0": "a", "01": "b"})),
        *(("id2wnid", value) for value in ([], None, {"0": 5}, "n1")),
    ],
)
def test_impossible_configurations_are_refused(key: str, value: Any) -> None:
    assert_refused(ModelConfig.from_json, changed(CONFIG.to_json(), key, value), r"config\.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((step, value) for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
          for value in (..., False, None, 1)),
        *(("resample", value) for value in (..., None, 0, 4, "2", [3])),
        *(("size", value) for value in (..., None, 256, {}, {"height": 256, "width": 256}, {"shortest_edge": 0})),
        *(("size.shortest_edge", value) for value in (63, 4097, 72.0, True, "72")),
        *(("crop_size", value) for value in (..., 64, {}, {"height": 64}, {"height": 64, "width": 65})),
        *(("crop_size.height", value) for value in (0, -64, 73)),
        *(("rescale_factor", value) for value in (..., 0, -1, "x", True, 1e10, 10**400)),
        *(("image_mean", value) for value in (..., None, [], [1, 2], [1, 2, 3, 4], ["a", 0, 0], 0.5, [1e7, 0, 0])),
        *(("image_std", value) for value in (..., [0, 1, 1], [-1, 1, 1], [True, 1, 1], [None, 1, 1], [[1], 1, 1])),
    ],
)  # fmt: skip
def test_impossible_preprocessing_is_refused(key: str, value: Any) -> None:
    data = changed(preprocessing_to_json(PREPROCESSING), key, value)
    assert_refused(preprocessing_from_json, data, r"preprocessor_config\.json")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["rescale_factor", "image_mean", "image_std", "resample"])
def test_numbers_that_are_not_finite_are_refused(key: str, value: float) -> None:
    number = [value, 1, 1] if key.startswith("image_") else value
    data = changed(preprocessing_to_json(PREPROCESSING), key, number)
    assert_refused(preprocessing_from_json, data, r"preprocessor_config\.json")
    assert_refused(ModelConfig.from_json, changed(CONFIG.to_json(), "width", value), r"config\.json")


def test_a_label_given_twice_is_not_lost_silently() -> None:
    data = CONFIG.to_json().replace(b'"1": "Ma\xc3\x9f",', b'"1": "a", "1": "b",', 1)
    assert_refused(ModelConfig.from_json, data, r"config\.json")


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    assert_refused(ModelConfig.from_json, data, r"config\.json")
    assert_refused(preprocessing_from_json, data, r"preprocessor_config\.json")


def test_more_fields_of_peers_are_tolerated() -> None:
    assert ModelConfig.from_json(changed(CONFIG.to_json(), "transformers_version", "5.0")) == CONFIG
    data = changed(preprocessing_to_json(PREPROCESSING), "new", {"a": [1]})
    assert preprocessing_from_json(data) == PREPROCESSING
