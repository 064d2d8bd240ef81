"""``list``, ``info`` and the model card say the same of a model, in words for people."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ghostzoo.bundle.card import phrase, replace_precisions
from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import DEFAULT_MODEL, get_model, list_models
from ghostzoo.cli import main
from ghostzoo.cli.cards import bundle_card
from ghostzoo.fetch.resolver import fetch
from tests.fixtures.terminal import run_on_terminal

ROOT = Path(__file__).parents[2]


def shown(*arguments: object) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", list_models())
def test_list_and_info_count_alike_with_the_published_beside(name: str) -> None:
    record = get_model(name)
    ours = f"{record.parameters / 1e6:.2f}", f"{record.multiply_adds / 1e6:.1f}"
    (row,) = (line for line in shown("list").splitlines() if line.startswith(f"{name} "))
    card = shown("info", name)
    assert f"{ours[0]} M without" in card
    assert f"{ours[1]} M in" in card
    assert re.search(rf" {ours[0]} +{ours[1]} .* {record.license}$", row)
    assert re.search(rf"\nlicence +{record.license}\n", card)
    if record.published is not None and record.published.parameters_millions is not None:
        assert f"(published: {record.published.parameters_millions} M, " in card
        assert f"(published: {record.published.multiply_adds_millions} M, " in card


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("GhostNet_x0_5", "2.6 46.15 .6688 .8695 .6620 .8660 5.28 3.95 3.29 1.66 2.24 2.73 10"),
        ("GhostNet_x1_0", "5.21 148.78 .7402 .9165 .7390 .9140 12.89 8.66 6.72 1.69 2.73 3.81 20"),
        ("GhostNet_x1_3", "7.38 236.89 .7579 .9254 .7570 .9270 19.16 12.25 9.4 1.84 2.88 3.94 29"),
        ("GhostNet_x1_3_ssld", "7.38 236.89 .7938 .9449 .7570 .9270 19.16 17.85 10.18 1.85 3.17 4.29 29"),
    ],
)
def test_info_shows_what_paddleclas_and_the_paper_publish(name: str, figures: str) -> None:
    card = shown("info", name)
    forms = [
        r"published: {} M, with them",
        r"published: {} M, with batch",
        r"top-1 0{}, ",
        r"top-5 0{} on ImageNet-1k, pub",
    ]
    forms += [
        r"paper +top-1 0{}, ",
        r"top-5 0{}\n",
        r"855 +{} ms with 1 thread, ",
        r"{} with 2, ",
        r"{} with 4; published",
    ]
    forms += [r"V100 +{} ms for 1 image, ", r"{} for 4, ", r"{} for 8, by TensorRT", r"size +{} MB"]
    for form, figure in zip(forms, figures.split(), strict=True):
        assert re.search(rf"(?<![\d.]){form.format(re.escape(figure))}", card), form


def test_a_bundle_and_its_model_card_count_alike(tiny_bundle: Bundle) -> None:
    rows = dict(bundle_card(tiny_bundle)[1])
    card = tiny_bundle.read("README.md").decode()
    for label in ("parameters", "multiply-adds"):
        assert f"| {label} | {rows[label]} |" in card


@pytest.mark.parametrize("name", [*list_models(), "a bundle"])
def test_info_has_no_internal_words(name: str, tiny_bundle: Bundle) -> None:
    card = shown("info", tiny_bundle.path if name == "a bundle" else name)
    words = card.replace(str(tiny_bundle.path), "")
    assert not re.search(r"None|True|False|\b\w+_(millions|mb|ms|top1|url|check|classes|source)\b|\w\.\w+_\w", words)
    assert all(line == line.rstrip() for line in card.splitlines())


def test_photographs_stand_beside_the_small_pictures() -> None:
    measured = get_model(DEFAULT_MODEL).measured
    assert measured is not None
    assert "26 of 40" in measured.photographs
    folder = fetch(DEFAULT_MODEL).path
    for text in (
        shown("list"),
        shown("info", DEFAULT_MODEL),
        shown("info", folder),
        (folder / "README.md").read_text(),
    ):
        assert f"{measured.top1:.4f}" in text
        assert measured.photographs in text
    assert measured.photographs in (ROOT / "README.md").read_text().replace("\n", " ")


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_info_breaks_no_address_on_a_terminal(columns: int) -> None:
    record = get_model("GhostNet_x1_0")
    text, _ = run_on_terminal(["-m", "ghostzoo", "info", record.name], columns)
    assert max(map(len, text.splitlines())) <= columns
    assert f"  {record.weights_url}archive" in text.replace("\n", "")


def test_a_strange_report_is_shown_all_the_same(tiny_bundle: Bundle) -> None:
    deep: object = 1
    for _ in range(500):
        deep = {"a": [deep]}
    report = {"deep": deep, "golden_check": {"max_difference": "x", "scale": None, "top5_equal": 0}, "n": float("nan")}
    manifest = replace(tiny_bundle.manifest, validation=report, weights={"source_url": ["x"]}, created_by={})
    rows = dict(bundle_card(replace(tiny_bundle, manifest=manifest))[1])
    assert rows["deep"] == "a a ..."
    assert rows["golden check"] == "max difference x; scale None; top-5 equal 0"


def test_a_card_tells_of_its_precisions_once() -> None:
    unseen = {"images": 12, "same_top1": 0.75}
    facts = {"size_ratio": 0.5, "unseen_images": unseen, "description": "half the bits"}
    card = replace_precisions("# a\n\n## Use\n", {"fp16": facts})
    assert card.startswith("# a\n\n## Use\n\n")
    assert "| `fp16` | 0.500 | 0.7500 | - | - | 12 | half the bits |" in card
    labelled = {"images": 5, "same_top1": 1.0, "top1": 0.8, "float32_top1": 0.6}
    again = replace_precisions(f"{card}\n## Licence\n", {"int8": facts | {"labelled_images": labelled}})
    assert "| `int8` | 0.500 | 1.0000 | 0.8000 | 0.6000 | 5 | half the bits |" in again
    assert "fp16` |" not in again
    assert [line for line in again.splitlines() if line.startswith("## ")] == [
        "## Use", "## Smaller graphs", "## Licence"
    ]  # fmt: skip


def test_phrases() -> None:
    agreement = {"max_difference": 2e-5, "scale": 10.0, "top5_equal": True}
    assert phrase(agreement) == "within 2.0e-06 of their scale"
    assert phrase({**agreement, "top5_equal": False, "worst_image": "a.jpg"}) == (
        "within 2.0e-06 of their scale; top-5 equal no; worst image a.jpg"
    )
    assert phrase({"logits": agreement, "tries": [1, 0.5]}) == "logits within 2.0e-06 of their scale; tries 1, 0.5"
    assert phrase({"max_difference": 0.0, "scale": 0.0}) == "max difference 0; scale 0"  # such a file is data


def test_machines_read_the_keys_that_they_know() -> None:
    records = [json.loads(line) for line in shown("list", "--json").splitlines()]
    assert [record["name"] for record in records] == list_models()
    for record in records:
        figures = record["published"] or record["measured"]
        assert {"top1", "top5", "parameters_millions", "multiply_adds_millions", "storage_mb"} <= figures.keys()
        assert {"width", "num_classes", "labels", "preprocessing", "weights_url", "archive_url"} <= record.keys()
