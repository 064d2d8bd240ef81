"""From the official weights on a server to a bundle in the cache, whatever goes wrong on the way."""

from __future__ import annotations

import json
import os
import pickle
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

import ghostzoo
from ghostzoo.converter import convert
from ghostzoo.fetch.options import FetchOptions
from ghostzoo.fetch.resolver import fetch
from ghostzoo.network.architecture import Architecture
from tests.fetch.conftest import Run, json_lines
from tests.fixtures.networks import random_arrays, write_weights
from tests.fixtures.ranged import RangedFile, cut_after
from tests.fixtures.server import Answer, certified, content, serve

pytestmark = pytest.mark.slow

NAME = "GhostNet_x0_5"
FILE = f"/{NAME}_pretrained.pdparams"
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8))
    return path


@pytest.fixture
def options(tmp_path: Path) -> FetchOptions:
    return FetchOptions(cache_dir=tmp_path / "models")


@contextmanager
def mirror(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serve({FILE: answer}) as address:
        monkeypatch.setenv("GHOSTZOO_WEIGHTS_URL", address)
        yield address


def kept(options: FetchOptions) -> list[str]:
    """What is in the cache besides locks, bundles as one."""
    root = options.models_cache
    found = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return sorted({name.partition("/bundle/")[0] for name in found if not name.endswith(".lock")})


def test_one_command_builds_and_the_second_needs_no_server(run: Run, image: Path, weights: bytes) -> None:
    file = RangedFile(weights)
    with serve({FILE: file}) as address:
        first = run("predict", image, "--model", NAME, "--json", GHOSTZOO_WEIGHTS_URL=address)
    second = run("predict", image, "--model", NAME, "--json", GHOSTZOO_WEIGHTS_URL=address)
    assert json_lines(first) == json_lines(second)
    assert (first.stderr, second.stderr) == ("", "")
    assert len(file.ranges) == 1


def test_the_bundle_is_the_one_that_converting_the_file_gives(
    weights: bytes, options: FetchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirror(RangedFile(weights), monkeypatch):
        bundle = fetch(NAME, options)
    assert bundle.origin == "official weights"
    path = tmp_path / FILE[1:]
    path.write_bytes(weights)
    by_hand = convert(path, tmp_path / "by-hand", model=NAME)
    for name in [*by_hand.manifest.files, "ghostzoo.json"]:
        assert (bundle.path / name).read_bytes() == (by_hand.path / name).read_bytes(), name
    assert kept(options) == [f"official/{NAME}", f"official/{NAME}/first-download.json"]
    assert fetch(NAME, options).origin == "cache"
    with ghostzoo.load(NAME, cache_dir=options.cache_dir, offline=True) as clf:
        assert clf.bundle.origin == "cache"
        assert clf.self_check().within(1e-4)


def test_a_download_is_told_of_as_it_goes(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int | None]] = []
    with mirror(RangedFile(weights), monkeypatch):
        clf = ghostzoo.load(NAME, cache_dir=tmp_path, progress=lambda *event: told.append(event))
    assert {title for title, _, _ in told} == {NAME}
    assert told[-1] == (NAME, len(weights), len(weights))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    with pickle.loads(pickle.dumps(clf)) as copy:  # the function stays here
        assert copy.bundle.origin == "cache"
    clf.close()


def test_a_terminal_shows_the_download_and_then_the_classes(image: Path, weights: bytes) -> None:
    with serve({FILE: RangedFile(weights)}) as address:
        command = [sys.executable, "-m", "ghostzoo", "predict", str(image), "--model", NAME]
        shown = in_terminal(command, GHOSTZOO_WEIGHTS_URL=address, GHOSTZOO_CACHE=str(image.parent / "own-cache"))
    assert NAME in shown
    assert "score" in shown


def in_terminal(command: list[str], **env: str) -> str:
    """What the command shows on a terminal."""
    shown = bytearray()

    pid, terminal = pty.fork()
    if not pid:
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm", **env})  # noqa: S606
    with suppress(OSError):  # Linux says so at the end
        while data := os.read(terminal, 65536):
            shown.extend(data)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    return shown.decode()


def test_predicting_from_the_cache_imports_no_converter(
    weights: bytes, options: FetchOptions, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirror(RangedFile(weights), monkeypatch):
        fetch(NAME, options)
    code = (
        f"import sys, ghostzoo; clf = ghostzoo.load({NAME!r}, cache_dir={str(options.cache_dir)!r}); "
        f"clf({str(image)!r}); print(*{{name.partition('.')[0] for name in sys.modules}})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"onnx", "requests", "huggingface_hub", "rich"} & set(result.stdout.split())


def test_ten_processes_at_once_download_once(run: Run, image: Path, weights: bytes) -> None:
    file = RangedFile(weights)
    with serve({FILE: file}) as address, ThreadPoolExecutor(10) as pool:
        command = ("predict", image, "--model", NAME, "--json", "--threads", "1")
        runs = [pool.submit(run, *command, GHOSTZOO_WEIGHTS_URL=address) for _ in range(10)]
        answers = [json_lines(each.result()) for each in runs]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0]["predictions"]
    assert file.ranges == [None]


def test_mirrors_are_templates_folders_on_the_web_and_folders(
    weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / FILE[1:]).write_bytes(weights)
    with serve({FILE: content(weights), f"/other/{NAME}": content(weights)}) as address:
        places = [
            f"{address}/other/{{name}}",
            f"{address}/",
            str(folder),
            f"file://{folder}",
            f"{folder}/{{name}}_pretrained.pdparams",
        ]
        for number, place in enumerate(places):
            monkeypatch.setenv("GHOSTZOO_WEIGHTS_URL", place)
            bundle = fetch(NAME, FetchOptions(cache_dir=tmp_path / str(number), offline=number > 1))
            assert bundle.origin == "official weights"
            assert bundle.manifest.weights["file_name"] == FILE[1:]
    assert (folder / FILE[1:]).exists()
    monkeypatch.setenv("GHOSTZOO_WEIGHTS_URL", "http://127.0.0.1/{model}")
    with pytest.raises(ghostzoo.OptionError, match=r"\{name\} is the only placeholder"):
        fetch(NAME, FetchOptions(cache_dir=tmp_path / "none"))


def test_changed_weights_are_refused_until_accepted(
    weights: bytes, options: FetchOptions, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = write_weights(tmp_path / "o", random_arrays(Architecture.of(0.5, 1000), seed=1)).read_bytes()
    file = RangedFile(weights)
    with mirror(file, monkeypatch):
        first = fetch(NAME, options)
        file.body = other
        with pytest.raises(ghostzoo.WeightsError) as caught:
            fetch(NAME, options, refresh=True)
        message = str(caught.value)
        old, new = first.manifest.weights["sha256"], message.partition("--accept ")[2].strip("'.")
        assert old in message
        assert len(new) == 64
        assert message.count(new) == 2
        assert fetch(NAME, options).manifest.weights["sha256"] == old
        with pytest.raises(ghostzoo.WeightsError, match="nothing was changed"):
            fetch(NAME, options, accept="0" * 64)
        result = run("pull", NAME, "--accept", new, "--cache-dir", options.cache_dir)
        assert result.returncode == 0, result.stderr
        assert fetch(NAME, options).manifest.weights["sha256"] == new
        assert fetch(NAME, options, refresh=True).manifest.weights["sha256"] == new


@pytest.mark.parametrize("body", [b"", b"<html>Log in to the hotel's network</html>", b"\x80\x04cos\nsystem\n."])
def test_what_is_no_weights_is_refused_and_not_kept(
    body: bytes, options: FetchOptions, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RangedFile(body)
    with mirror(file, monkeypatch) as address:
        with pytest.raises(ghostzoo.WeightsError, match=f"{address}{FILE} gives no weights of {NAME}"):
            fetch(NAME, options)
        assert kept(options) == []
        file.body = weights
        assert fetch(NAME, options).origin == "official weights"


def test_weights_of_another_width_or_class_count_are_refused(
    options: FetchOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for architecture in (Architecture.of(0.25, 1000), Architecture.of(0.5, 999)):
        body = write_weights(tmp_path / "w", random_arrays(architecture)).read_bytes()
        with mirror(content(body), monkeypatch), pytest.raises(ghostzoo.WeightsError, match="no weights of"):
            fetch(NAME, options)
    assert kept(options) == []


def test_a_missing_server_is_named_with_all_that_was_tried(
    options: FetchOptions, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setenv("GHOSTZOO_WEIGHTS_URL", "http://user:secret@127.0.0.1:1")
    with pytest.raises(ghostzoo.FetchError) as caught:
        fetch(NAME, options)
    message = str(caught.value)
    for word in (
        "(1) cache",
        "(2) Hub",
        "was not found. Official weights: ",
        f"http://127.0.0.1:1{FILE}",
        "refused",
        "mirror",
    ):
        assert word in message
    assert "secret" not in message
    result = run("pull", NAME, "--offline", GHOSTZOO_WEIGHTS_URL="http://127.0.0.1:1")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "requests are off" in result.stderr


def start(name: str, cache: Path, url: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ghostzoo", "pull", name]
    surroundings = {**os.environ, "GHOSTZOO_CACHE": str(cache), "GHOSTZOO_WEIGHTS_URL": url}
    return subprocess.Popen(command, env=surroundings, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_only_what_the_next_resumes(
    end: signal.Signals, weights: bytes, tmp_path: Path, run: Run
) -> None:
    file = RangedFile(weights)
    file.faults = [lambda request: file.send(request, pause=0.05)]
    with serve({FILE: file}) as address:
        process = start(NAME, tmp_path / "cache", address)
        part = tmp_path / "cache" / "models" / "official" / NAME / f".{FILE[1:]}.part"
        while process.poll() is None and not (part.exists() and part.stat().st_size > 1_000_000):
            time.sleep(0.02)
        process.send_signal(end)
        process.communicate()
        assert process.returncode != 0
        assert not (part.parent / "bundle").exists()
        assert run("cache", "list", "--json").stdout == ""
        result = run("pull", NAME, GHOSTZOO_WEIGHTS_URL=address)
    assert result.returncode == 0, result.stderr
    assert file.ranges[-1] is not None
    assert run("cache", "verify").returncode == 0
    assert not part.exists()


@pytest.mark.parametrize("limit", [1_000_000, 10_470_000], ids=["download", "bundle"])
def test_a_full_disk_is_one_sentence_and_the_next_run_succeeds(
    limit: int, weights: bytes, tmp_path: Path, run: Run
) -> None:
    """No file may grow over the limit: the weights at first, then one of the bundle, as on a disk that is full."""
    with serve({FILE: RangedFile(weights)}) as address:
        process = start(
            NAME,
            tmp_path / "cache",
            address,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        _, errors = process.communicate()
        assert process.returncode == 1, errors
        assert errors.startswith("Error: ")
        assert errors.count("\n") == 1
        assert "File too large" in errors
        assert run("cache", "list", "--json").stdout == ""
        assert run("pull", NAME, GHOSTZOO_WEIGHTS_URL=address).returncode == 0
    assert run("cache", "verify").returncode == 0


def test_a_cache_that_cannot_be_written_is_named(
    weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with mirror(RangedFile(weights), monkeypatch), pytest.raises(ghostzoo.FetchError) as caught:
        fetch(NAME, FetchOptions(cache_dir=tmp_path / "file" / "models"))
    assert f"{tmp_path / 'file'} is a file, so no models can be kept in it" in str(caught.value)
    assert "GHOSTZOO_CACHE" in str(caught.value)


def test_a_damaged_bundle_in_the_cache_is_fetched_again(
    weights: bytes, options: FetchOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with mirror(RangedFile(weights), monkeypatch):
        graph = fetch(NAME, options).path / "onnx" / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
        assert fetch(NAME, options).origin == "official weights"
    assert "onnx/model.onnx was changed" in caplog.text
    assert fetch(NAME, options).origin == "cache"


def test_a_resumed_download_gives_the_same_bundle(
    weights: bytes, options: FetchOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = RangedFile(weights)
    file.faults = [cut_after(file, 3_000_000), content(b"", status=503, retry_after="0"), cut_after(file, 10)]
    with mirror(file, monkeypatch):
        resumed = fetch(NAME, options)
        whole = fetch(NAME, FetchOptions(cache_dir=tmp_path / "whole"))
    assert resumed.manifest == whole.manifest
    assert file.ranges == [None, "bytes=3000000-", "bytes=3000000-", "bytes=3000010-", None]


def test_a_proxy_is_used(weights: bytes, run: Run) -> None:
    place = f"http://weights.invalid{FILE}"
    with serve({place: content(weights)}) as proxy:
        result = run("pull", NAME, GHOSTZOO_WEIGHTS_URL="http://weights.invalid", HTTP_PROXY=proxy, http_proxy=proxy)
    assert result.returncode == 0, result.stderr


def test_a_certificate_is_checked_against_the_users_authorities(weights: bytes, tmp_path: Path, run: Run) -> None:
    tls, bundle = certified("127.0.0.1", tmp_path)
    with serve({FILE: content(weights)}, tls=tls) as address:
        refused = run("pull", NAME, GHOSTZOO_WEIGHTS_URL=address)
        assert refused.returncode == 1
        assert "certificate is not trusted" in refused.stderr
        assert "REQUESTS_CA_BUNDLE" in refused.stderr
        for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            trusting = {name: str(bundle) if name == variable else "" for name in CERTIFICATES}
            result = run("pull", NAME, "--force", GHOSTZOO_WEIGHTS_URL=address, **trusting)
            assert result.returncode == 0, result.stderr


def test_the_record_of_the_first_download_says_where_and_when(
    weights: bytes, options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = options.models_cache / "official" / NAME / "first-download.json"
    with mirror(RangedFile(weights), monkeypatch) as address:
        bundle = fetch(NAME, options)
        record = json.loads(note.read_text())
        assert (record["url"], record["sha256"]) == (address + FILE, bundle.manifest.weights["sha256"])
        note.write_text("{}")
        with pytest.raises(ghostzoo.WeightsError, match="is damaged"):
            fetch(NAME, options, refresh=True)
