"""Engines whose library is really not installed: each says so, with the command that installs it where that helps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.engines import engine_names, engine_record
from tests.fixtures.environment import run_without

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="making links takes a privilege on Windows")]

COMPANIONS = {"tensorrt": ("cuda-bindings",)}
"""What an engine's extra installs besides its library."""
LOAD = "import sys, ghostzoo; ghostzoo.load(sys.argv[1])"
IMPORT = "import sys; from ghostzoo.engines import engine_class; engine_class(sys.argv[1])"
EXAMINE = """
import json, sys
from ghostzoo.bench import doctor
from ghostzoo.bundle.folder import Bundle
doctor.engine_names = lambda: [sys.argv[1]]  # the others are there, and would be measured
print(json.dumps(doctor.examine(Bundle.open(sys.argv[2])).to_dict()["engines"]))
"""


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GHOSTZOO_ENGINE")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", engine_names())
def test_an_engine_without_its_library_says_how_to_get_it(name: str, folder: Path, tiny_bundle: Bundle) -> None:
    record = engine_record(name)
    distributions = (*record.distributions, *COMPANIONS.get(name, ()))
    result = run_without(distributions, folder, "-c", IMPORT, name)
    assert result.returncode == 1
    sentence = result.stderr.strip().splitlines()[-1]
    assert sentence.startswith("ghostzoo.errors.EngineUnavailableError: ")
    reason, command = record.why_missing()
    if name == "onnxruntime":  # all bundles are for it, so its absence is a damage
        reason = "cannot be imported"
    assert reason in sentence
    assert (record.install.split()[-1] in sentence) == (command is not None)
    result = run_without(distributions, folder, "-c", EXAMINE, name, str(tiny_bundle.path))
    (finding,) = json.loads(result.stdout)
    if name in CONVERTED_FILES:
        assert f"no files for {name}" in finding["reason"]
        assert finding["remedy"] is None
    else:
        assert (finding["usable"], finding["reason"], finding["remedy"]) == (False, *record.why_missing())


def test_without_any_engine_one_command_is_told(folder: Path, tiny_bundle: Bundle) -> None:
    records = [engine_record(name) for name in engine_names()]
    distributions = [distribution for record in records for distribution in record.distributions]
    words = ["-m", "ghostzoo", "doctor", "--model", str(tiny_bundle.path)]
    result = run_without(distributions, folder, *words)
    assert result.returncode == 1, result.stderr
    assert "pip install onnxruntime" in result.stdout
    assert all(record.install not in result.stdout for record in records if record.name in CONVERTED_FILES)
    result = run_without(distributions, folder, "-c", LOAD, str(tiny_bundle.path))
    sentence = result.stderr.strip().splitlines()[-1]
    assert sentence == (
        "ghostzoo.errors.EngineUnavailableError: No engine is installed that runs tiny unless it is named; "
        "run 'pip install onnxruntime'."
    )
