"""What the documentation shows: every block is run, or says why not; every command and option in it exists."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import re
import shutil
import tarfile
import tomllib
from pathlib import Path

import cv2
import pytest
import yaml

import ghostzoo
from ghostzoo.converter import convert
from ghostzoo.network.architecture import Architecture
from tests.docs.blocks import ROOT, Block, blocks_of, check_command, commands_of, run_block
from tests.fitting.conftest import write_picture
from tests.fixtures.networks import random_arrays, write_weights

PAGES = sorted([ROOT / "README.md", ROOT / "README.zh.md", *(ROOT / "docs").rglob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
RUN = {"console", "pycon", "python", "sh"}
SHOWN = {"cpp", "dockerfile", "js", "json", "text", "toml", "yaml"}
"""Languages of blocks that are not run here: those of files, of outputs, and of what other tests run."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: pictures, labelled pictures, weights, and GhostNet_x1_0, with random weights."""
    folder = tmp_path_factory.mktemp("reader")
    chelsea = ROOT / "examples/chelsea.png"
    face = cv2.imencode(".png", cv2.imread(str(chelsea))[20:280, 80:340])[1].tobytes()
    for name in ("photos", "more/deep", "images/cat", "images/dog", "imagenet", "examples"):
        (folder / name).mkdir(parents=True)
    for name in ("cat.jpg", "photos/cat.jpg", "images/cat/1.jpg", "imagenet/1.jpg", "examples/chelsea.png"):
        shutil.copy(chelsea, folder / name)
    for name in ("dog.jpg", "photos/face.jpg", "more/deep/face.png", "images/dog/1.jpg"):
        (folder / name).write_bytes(face)
    (folder / "imagenet/val_list.txt").write_text("1.jpg 281\n")
    for number in range(6):
        for parent, name in (("pets", "cat"), ("pets", "dog"), ("more-pets", "cat")):
            write_picture(
                folder / parent / name / f"{number}.png", "red" if name == "cat" else "blue", number + len(parent)
            )
    with tarfile.open(folder / "images.tar", "w") as tar:
        tar.add(folder / "images", "images")
    (folder / "flowers.txt").write_text("0 daisy\n1 rose\n2 tulip\n")
    weights = write_weights(folder / "GhostNet_x1_0_pretrained.pdparams", random_arrays(Architecture.of(1.0, 1000), 0))
    write_weights(folder / "flowers.pdparams", random_arrays(Architecture.of(0.5, 3), 0))
    convert(weights, folder / "models/GhostNet_x1_0", model="GhostNet_x1_0")
    return folder


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_block_runs_as_printed(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name in ("CONTRIBUTING.md", "releasing.md", "contributing.md"):
        pytest.skip("its commands make environments and releases; 'make' runs them")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GHOSTZOO_MODELS", str(folder / "models"))
    for name in ("mine", "GhostNet_x1_0"):
        shutil.rmtree(folder / name, ignore_errors=True)  # another page's
    names: dict[str, object] = {}
    with contextlib.ExitStack() as servers:
        for block in blocks_of(page):
            if block.not_run is None and block.language in RUN:
                run_block(block, folder, names, servers)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_and_option_exists(page: Path) -> None:
    blocks = blocks_of(page)
    assert {block.language for block in blocks} <= RUN | SHOWN | {""}, "a block of a language that nothing runs"
    for block in blocks:
        for words in commands_of(block):
            assert block.language, "a command in a block without a language, which nothing runs"
            check_command(words)


def test_a_wrong_option_is_noticed() -> None:
    for code in ("ghostzoo predict x --topk 3", "ghostzoo predit x", ".venv/bin/python -m exporters quantize --too x"):
        [words] = commands_of(Block("sh", code, 1, None))
        with pytest.raises(AssertionError):
            check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_extra_exists(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for found in re.findall(r"(?:ghostzoo|['\" ]\.)\[([a-z0-9,-]+)\]", page.read_text(encoding="utf-8")):
        assert set(found.split(",")) <= set(extras)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_within_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    def pages(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [page for child in (node.values() if isinstance(node, dict) else node) for page in pages(child)]  # type: ignore[attr-defined]

    navigation = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    found = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".ipynb")]
    assert sorted(navigation) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in found)


def test_every_picture_is_shown_and_they_are_small() -> None:
    pictures = [path for path in (ROOT / "docs/images").iterdir() if path.suffix not in (".py", "")]
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {path.name for path in pictures} <= set(re.findall(r"images/([\w.-]+)", text))
    assert sum(path.stat().st_size for path in pictures) < 1_500_000


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_every_public_name_is_documented() -> None:
    reference = (ROOT / "docs/reference/api.md").read_text()
    for name in ghostzoo.__all__:
        value = getattr(ghostzoo, name)
        if name == "__version__" or (inspect.isclass(value) and issubclass(value, Exception)):
            continue
        assert f"::: ghostzoo.{name}\n" in reference
        assert value.__doc__, name
        for attribute, member in vars(value).items() if inspect.isclass(value) else ():
            if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                told = inspect.getdoc(member) or attribute in getattr(value, "__annotations__", {})
                assert told, f"{name}.{attribute}"


@pytest.mark.slow
def test_the_manifest_schema_says_what_the_code_checks() -> None:
    if importlib.util.find_spec("jsonschema") is None:
        pytest.skip("jsonschema is not installed here; 'make test' runs this with it")
    import jsonschema

    from ghostzoo.bundle.manifest import Manifest
    from ghostzoo.errors import BundleError

    schema = json.loads((ROOT / "docs/schemas/ghostzoo.schema.json").read_text())
    good = json.loads((ROOT / "ghostzoo/models/GhostNet_x0_5_cifar10/ghostzoo.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    changes: list[dict[str, object]] = [
        {},
        {"format_version": 2, "multi_label": True},
        {"extra": 1},
        {"format_version": 3},
        {"format_version": 4},
        *({"format_version": 3, "calibration": given} for given in CALIBRATIONS),
        *({"format_version": 3, "calibration": CALIBRATION | change} for change in WRONG_CALIBRATIONS),
        {"format_version": 0},
        {"format_version": True},
        {"format_version": "1"},
        {"name": "a/b"},
        {"name": ""},
        *({"name": name} for name in ("Con", "con.1", "nul", "console", "a.", "a-", "x")),
        {"name": None},
        {"multi_label": "yes"},
        {"weights": []},
        {"created_by": None},
        {"validation": 1},
        *({"files": good["files"] | {path: {"sha256": "0" * 64, "size": 1}}} for path in PATHS),
        *({"files": good["files"] | {"x": record}} for record in RECORDS),
    ]
    for change in changes:
        content = good | change
        valid = jsonschema.Draft202012Validator(schema).is_valid(content)
        try:
            Manifest.from_json(json.dumps(content).encode())
        except BundleError:
            assert not valid, change
        else:
            assert valid, change


PATHS = (
    "a/b.txt",
    "../a",
    "a/../b",
    "/a",
    "a//b",
    "a/",
    "./a",
    "a\\b",
    "C:a",
    "a\nb",
    "x" * 241,
    "..a",
    ".hidden",
    "aux.md",
    "a/NUL",
    "auxiliary",
    "a.",
    "a /b",
    "a?",
    "a b",
)
CALIBRATION: dict[str, object] = {
    "temperature": 0.8, "images": 500, "coverage": {"0.95": 0.25}, "energies": [1.5, 2, 4]
}  # fmt: skip
CALIBRATIONS: tuple[object, ...] = (None, CALIBRATION)
WRONG_CALIBRATIONS: tuple[dict[str, object], ...] = (
    {"temperature": 0},
    {"temperature": True},
    {"images": 0},
    {"images": 1.5},
    {"coverage": {"1.0": 0.5}},
    {"coverage": {"0.000": 0.5}},
    {"coverage": {"0.9": 1.5}},
    {"energies": [1]},
    {"energies": [1, "2"]},
    {"energies": [1, 1e7]},
)
RECORDS: tuple[object, ...] = (
    {"sha256": "0" * 64, "size": 0},
    {"sha256": "0" * 63, "size": 0},
    {"sha256": "G" * 64, "size": 0},
    {"sha256": "0" * 64, "size": -1},
    {"sha256": "0" * 64, "size": 536870913},
    {"sha256": "0" * 64, "size": "1"},
    {"sha256": "0" * 64},
    None,
)
