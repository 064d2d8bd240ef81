from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from exporters.embed import embed_run
from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import CatalogModel, MeasuredFigures
from ghostzoo.errors import GhostZooError, InputError
from ghostzoo.parity import EXACT_TOLERANCE

pytestmark = pytest.mark.slow


@pytest.fixture
def record(finished: Path) -> CatalogModel:
    """What a catalog would say of the run's network."""
    return CatalogModel(
        name="shapes",
        width=0.1,
        measured=MeasuredFigures(
            top1=0.8125,
            top5=1.0,
            parameters_millions=0.1,
            multiply_adds_millions=0.5,
            storage_mb=1,
            data="other shapes",
            images=48,
        ),
        num_classes=3,
        preprocessing=Bundle.open(finished / "bundle").preprocessing,
        license="cc0-1.0",
        limits="It knows shapes only.",
        embedded=True,
    )


def test_a_run_becomes_a_bundle_with_the_catalogs_figures(finished: Path, record: CatalogModel, tmp_path: Path) -> None:
    bundle = embed_run(finished, tmp_path / "models", tmp_path, record)
    assert bundle.path == tmp_path / "models" / "shapes"
    assert bundle.golden().pixel_values.shape[0] == 4
    assert bundle.manifest.validation["golden_check"]["logits"]["max_difference"] < EXACT_TOLERANCE * 100
    assert bundle.manifest.validation["measured"]["top1"] == 0.8125
    assert "torch" in bundle.manifest.created_by
    card = bundle.read("README.md").decode()
    for part in (
        "license: cc0-1.0",
        "Top-1 0.8125",
        "48 images",
        "It knows shapes only.",
        "-m exporters train --width",
    ):
        assert part in card
    assert "<None>" not in card
    kept = tmp_path / "shapes.pdparams"
    assert kept.read_bytes() == (finished / "weights.pdparams").read_bytes()
    assert bundle.manifest.weights["file_name"] == kept.name


def test_card_describes_the_earlier_runs(finished: Path, record: CatalogModel, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(finished, first)
    facts = json.loads((first / "run.json").read_text())
    facts["command"] = "the first command"
    (first / "run.json").write_text(json.dumps(facts))
    card = embed_run(finished, tmp_path / "models", tmp_path, record, earlier=[first]).read("README.md").decode()
    assert (
        card.index("one after the other") < card.index("the first command") < card.index("-m exporters train --width")
    )
    (first / "run.json").unlink()
    with pytest.raises(InputError, match="first lacks"):
        embed_run(finished, tmp_path / "models", tmp_path, record, earlier=[first])


def test_what_does_not_belong_together_is_refused(finished: Path, record: CatalogModel, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    with pytest.raises(InputError, match="pixels"):
        embed_run(run, tmp_path, tmp_path, CatalogModel("shapes", 0.1, num_classes=3))
    with pytest.raises(GhostZooError, match="width"):
        embed_run(run, tmp_path, tmp_path, replace(record, width=0.5))
    (run / "run.json").unlink()
    with pytest.raises(InputError, match=r"lacks run\.json"):
        embed_run(run, tmp_path, tmp_path, record)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
