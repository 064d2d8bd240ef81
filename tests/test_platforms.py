"""What differs on Windows and macOS, simulated: docs/platforms.md says what that can show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ghostzoo
from ghostzoo._utils import files
from ghostzoo.bundle.manifest import Manifest, check_model_name
from ghostzoo.errors import BundleError
from ghostzoo.fetch.resolver import fetch
from tests.fitting.conftest import write_picture
from tests.fixtures.serving import running_server

ROOT = Path(__file__).parents[1]
CHELSEA = ROOT / "examples" / "chelsea.png"
LACKING = {
    "win32": (
        "fork forkpty geteuid getloadavg sched_getaffinity register_at_fork memfd_create set_blocking pread "
        "sysconf O_NONBLOCK killpg",
        "fcntl resource pwd grp termios uvloop",
    ),
    "darwin": ("sched_getaffinity memfd_create", ""),
}
"""System -> what its os module lacks, and which modules it lacks."""
PREAMBLE = """
import os, select, signal, sys
attributes, modules = {}
for name in attributes.split():
    if hasattr(os, name):
        delattr(os, name)
if "fcntl" in modules:
    del select.poll, select.epoll, signal.pthread_sigmask
sys.modules.update(dict.fromkeys(modules.split()))  # importing them fails
from ghostzoo.__main__ import main
main()
"""


def program(system: str) -> str:
    return PREAMBLE.replace("{}", repr(LACKING[system]))


@pytest.mark.slow
@pytest.mark.parametrize("system", LACKING)
def test_commands_need_nothing_that_a_system_lacks(system: str, tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        for number in range(3):
            write_picture(tmp_path / "photos" / colour / f"{number}.png", colour, number)
    commands = (
        ["predict", str(CHELSEA)],
        ["fit", "photos", "--out", "mine"],
        ["doctor"],
        ["batch", "photos", "--out", "x.jsonl"],
    )
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-c", program(system), *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("system", LACKING)
def test_the_server_needs_nothing_that_a_system_lacks(system: str) -> None:
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    command = ("-c", program(system), "serve", "--port", "0", "--no-grpc", "--no-decode-processes")
    with running_server(program=command) as server:
        answer = httpx.post(f"{server.http}/v1/classify", files={"files": CHELSEA.read_bytes()}).json()
        assert answer["images"][0]["predictions"][0]["label"] == "cat"
        assert server.terminate() == 0


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp437", "cp1252", "cp936"])
def test_a_console_of_few_letters_is_no_error(encoding: str, tmp_path: Path) -> None:
    photo = tmp_path / "кошка 猫 ñ.png"
    photo.write_bytes(CHELSEA.read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for words in (["predict", str(photo)], ["predict", "--json", str(photo)], ["list"], ["predict", "кошка.png"]):
        command = [sys.executable, "-m", "ghostzoo", *words]
        done = subprocess.run(command, env=environment, capture_output=True, cwd=ROOT)
        done.stdout.decode(encoding)
        assert "Traceback" not in done.stderr.decode(encoding)
        assert done.returncode == (1 if words[-1] == "кошка.png" else 0)


def test_a_checkout_with_windows_ends_of_lines_has_whole_models(tmp_path: Path) -> None:
    words = [
        "git",
        "clone",
        "--quiet",
        "--config",
        "core.autocrlf=true",
        "--config",
        "core.eol=crlf",
        ROOT,
        tmp_path / "c",
    ]
    if subprocess.run(words, capture_output=True).returncode != 0:
        pytest.skip("this is no git checkout")
    model = fetch().path.relative_to(ROOT)
    for name in fetch().manifest.files:
        assert (tmp_path / "c" / model / name).read_bytes() == (ROOT / model / name).read_bytes()


@pytest.mark.parametrize("name", ["con", "NUL", "com1.cat", "aux.", "model."])
def test_no_model_has_a_name_that_windows_cannot_have(name: str) -> None:
    with pytest.raises(BundleError, match="cannot name a model"):
        check_model_name(name)


@pytest.mark.parametrize("names", [["fit/nul.npz"], ["a?.onnx"], ["onnx /model.onnx"], ["NOTES.md", "notes.md"]])
def test_no_bundle_has_files_that_windows_cannot_have(names: list[str]) -> None:
    text = fetch().manifest.to_json().decode()
    record = '{"sha256": "' + 64 * "0" + '", "size": 1}'
    added = ", ".join(f'"{name}": {record}' for name in names)
    with pytest.raises(BundleError, match=r"not a path inside|capitals only"):
        Manifest.from_json(text.replace('"files": {', f'"files": {{{added}, ', 1).encode())


def test_a_file_that_windows_holds_open_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, refused = Path.replace, []

    def refuse_twice(self: Path, target: Path) -> Path:
        if len(refused) < 2:
            refused.append(target)
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse_twice)
    with pytest.raises(PermissionError):
        files.write_atomically(tmp_path / "file", b"new")
    refused.clear()
    monkeypatch.setattr(files, "_OPEN_FILES_STAY", True)
    files.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_paths_of_the_cache_stay_short() -> None:
    """Windows has 260 letters for a path, unless long ones are switched on."""
    from ghostzoo.fetch.store import Store

    root = Path("C:/Users/some.longer.name/AppData/Local/ghostzoo/Cache")
    longest = (
        Store(root).hub_path("a" * 40 + "/" + "GhostNet_x1_3_ssld" * 2, "0" * 40) / "onnx" / "model_quantized.onnx"
    )
    assert len(str(longest)) < 260 - len(".-0123456789ab.tmp")
    assert ghostzoo.load  # nothing of the above needs more than the package itself
