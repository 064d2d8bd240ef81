"""What the container installs: each version named, each file by its hash, and nothing that was not asked for."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SYSTEMS = [
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
]
DIGEST = "@sha256:" + "0123456789abcdef" * 4


def locked(name: str) -> list[Requirement]:
    """The requirements of a lock file, each of which must have one version and hashes."""
    lines = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    requirements = []
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        text, *hashes = re.split(r"\s--hash=", line)
        assert hashes, f"{line} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", each) for each in hashes), line
        requirement = Requirement(text)
        assert [each.operator for each in requirement.specifier] == ["=="], text
        assert requirement.url is None
        requirements.append(requirement)
    return requirements


def versions(name: str, environment: dict[str, str]) -> dict[str, str]:
    """What a lock file has installed on one system."""
    wanted = [each for each in locked(name) if each.marker is None or each.marker.evaluate(environment)]
    found = {canonicalize_name(each.name): next(iter(each.specifier)).version for each in wanted}
    assert len(found) == len(wanted), "a name has two versions"
    return found


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: f"{system['sys_platform']}-{system['platform_machine']}")
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_fulfils_what_the_package_asks_for(python: str, system: dict[str, str]) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": "", **system}
    asked = {
        "requirements.lock": [
            *PROJECT["project"]["dependencies"],
            *PROJECT["project"]["optional-dependencies"]["serve"],
        ],
        "requirements-build.lock": PROJECT["build-system"]["requires"],
    }
    for name, lines in asked.items():
        found = versions(name, environment)
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                version = found.get(canonicalize_name(requirement.name))
                assert version is not None, f"{name} has no {requirement.name}; run 'make lock'"
                assert requirement.specifier.contains(version), f"{name}: {requirement}, not {version}; run 'make lock'"


def test_all_supported_versions_of_python_are_covered() -> None:
    prefix = "Programming Language :: Python :: 3."
    classifiers = PROJECT["project"]["classifiers"]
    assert [f"3.{each.removeprefix(prefix)}" for each in classifiers if each.startswith(prefix)] == list(PYTHONS)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_a_lock_says_nothing_of_the_machine_that_wrote_it(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for forbidden in ("://", "--index", "--extra-index", "--find-links", "--trusted", " /", "file:"):
        assert forbidden not in text


def test_the_container_installs_only_what_is_locked() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"bin/pip (?:install|wheel)[^&\n]*", text)
    assert len(installs) == 4
    for command in installs:
        assert "--require-hashes" in command or {"--no-deps", "--no-index"} <= set(command.split()), command
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE_IMAGE}"] * 2
    assert re.search(r"^ARG BASE_IMAGE=\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)


def make_image(base: str) -> subprocess.CompletedProcess[str]:
    """What 'make image' would have Docker do."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    # Named, or make would look for an interpreter, which this needs not.
    settings = ["PYTHON=python3", "DOCKER=echo docker", f"BASE_IMAGE={base}"]
    command = ["make", "--no-print-directory", "image", *settings]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("base", ["", "python:3.13-slim", "python@sha256:", f"python{DIGEST[:-1]}", f"python{DIGEST}0"])
def test_no_container_is_released_on_a_base_without_a_digest(base: str) -> None:
    ended = make_image(base)
    assert ended.returncode != 0
    assert "make base-image" in ended.stderr
    assert "docker build" not in ended.stdout


def test_a_container_is_built_on_the_base_with_the_digest() -> None:
    ended = make_image(f"python:3.13-slim{DIGEST}")
    assert ended.returncode == 0, ended.stderr
    assert f"--build-arg BASE_IMAGE=python:3.13-slim{DIGEST}" in ended.stdout
