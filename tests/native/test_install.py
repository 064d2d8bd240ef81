"""The installed library as others use it: by CMake, by pkg-config, from C and from C++, as the documents show it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("GHOSTZOO_NATIVE_BUILD", ROOT / "native/build"))
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


def test_the_python_package_has_its_licence() -> None:
    try:
        files = importlib.metadata.files("ghostzoo-native") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("ghostzoo-native is not installed; 'make native' installs it")
    [licence] = [file for file in files if file.name == "LICENSE"]
    assert licence.read_text() == (ROOT / "LICENSE").read_text(encoding="utf-8")


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


JAVA = """
import org.ghostzoo.Classifier;

public class Main {
    public static void main(String[] words) throws Exception {
        var image = javax.imageio.ImageIO.read(new java.io.File(words[1]));
        int width = image.getWidth(), height = image.getHeight();
        try (var classifier = new Classifier(words[0])) {
            for (var found : classifier.classify(image.getRGB(0, 0, width, height, null, 0, width), width, height, 3))
                System.out.println(found);
        }
        try {
            new Classifier("/nowhere");
        } catch (RuntimeException error) {
            System.out.println(error.getMessage());
        }
    }
}
"""


@pytest.mark.slow
def test_the_example_for_android_runs_in_a_jvm(library: Path, prefix: Path, tmp_path: Path) -> None:
    javac = shutil.which("javac")
    if javac is None:
        pytest.skip("javac is not in PATH; a JDK brings it")
    include = Path(javac).resolve().parents[1] / "include"
    example = ROOT / "native/examples/android"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-rpath,{library.parent}"]
    folders = [f"-I{include}", f"-I{include}/linux", f"-I{prefix}/include", f"-L{library.parent}"]
    run("c++", *flags, *folders, example / "classifier.cpp", "-o", tmp_path / "libghostzoo_jni.so", "-lghostzoo")
    (tmp_path / "Main.java").write_text(JAVA, encoding="utf-8")
    run(javac, "-d", tmp_path, example / "Classifier.java", tmp_path / "Main.java")
    said = run("java", f"-Djava.library.path={tmp_path}", "-cp", tmp_path, "Main", BUNDLED, CHELSEA).splitlines()
    assert said[0].startswith("cat 0.")
    assert said[3] == "Bundle /nowhere: there is no file ghostzoo.json."


def test_only_its_interface_is_exported(library: Path) -> None:
    if not shutil.which("nm"):
        pytest.skip("nm, of binutils, is not in PATH")
    names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()]
    header = (ROOT / "native/include/ghostzoo/ghostzoo.h").read_text(encoding="utf-8")
    assert sorted(names) == sorted(set(re.findall(r"\b(ghostzoo_\w+)\(", header)))
