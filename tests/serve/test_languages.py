"""Labels in the client's language, and groups, from a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow

CAT = (Path(__file__).parents[2] / "examples" / "chelsea.png").read_bytes()


@pytest.fixture(scope="module")
def both(tiny_bundle: Bundle) -> Iterator[ServerProcess]:
    """A server of the bundled model, whose classes have names, and of one whose classes have none."""
    with running_server("--model=GhostNet_x0_5_cifar10", f"--model={tiny_bundle.path}", "--no-grpc") as process:
        yield process


@pytest.mark.parametrize(
    ("accepted", "language", "label"),
    [
        (None, None, "cat"),
        ("*", None, "cat"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh", "猫"),
        ("zh;q=0.1, en-GB;q=0.7, de", "en", "cat"),
        ("de, fr;q=0.5", None, "cat"),
        ("zh;q=0", None, "cat"),
    ],
)
def test_labels_are_in_the_language_that_is_liked_best(
    http: requests.Session, both: ServerProcess, accepted: str | None, language: str | None, label: str
) -> None:
    headers = {"Accept-Language": accepted} if accepted else {}
    answer = http.post(f"{both.http}/v1/classify", data=CAT, headers=headers)
    best = answer.json()["images"][0]["predictions"][0]
    assert (best["label"], best["index"], best["wnid"]) == (label, 3, None)
    assert answer.headers.get("content-language") == language
    assert answer.headers["vary"] == "Accept-Language"


def test_a_model_without_names_answers_with_its_own(http: requests.Session, both: ServerProcess) -> None:
    answer = http.post(
        f"{both.http}/v1/classify", params={"model": "tiny"}, data=CAT, headers={"Accept-Language": "zh"}
    )
    assert "content-language" not in answer.headers
    assert answer.headers["vary"] == "Accept-Language"


def test_explanations_name_their_classes_too(http: requests.Session, both: ServerProcess) -> None:
    params = {"index": "cat", "against": 5}
    answer = http.post(f"{both.http}/v1/explain", params=params, data=CAT, headers={"Accept-Language": "zh"})
    assert (answer.json()["label"], answer.json()["against_label"]) == ("猫", "狗")
    assert answer.headers["content-language"] == "zh"


def test_groups_are_added_up(http: requests.Session, both: ServerProcess) -> None:
    url, headers = f"{both.http}/v1/classify", {"Accept-Language": "zh"}
    answer = http.post(url, params={"group": "animal,vehicle"}, data=CAT, headers=headers)
    animal, vehicle = answer.json()["images"][0]["predictions"]
    assert (animal["label"], animal["index"], animal["wnid"]) == ("动物", 3, "n00015388")
    assert animal["best"]["label"] == "猫"
    assert animal["score"] + vehicle["score"] == pytest.approx(1, abs=2e-5)
    answer = http.post(url, files={"files": CAT}, data={"group": "vehicle", "top_k": "1"})
    assert answer.json()["images"][0]["predictions"][0]["label"] == "cat"


@pytest.mark.parametrize(
    ("model", "group", "reason"),
    [
        ("tiny", "dog", "in WordNet"),
        ("GhostNet_x0_5_cifar10", "dgo", "mean dog"),
        ("tiny", "x" * 2001, "group"),
    ],
)
def test_a_wrong_group_is_one_sentence(
    http: requests.Session, both: ServerProcess, model: str, group: str, reason: str
) -> None:
    answer = http.post(f"{both.http}/v1/classify", params={"model": model, "group": group}, data=CAT)
    assert (answer.status_code, reason in answer.json()["error"]) == (400, True), answer.text


def test_the_document_tells_of_both(http: requests.Session, both: ServerProcess) -> None:
    document = http.get(f"{both.http}/openapi.json").json()
    for path in ("/v1/classify", "/v1/explain"):
        operation = document["paths"][path]["post"]
        assert "Accept-Language" in [each["name"] for each in operation["parameters"]]
        assert set(operation["responses"]["200"]["headers"]) == {"Content-Language", "Vary"}
    assert "group" in document["components"]["schemas"]["ClassifyRequest"]["properties"]
