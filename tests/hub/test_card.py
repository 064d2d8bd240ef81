"""The full card: metadata that the Hub accepts, sections in their places, and code that does what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard

import ghostzoo
from ghostzoo.bench.machine import describe_machine
from ghostzoo.bench.results import Cell, Measurement, ModelFacts, Results, Timing
from ghostzoo.bundle.card import replace_precisions
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import CARD_FILE, Bundle
from ghostzoo.catalog import MODEL_PAGE, get_model
from ghostzoo.errors import InputError, OptionError
from ghostzoo.images.decode import read_image
from ghostzoo.images.transform import preprocess
from hub.card import CardFacts, write_full_card
from hub.cli import main
from hub.publish import Target, publish, with_full_card
from hub.reports import read_evaluations, read_speeds
from tests.fixtures.engines import require_engine
from tests.fixtures.hub import LoopbackHub
from tests.fixtures.hub_metadata import check_card
from tests.fixtures.pictures import encoded, picture
from tests.hub.conftest import ROOT

pytestmark = pytest.mark.slow

REPORT = {
    "model": "GhostNet_x1_0",
    "data": "val_list.txt",
    "images": 5000,
    "top1": {"value": 0.7391},
    "top5": {"value": 0.9142},
}


def official(tiny: Bundle, out: Path, name: str = "GhostNet_x1_0") -> Bundle:
    """A bundle that says of itself to hold the official weights of ``name``."""
    url = get_model(name).weights_url
    weights = {**tiny.manifest.weights, **({"source_url": url} if url else {})}
    contents = {file: tiny.read(file) for file in tiny.manifest.files}
    return write_bundle(out, name=name, contents=contents, weights=weights, created_by={}, validation={})


def known(bundle: Bundle, **facts: Any) -> CardFacts:
    """Facts of somebody who knows that the bundle's weights are those that the catalog's figures are of."""
    return CardFacts(known_weights={bundle.manifest.weights["sha256"]}, **facts)


def metadata(card: str) -> dict[str, Any]:
    assert check_card(card) == []
    return ModelCard(card).data.to_dict()


def headings(card: str) -> list[str]:
    return re.findall(r"(?m)^## (.*)$", card)


def test_the_metadata_of_an_official_model(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = official(tiny_bundle, tmp_path / "b")
    card = write_full_card(bundle, "zoo/GhostNet_x1_0", known(bundle))
    data = metadata(card)
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "ghostzoo",
        "image-classification",
        "apache-2.0",
    )
    assert (data["datasets"], data["metrics"]) == (["imagenet-1k"], ["accuracy"])
    assert {"onnx", "ghostnet", "arxiv:1911.11907"} <= set(data["tags"])
    [model] = data["model-index"]
    [result] = model["results"]
    assert result["source"] == {"name": "PaddleClas", "url": MODEL_PAGE}
    assert [metric["value"] for metric in result["metrics"]] == [0.7402, 0.9165]


def test_published_and_measured_figures_stand_apart(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = official(tiny_bundle, tmp_path / "b")
    card = write_full_card(bundle, "zoo/GhostNet_x1_0", known(bundle, evaluations={"GhostNet_x1_0": REPORT}))
    text = card.split("---\n")[1]
    assert check_card(card) == []
    [published, measured] = re.split(r"\n  - task:", text.partition("results:")[2].replace("\n  -", "\n  -", 1))[1:]
    assert "published by PaddleClas" in published
    assert "0.7402" in published
    assert "source" in published
    assert "measured" not in published
    assert "measured by ghostzoo" in measured
    assert "0.7391" in measured
    assert "source" not in measured
    assert "published" not in measured
    assert "| measured by ghostzoo | 0.7391 | 0.9142 | val_list.txt, 5,000 images |" in card
    assert "imagenet" not in measured  # nobody says that these images are ImageNet's
    assert f"| [published by PaddleClas]({MODEL_PAGE}) | 0.7402 | 0.9165 |" in card


def test_the_embedded_model_has_its_measured_figures() -> None:
    with ghostzoo.load() as classifier:
        bundle = Bundle.open(classifier.bundle.path)
    card = write_full_card(bundle, f"zoo/{bundle.name}", known(bundle))
    data = metadata(card)
    assert data["datasets"] == ["cifar10"]
    measured = get_model(bundle.name).measured
    assert f"5,000 images |\n\nIt recognised {measured.photographs}." in card
    for result in data["model-index"][0]["results"]:
        assert result["dataset"]["name"].endswith(f"measured by ghostzoo; {measured.photographs}")
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == measured.top1
    assert "## Training" in card
    assert "10 classes (airplane, " in card


@pytest.mark.parametrize("name", ["GhostNet_x1_0", "GhostNet_x0_5_cifar10"])
def test_unknown_weights_get_no_figures_of_the_catalog(tiny_bundle: Bundle, tmp_path: Path, name: str) -> None:
    """Whatever a bundle says of itself, as one has that was converted with --model of any weights that fit."""
    bundle = official(tiny_bundle, tmp_path / "b", name)
    for facts in (CardFacts(), CardFacts(known_weights={"0" * 64})):
        card = write_full_card(bundle, f"zoo/{name}", facts)
        assert not {"model-index", "metrics"} & metadata(card).keys()
        assert "None is stated" in card
        assert not any(
            f"{figure:.4f}" in card for figure in (get_model(name).figures.top1, get_model(name).figures.top5)
        )
    measured = write_full_card(bundle, f"zoo/{name}", CardFacts(evaluations={name: REPORT}))
    [result] = metadata(measured)["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.7391
    assert "None is stated" not in measured


def test_the_published_weights_are_known_by_their_download(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))
    record, bundle = get_model("GhostNet_x1_0"), official(tiny_bundle, tmp_path / "b")
    note = tmp_path / "cache" / "models" / "official" / record.name / "first-download.json"
    note.parent.mkdir(parents=True)
    fact = {"url": record.weights_url, "sha256": bundle.manifest.weights["sha256"], "date": "2026-01-01", "size": 1}
    for change, is_known in (({}, True), ({"url": "http://mirror.example"}, False), ({"sha256": "0" * 64}, False)):
        note.write_text(json.dumps({**fact, **change}))
        done = CliRunner().invoke(main, ["card", str(bundle.path), "--namespace", "zoo"])
        assert ("0.7402" in done.stdout) == is_known
        assert ("are not known to be the published ones" in done.stderr) != is_known


def test_weights_of_somebody_else(tiny_bundle: Bundle, tmp_path: Path) -> None:
    data = metadata(write_full_card(tiny_bundle, "me/tiny", CardFacts()))
    assert not {"license", "datasets", "model-index"} & data.keys()
    assert metadata(write_full_card(tiny_bundle, "me/tiny", CardFacts(license="mit")))["license"] == "mit"
    with pytest.raises(OptionError, match="apache-2"):
        write_full_card(official(tiny_bundle, tmp_path / "b"), "me/tiny", CardFacts(license="mit"))
    # A bundle that only has the name of a catalog model gets none of its figures.
    files = {file: tiny_bundle.read(file) for file in tiny_bundle.manifest.files}
    weights = tiny_bundle.manifest.weights
    alike = write_bundle(
        tmp_path / "a", name="GhostNet_x1_3", contents=files, weights=weights, created_by={}, validation={}
    )
    assert "0.7579" not in write_full_card(alike, "me/GhostNet_x1_3", CardFacts())


def test_a_multi_label_model_is_described_as_one(multi_label_bundle: Bundle, tmp_path: Path) -> None:
    report = {"model": "tiny", "images": 50, "mean_average_precision": 0.7, "micro_f1": 0.6, "threshold": 0.4}
    (tmp_path / "report.json").write_text(json.dumps(report))
    evaluations = read_evaluations([tmp_path / "report.json"])
    card = write_full_card(multi_label_bundle, "me/tiny", CardFacts(evaluations=evaluations))
    assert "model-index" not in metadata(card)
    assert "any number of them" in card
    assert "| measured by ghostzoo | 0.7000 | 0.6000 | Labelled images, 50 images |" in card
    assert "sigmoid of its logit" in card
    assert "1 / (1 + Math.exp(-logit))" in card
    assert not re.search(r"softmax|\$|pipeline\(", card)


def test_sections_keep_their_order_when_written_twice(tiny_bundle: Bundle, tmp_path: Path) -> None:
    contents = {file: tiny_bundle.read(file) for file in tiny_bundle.manifest.files}
    figures = {"images": 9, "same_top1": 1.0}
    facts = {"fp16": {"size_ratio": 0.5, "unseen_images": figures, "description": "float16"}}
    notes = "\n## Training\n\n```sh\n## no heading\npython -m exporters train\n```\n"
    contents[CARD_FILE] = replace_precisions(contents[CARD_FILE].decode() + notes, facts).encode()
    weights = tiny_bundle.manifest.weights
    bundle = write_bundle(tmp_path / "a", name="tiny", contents=contents, weights=weights, created_by={}, validation={})
    once = with_full_card(bundle, "zoo/tiny", CardFacts(), tmp_path / "once")
    card = once.read(CARD_FILE).decode()
    sections = ["Intended use and limits", "Use", "Validation", "Training", "Smaller graphs", "Citation"]
    assert headings(card.replace("## no heading", "")) == sections
    assert "```sh\n## no heading\n" in card
    assert card.count("<!-- precisions -->") == card.count("<!-- /precisions -->") == 1
    twice = with_full_card(once, "zoo/tiny", CardFacts(), tmp_path / "twice")
    assert {file.name: file.read_bytes() for file in twice.path.rglob("*") if file.is_file()} == {
        file.name: file.read_bytes() for file in once.path.rglob("*") if file.is_file()
    }


def test_the_command(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = official(tiny_bundle, tmp_path / "b")
    (tmp_path / "report.json").write_text(json.dumps(REPORT))

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hub", "card", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run(bundle.path, "--namespace", "zoo", "--evaluation", tmp_path / "report.json")
    assert done.returncode == 0
    assert "'ghostzoo pull GhostNet_x1_0' downloads these" in done.stderr
    facts = CardFacts(evaluations={"GhostNet_x1_0": REPORT})
    assert done.stdout == write_full_card(bundle, "zoo/GhostNet_x1_0", facts)
    run(bundle.path, "--namespace", "zoo", "--out", tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text() == write_full_card(bundle, "zoo/GhostNet_x1_0", CardFacts())
    for content, error in (('{"model": "other", ', "no JSON"), ("{}", "not the report"), (None, "cannot be read")):
        path = tmp_path / "wrong.json"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        wrong = run(bundle.path, "--namespace", "zoo", "--evaluation", path)
        assert wrong.returncode == 1
        assert error in wrong.stderr


def bench_results(*models: str) -> Results:
    timing = Timing.of([0.01, 0.012, 0.011])
    return Results(
        machine=describe_machine(),
        models=tuple(ModelFacts(model, None, {"fp32": 10**7}, None, {}, {}) for model in models),
        measurements=tuple(
            Measurement(Cell(model, "onnxruntime", "fp32", 1, 1), timing, timing, 0.5, 10**8) for model in models
        ),
        left_out=(),
    )


def test_reports_go_to_the_model_that_they_are_of(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "eval.json").write_text(json.dumps({**REPORT, "model": "other"}))
    (tmp_path / "bench.json").write_bytes(bench_results("tiny", "other").to_json())
    speeds = read_speeds([tmp_path / "bench.json"])
    card = write_full_card(tiny_bundle, "zoo/tiny", CardFacts(speeds=speeds))
    assert headings(card)[-2:] == ["Speed", "Citation"]
    assert re.search(r"(?m)^\| tiny \| onnxruntime \| fp32 \| 1 \| 11\.", card)
    assert "other" not in card.partition("## Speed")[2]
    with pytest.raises(InputError, match="second measurement of tiny"):
        read_speeds([tmp_path / "bench.json"] * 2)
    runner = CliRunner()
    arguments = ["card", str(tiny_bundle.path), "--namespace", "zoo"]
    assert runner.invoke(main, [*arguments, "--speed", str(tmp_path / "bench.json")]).stdout == card
    (tmp_path / "bench.json").write_bytes(bench_results("other").to_json())
    for option, name in (("--speed", "bench.json"), ("--evaluation", "eval.json")):
        wrong = runner.invoke(main, [*arguments, option, str(tmp_path / name)])
        assert wrong.exit_code == 1
        assert "on other, which is none of these models" in wrong.stderr


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", card)


@pytest.fixture
def published(hub: LoopbackHub, target: Target, bundle: Bundle, tmp_path: Path) -> str:
    """The card of a published model; ``photo.jpg`` lies in a folder ``work`` beside."""
    publish(bundle.path, replace(target, tag="v1.0"), CardFacts())
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "photo.jpg").write_bytes(encoded(picture(120, 90), "JPEG", quality=95))
    repository = hub.repositories["zoo/tiny"]
    return repository.commits[repository.head].files[CARD_FILE].content.decode()


def test_all_code_has_a_language(published: str) -> None:
    languages = re.findall(r"(?m)^```(\w*)$", published)[::2]
    assert set(languages) == {"sh", "python", "js", "bibtex"}  # all but the last are run, here and in its neighbours


@pytest.mark.parametrize("bundle", ["bilinear", "bicubic"], indirect=True)
def test_its_shell_and_python_code_runs(
    published: str, bundle: Bundle, environment: dict[str, str], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    expected = ghostzoo.load(bundle.path).logits([work / "photo.jpg"])
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    for code in blocks(published, "sh"):
        command = [shutil.which("sh") or "sh", "-ec", code]
        shown = subprocess.run(command, cwd=work, env=environment | {"PATH": path}, capture_output=True, check=True)
        assert bundle.labels[int(expected.argmax())].label in shown.stdout.decode()
    require_engine("openvino")
    environment = environment | {"CI": "true"}  # on which OpenVINO sends no usage report
    runtime, onnxruntime, openvino, _ = blocks(published, "python")  # the last: test_optimum.py
    script = "\n".join((runtime, onnxruntime, "exact = logits", openvino)) + (
        "\nnp.savez('out.npz', pixel_values=pixel_values, onnxruntime=exact, openvino=logits)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=work, env=environment, capture_output=True, text=True, check=True
    )
    best = bundle.labels[int(expected.argmax())].label
    assert done.stdout.count(f"{best} ") == 3
    with np.load(work / "out.npz") as out:
        pixels = preprocess(read_image(work / "photo.jpg"), bundle.preprocessing)
        assert out["pixel_values"].tobytes() == pixels[None].tobytes()
        for engine in ("onnxruntime", "openvino"):
            np.testing.assert_allclose(out[engine], expected, rtol=1e-4, atol=1e-5)
