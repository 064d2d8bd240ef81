"""The order in which a name is looked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import DEFAULT_MODEL
from ghostzoo.fetch.options import FetchOptions
from ghostzoo.fetch.resolver import fetch
from ghostzoo.fetch.store import Store

OFFLINE = FetchOptions(offline=True)


@pytest.fixture
def models(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of ``GHOSTZOO_MODELS``, the second of two, with one bundle under two names."""
    folder = tmp_path / "models"
    for name in ("flowers", "GhostNet_x1_0"):
        shutil.copytree(tiny_bundle.path, folder / name)
    monkeypatch.setenv("GHOSTZOO_MODELS", os.pathsep.join([str(tmp_path / "absent"), str(folder)]))
    return folder


def test_a_folder_goes_before_everything(
    models: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "here" / DEFAULT_MODEL)
    monkeypatch.chdir(tmp_path / "here")
    assert fetch(DEFAULT_MODEL).origin == "folder"
    assert fetch(tmp_path / "here" / DEFAULT_MODEL).origin == "folder"
    assert fetch().origin == "embedded"


def test_a_folder_with_the_name_of_a_model_is_told_of(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / DEFAULT_MODEL)
    monkeypatch.chdir(tmp_path)
    assert fetch(DEFAULT_MODEL).origin == "folder"
    (record,) = caplog.records
    assert f"./{DEFAULT_MODEL}" in record.message
    assert f"zoo://{DEFAULT_MODEL}" in record.message
    caplog.clear()
    assert fetch(f"./{DEFAULT_MODEL}").origin == "folder"
    assert fetch(f"zoo://{DEFAULT_MODEL}").origin == "embedded"
    assert caplog.records == []
    with pytest.raises(ghostzoo.UnknownModelError, match="GhostNet_x1_0"):
        fetch("zoo://GhostNet_x1_O")


def test_the_embedded_model_goes_before_the_folders_of_models(models: Path, tiny_bundle: Bundle) -> None:
    shutil.copytree(tiny_bundle.path, models / DEFAULT_MODEL)
    assert fetch(DEFAULT_MODEL).origin == "embedded"


def test_folders_of_models_hold_names_of_the_catalog_and_others(models: Path) -> None:
    for name in ("flowers", "GhostNet_x1_0"):
        bundle = fetch(name, OFFLINE)
        assert (bundle.origin, bundle.path) == ("models folder", models / name)
    with ghostzoo.load("flowers", offline=True) as clf:
        assert clf.bundle.origin == "models folder"


def test_folders_of_models_go_before_the_cache(
    models: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FetchOptions(cache_dir=tmp_path / "cache", offline=True)
    shutil.copytree(tiny_bundle.path, Store(tmp_path / "cache").official_path("GhostNet_x1_0"))
    assert fetch("GhostNet_x1_0", options).origin == "models folder"
    monkeypatch.delenv("GHOSTZOO_MODELS")
    assert fetch("GhostNet_x1_0", options).origin == "cache"


def test_a_damaged_bundle_in_a_folder_of_models_is_refused(models: Path) -> None:
    (models / "flowers" / "config.json").write_text("{}")
    with pytest.raises(ghostzoo.BundleError, match=r"config\.json"):
        fetch("flowers")


def test_a_missing_model_is_told_with_every_place_in_order(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ghostzoo.FetchError) as caught:
        fetch("GhostNet_x0_5", FetchOptions(cache_dir=tmp_path / "cache", offline=True))
    message = str(caught.value)
    words = ["Official weights", "ghostzoo pull GhostNet_x0_5", "absent", "models", "(3) cache", "(4) Hub"]
    assert [message.index(word) for word in words] == sorted(message.index(word) for word in words)


@pytest.mark.parametrize("value", ["1", "on", "YES", " True ", "0", "off", "", "no"])
def test_being_offline_means_what_it_means_to_the_hubs_client(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    options = FetchOptions()
    assert options.is_offline == (value.strip().upper() in constants.ENV_VARS_TRUE_VALUES)
    assert FetchOptions(offline=not options.is_offline).is_offline != options.is_offline


def test_an_unknown_name_suggests_known_ones() -> None:
    with pytest.raises(ghostzoo.UnknownModelError, match="GhostNet_x1_0"):
        fetch("GhostNet_x1_O")


@pytest.mark.parametrize("name", ["", " \t"])
def test_an_empty_name_is_called_so(name: str) -> None:
    with pytest.raises(ghostzoo.OptionError, match="The model's name is empty; 'ghostzoo list' shows names"):
        fetch(name)
