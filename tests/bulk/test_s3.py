"""Pictures in a bucket: a real S3 server on this machine, with its pages, credentials and failures."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import InputError
from tests.bulk.test_batch import encode, read_rows
from tests.fixtures.clusters import free_port

pytest.importorskip("pyarrow", reason="pyarrow is not installed here; the extra batch has it")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed here; the extra s3 has it")
pytest.importorskip("moto", reason="moto, which is the S3 server, is not installed here; 'make test' has it")
pytestmark = pytest.mark.slow

SECRET = "secret"  # noqa: S105  # of a server on this machine
COUNT = 1005
"""More than S3 lists in one page."""
NAMES = [f"many/{place:04}.png" for place in range(COUNT)] + ["odd/ü 木 +%&=#?.png", "odd/a[1].png", "odd/broken.png"]


class Faulty(http.server.BaseHTTPRequestHandler):
    """Passes requests on; the first answers to some are 503 or end in the middle."""

    target: ClassVar[str]
    seen: ClassVar[Counter[str]] = Counter()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.pass_on()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen[self.path] += 1
        if self.command == "GET" and self.path.endswith("0.png") and self.seen[self.path] == 1:
            self.answer(503, b"<Error><Code>SlowDown</Code></Error>", {})
            return
        sent = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        request = urllib.request.Request(f"{self.target}{self.path}", body or None, sent, method=self.command)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                status, data, headers = answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            status, data, headers = error.code, error.read(), dict(error.headers)
        broken = self.command == "GET" and self.path.endswith("5.png") and self.seen[self.path] == 1
        self.answer(status, data, headers, half=broken)

    def answer(self, status: int, data: bytes, headers: dict[str, str], half: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    port = str(free_port())
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def bucket(server: str) -> None:
    fs = s3fs.S3FileSystem(key="me", secret=SECRET, endpoint_url=server)
    fs.mkdir("pictures")
    data = [encode(place) for place in range(4)]
    for place, name in enumerate(NAMES):
        fs.pipe_file(f"pictures/{name}", b"no picture" if "broken" in name else data[place % 4])


@pytest.fixture
def own_credentials(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Credentials of the usual places, and the server's address; s3fs keeps nothing of an earlier test."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = me\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    s3fs.S3FileSystem.clear_instance_cache()
    return monkeypatch


def run(source: str, out: Any, bundle: Bundle, **options: Any) -> ghostzoo.BatchReport:
    return ghostzoo.batch(source, out, model=bundle.path, engine="onnxruntime", **options)


def test_every_object_has_one_row(
    bucket: None, own_credentials: pytest.MonkeyPatch, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    done = run("s3://pictures", tmp_path / "out.parquet", tiny_bundle)
    rows = read_rows(tmp_path / "out.parquet")
    assert sorted(row["path"] for row in rows) == sorted(f"s3://pictures/{name}" for name in NAMES)
    assert (done.pictures, done.unreadable) == (len(NAMES), 1)
    assert run("s3://pictures", tmp_path / "out.parquet", tiny_bundle, resume=True).done_before == len(NAMES)


def test_throttling_and_broken_reads_are_tried_again(
    bucket: None, server: str, own_credentials: pytest.MonkeyPatch, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    Faulty.target = server
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        own_credentials.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        done = run("s3://pictures/many/00*.png", tmp_path / "out.parquet", tiny_bundle)
        proxy.shutdown()
    assert sum(count > 1 for name, count in Faulty.seen.items() if name.endswith("0.png")) == 10
    assert (done.pictures, done.unreadable) == (100, 0), [r for r in read_rows(tmp_path / "out.parquet") if r["error"]]


def test_results_may_lie_in_a_bucket(
    bucket: None, own_credentials: pytest.MonkeyPatch, tiny_bundle: Bundle, server: str
) -> None:
    out = "s3://pictures/results.parquet"
    assert run("s3://pictures/many/000*.png", out, tiny_bundle, rows_per_part=4).pictures == 10
    assert run("s3://pictures/many/00[01]*.png", out, tiny_bundle, resume=True).done_before == 10
    names = s3fs.S3FileSystem(key="me", secret=SECRET, endpoint_url=server).ls("pictures/results.parquet")
    assert len(names) == 5  # three parts, one more, and the list of them


def test_what_is_missing_is_told(
    bucket: None, own_credentials: pytest.MonkeyPatch, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"s3://absent/x cannot be read: .*; check the name and your credentials"):
        run("s3://absent/x", tmp_path / "a.parquet", tiny_bundle)
    own_credentials.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match=r"s3://pictures cannot be read: .*[Cc]redentials"):
        run("s3://pictures", tmp_path / "b.parquet", tiny_bundle)
