"""What a user who installs the wheel gets, and what not."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from ghostzoo import __version__, list_models

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    for name in ("build", "hatchling"):
        pytest.importorskip(name, reason=f"{name}, which makes the wheel, is not installed here")
    folder = tmp_path_factory.mktemp("wheel")
    result = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    assert path.name == f"ghostzoo-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return Parser().parsestr(wheel.read(f"ghostzoo-{__version__}.dist-info/METADATA").decode())


def test_the_package_is_in_it_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "ghostzoo"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout, so which files belong to the package is not known")
    expected = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    # 'make web' fetches and builds these parts of the package; git does not hold them.
    page = ROOT / "ghostzoo/serve/page"
    expected |= {
        path.relative_to(ROOT).as_posix() for folder in ("ghostzoo", "vendor") for path in (page / folder).glob("*")
    }
    names = {name for name in wheel.namelist() if not name.startswith(f"ghostzoo-{__version__}.dist-info/")}
    assert names == expected


def test_data_types_and_licence_come_along(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "ghostzoo/py.typed" in names
    labels = wheel.read("ghostzoo/data/imagenet1k.tsv").decode()
    assert sum(not line.startswith("#") for line in labels.splitlines()) >= 1000
    licence = wheel.read(f"ghostzoo-{__version__}.dist-info/licenses/LICENSE").decode()
    assert licence == (ROOT / "LICENSE").read_text(encoding="utf-8")
    notices = wheel.read(f"ghostzoo-{__version__}.dist-info/licenses/ghostzoo/data/NOTICES.txt").decode()
    tables = {name.removeprefix("ghostzoo/data/") for name in names if name.endswith(".tsv")}
    assert all(name in notices for name in tables)
    assert all(text in notices for text in ("MIT License", "WordNet 3.0 Copyright 2006 by Princeton University"))
    assert not any(name.endswith((".pyc", ".onnx.tmp", ".pdparams")) for name in names)


def test_the_embedded_model_is_small(wheel: zipfile.ZipFile) -> None:
    embedded = [entry for entry in wheel.infolist() if entry.filename.startswith("ghostzoo/models/")]
    assert any(entry.filename.endswith("onnx/model.onnx") for entry in embedded)
    assert sum(entry.compress_size for entry in embedded) < 6_000_000


def test_the_wheel_works_by_itself(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import ghostzoo; assert ghostzoo.__file__.startswith(__import__('os').getcwd()), ghostzoo.__file__;"
        "from ghostzoo.labels import imagenet_labels; print(len(imagenet_labels()), *ghostzoo.list_models())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1000", *list_models()]
    result = subprocess.run(
        [sys.executable, "-m", "ghostzoo", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert __version__ in result.stdout


def test_the_command_is_there(wheel: zipfile.ZipFile) -> None:
    entry_points = wheel.read(f"ghostzoo-{__version__}.dist-info/entry_points.txt").decode().split("\n")
    assert [line.strip() for line in entry_points if line.strip()] == [
        "[console_scripts]",
        "ghostzoo = ghostzoo.__main__:main",
    ]


def test_the_metadata_say_what_is_needed(metadata: Message) -> None:
    assert metadata["Name"] == "ghostzoo"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"export", "train", "serve", "plots"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_users_get_no_old_onnx_and_no_framework(metadata: Message) -> None:
    required = [line.replace(" ", "").lower() for line in metadata.get_all("Requires-Dist", [])]
    base = [line for line in required if "extra==" not in line]
    assert {line for line in base if line.startswith("onnx>")} == {"onnx>=1.16.1"}
    assert not [line for line in base if "<" in line or "==" in line], "a pin of ours is every user's conflict"
    assert not [line for line in base if line.startswith(("paddle", "torch", "pillow", "openvino", "matplotlib"))]
    assert any(line.startswith("paddle2onnx==") and "extra=='export'" in line for line in required)


# Not installed everywhere, and not named as their modules are.
DISTRIBUTIONS = {"cuda": "cuda-bindings", "faiss": "faiss-cpu", "paddle": "paddlepaddle", "pydantic_core": "pydantic"}


def imported_modules() -> set[str]:
    """Top-level names of all modules that the package imports anywhere."""
    modules = set()
    for path in (ROOT / "ghostzoo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules.add(node.module)
    return {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"ghostzoo"}


def test_the_conda_recipe_asks_for_the_same() -> None:
    recipe = yaml.safe_load((ROOT / "docs/conda/recipe.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    renamed = {"huggingface-hub": "huggingface_hub", "opencv-python-headless": "py-opencv"}
    wanted = {f"python {project['requires-python']}"}
    for line in project["dependencies"]:
        name, bound = line.split(">=")
        wanted.add(f"{renamed.get(name, name)} >={bound}")
    assert set(recipe["requirements"]["run"]) == wanted
    assert recipe["context"]["version"] == __version__


def test_every_library_that_the_package_imports_is_required(metadata: Message) -> None:
    required = {re.split(r"[^\w.-]", line)[0].lower() for line in metadata.get_all("Requires-Dist", [])}
    distributions = packages_distributions()
    modules = imported_modules()
    assert {"numpy", "cv2", "onnxruntime", "click"} <= modules
    for module in modules:
        bringing = [DISTRIBUTIONS.get(module, module), *distributions.get(module, [])]
        names = {name.lower().replace("_", "-") for name in bringing}
        assert names & required, f"{module} is imported, but nothing that brings it is required"
