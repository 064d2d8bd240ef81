"""The installed library as others use it: by CMake, by pkg-config, from C and from C++, as the documents show it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "native/build"
BUNDLED = ROOT / "ghostzoo/models/GhostNet_x0_5_cifar10"
CHELSEA = ROOT / "examples/chelsea.png"
BLOCKS = re.findall(r"^```(c|cpp)\n(.*?)^```", (ROOT / "native/README.md").read_text(encoding="utf-8"), re.M | re.S)


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (BUILD / "CMakeCache.txt").exists() or not shutil.which("cmake"):
        pytest.skip(f"{BUILD} is not built, or cmake is not in PATH; 'make native' builds it")
    folder = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", BUILD, "--prefix", folder)
    return folder


@pytest.fixture(scope="module")
def library(prefix: Path) -> Path:
    found = sorted(prefix.glob("lib*/**/libghostzoo.so"))
    if not found:
        pytest.skip(f"{prefix} has no libghostzoo.so: the build is static, or for another system than Linux")
    return found[0]


def test_a_project_finds_the_installed_package(prefix: Path, tmp_path: Path) -> None:
    run("cmake", "-S", ROOT / "native/examples/classify", "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path)
    assert "cat" in run(tmp_path / "classify", BUNDLED, CHELSEA).splitlines()[0]


@pytest.mark.parametrize(("language", "source"), BLOCKS, ids=[language for language, _ in BLOCKS])
def test_snippets_of_the_readme_run(
    library: Path, tmp_path: Path, language: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [name for name, _ in BLOCKS] == ["cpp", "c"]
    compiler = {"cpp": ["c++", "-std=c++17"], "c": ["cc", "-std=c99"]}[language]
    if not shutil.which(compiler[0]) or not shutil.which("pkg-config"):
        pytest.skip(f"{compiler[0]} or pkg-config is not in PATH")
    monkeypatch.setenv("PKG_CONFIG_PATH", f"{library.parent}/pkgconfig")
    flags = run("pkg-config", "--cflags", "--libs", "ghostzoo")
    file = tmp_path / f"main.{language}"
    file.write_text(source, encoding="utf-8")
    program = tmp_path / "main"
    run(*compiler, "-Wall", "-Wextra", "-Werror", file, "-o", program, *flags.split(), f"-Wl,-rpath,{library.parent}")
    assert re.search(r"^\w+ [01]\.\d{3}$", run(program, BUNDLED, CHELSEA), re.M)


def test_only_its_interface_is_exported(library: Path) -> None:
    if not shutil.which("nm"):
        pytest.skip("nm, of binutils, is not in PATH")
    names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()]
    header = (ROOT / "native/include/ghostzoo/ghostzoo.h").read_text(encoding="utf-8")
    assert sorted(names) == sorted(set(re.findall(r"\b(ghostzoo_\w+)\(", header)))
