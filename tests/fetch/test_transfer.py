"""Downloads to a file, from a real server that fails on purpose."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from ghostzoo._utils.http import DownloadError
from ghostzoo.fetch import retry
from ghostzoo.fetch.download import download_file
from tests.fixtures.ranged import RangedFile, cut_after
from tests.fixtures.server import Answer, content, redirect, serve

BODY = bytes(range(256)) * 2000


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "5")


@contextmanager
def served(file: Answer) -> Iterator[str]:
    with serve({"/file": file, "/hop": redirect("/file")}) as address:
        yield f"{address}/file"


def download(url: str, target: Path, max_bytes: int = 1_000_000) -> bytes:
    download_file(url, target, max_bytes=max_bytes, title="file")
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    return target.read_bytes()


def test_it_comes_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = RangedFile(BODY)
    with served(file) as url:
        assert download(url, tmp_path / "a") == BODY
        assert download(url.replace("/file", "/hop"), tmp_path / "a") == BODY
    assert file.ranges == [None, None]


@pytest.mark.parametrize("tells_size", [True, False])
def test_the_last_report_says_that_it_is_whole(tells_size: bool, tmp_path: Path) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        if tells_size:
            request.send_header("Content-Length", str(len(BODY)))
        request.end_headers()
        request.wfile.write(BODY)

    told: list[tuple[int, int | None]] = []
    with served(answer) as url:
        download_file(url, tmp_path / "a", max_bytes=1_000_000, title="a", report=lambda *figures: told.append(figures))
    assert told[0] == (0, len(BODY) if tells_size else None)
    assert told[-1] == (len(BODY), len(BODY))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(tmp_path: Path, status: int) -> None:
    file = RangedFile(BODY, [content(b"busy", status=status)] * 2)
    with served(file) as url:
        assert download(url, tmp_path / "a") == BODY
    assert len(file.ranges) == 3


def test_the_server_says_how_long_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    busy = [content(b"", status=429, retry_after="7"), content(b"", status=503, retry_after=soon)]
    with served(RangedFile(BODY, busy)) as url:
        assert download(url, tmp_path / "a") == BODY
    assert waits[0] == 7
    assert 30 < waits[1] <= 40


def test_a_server_that_asks_for_an_hour_is_not_waited_for(tmp_path: Path) -> None:
    file = RangedFile(BODY, [content(b"", status=429, retry_after="3600")])
    with served(file) as url, pytest.raises(DownloadError, match=r"429.*asks to wait 3600 s"):
        download(url, tmp_path / "a")
    assert len(file.ranges) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_final(tmp_path: Path, status: int) -> None:
    file = RangedFile(BODY, [content(b"no", status=status)])
    with served(file) as url, pytest.raises(DownloadError, match=f"answered {status}"):
        download(url, tmp_path / "a")
    assert len(file.ranges) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_broken_connection_is_gone_on_with(tmp_path: Path) -> None:
    file = RangedFile(BODY)
    file.faults = [cut_after(file, 100_000), cut_after(file, 100_000)]
    with served(file) as url:
        assert download(url, tmp_path / "a") == BODY
    assert file.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert file.sent == len(BODY)


def test_a_later_run_goes_on_where_the_last_one_gave_up(tmp_path: Path) -> None:
    file = RangedFile(BODY)
    file.faults = [cut_after(file, 100_000), *[content(b"", status=500)] * 4]
    with served(file) as url:
        with pytest.raises(DownloadError, match="5 times in a row"):
            download(url, tmp_path / "a")
        assert not (tmp_path / "a").exists()
        assert download(url, tmp_path / "a") == BODY
    assert file.ranges[-1] == "bytes=100000-"


def test_a_file_that_changed_meanwhile_is_begun_anew(tmp_path: Path) -> None:
    file = RangedFile(BODY)
    new = BODY[::-1]

    def cut_and_change(request: BaseHTTPRequestHandler) -> None:
        file.send(request, 100_000)
        file.body = new

    file.faults = [cut_and_change]
    with served(file) as url:
        assert download(url, tmp_path / "a") == new


@pytest.mark.parametrize("options", [{"etag": False}, {"resumable": False}])
def test_without_a_way_to_resume_it_is_begun_anew(tmp_path: Path, options: dict[str, bool]) -> None:
    file = RangedFile(BODY, **options)
    file.faults = [cut_after(file, 100_000)]
    with served(file) as url:
        assert download(url, tmp_path / "a") == BODY


def test_an_untold_size_is_that_which_was_told_before(tmp_path: Path) -> None:
    """The first answer told it; RFC 9110 lets a server write ``*`` later."""
    file = RangedFile(BODY)
    rest = content(BODY[100_000:100_100], status=206, with_length=False, content_range="bytes 100000-511999/*")
    file.faults = [cut_after(file, 100_000), rest]
    told: list[tuple[int, int | None]] = []
    with served(file) as url:
        download_file(url, tmp_path / "a", max_bytes=1_000_000, title="a", report=lambda *figures: told.append(figures))
    assert (tmp_path / "a").read_bytes() == BODY
    assert file.ranges == [None, "bytes=100000-", "bytes=100100-"]
    assert {total for _, total in told} == {len(BODY)}


@pytest.mark.parametrize(
    "wrong",
    [
        content(b"", status=416),
        content(BODY[:10], status=206),
        content(BODY[:10], status=206, content_range="bytes 0-9/512000"),
        content(BODY[:10], status=206, content_range="bytes 100000-100009/7"),
        content(BODY[:10], status=206, content_range="bytes 100000-100009/100010"),
    ],
)
def test_a_server_that_resumes_wrongly_is_asked_for_the_whole(tmp_path: Path, wrong: Answer) -> None:
    file = RangedFile(BODY)
    file.faults = [cut_after(file, 100_000), wrong]
    with served(file) as url:
        assert download(url, tmp_path / "a") == BODY
    assert file.ranges == [None, "bytes=100000-", None]


def test_what_came_whole_before_a_kill_is_not_asked_for_again(tmp_path: Path) -> None:
    file = RangedFile(BODY)
    with served(file) as url:
        file.faults = [cut_after(file, len(BODY) - 1), *[content(b"", status=500)] * 4]
        with pytest.raises(DownloadError):
            download(url, tmp_path / "a")
        with (tmp_path / "a.part").open("ab") as part:
            part.write(BODY[-1:])
        before = len(file.ranges)
        assert download(url, tmp_path / "a") == BODY
    assert len(file.ranges) == before


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"url": 1}'])
def test_a_note_that_a_kill_left_unfinished_is_no_hindrance(tmp_path: Path, note: bytes) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 100)
    (tmp_path / "a.part.json").write_bytes(note)
    with served(RangedFile(BODY)) as url:
        assert download(url, tmp_path / "a") == BODY


@pytest.mark.parametrize(
    ("with_length", "message"), [(True, r"it has 512000 bytes, more"), (False, r"it has more than the 511999 bytes")]
)
def test_what_is_too_large_is_not_taken(tmp_path: Path, with_length: bool, message: str) -> None:
    """Where the server tells the size, nothing of it is waited for."""
    with served(content(BODY, with_length=with_length)) as url:
        assert download(url, tmp_path / "a", len(BODY)) == BODY
        with pytest.raises(DownloadError, match=message):
            download_file(url, tmp_path / "b", max_bytes=len(BODY) - 1, title="file")
    assert not (tmp_path / "b").exists()


def silence(request: BaseHTTPRequestHandler) -> None:
    request.connection.settimeout(20)
    request.connection.recv(1)  # until the client goes


def test_a_silent_server_and_one_that_drips_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 2)

    def drip(request: BaseHTTPRequestHandler) -> None:
        RangedFile(b"x" * 200).send(request, 1)
        silence(request)

    def slowly(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        request.connection.settimeout(0.05)
        while True:
            try:
                request.wfile.write(b"x")
                if request.connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    for fault, timeout, message in (
        (silence, "0.3", "did not answer"),
        (drip, "0.3", "did not answer"),
        (slowly, "1", "only .* bytes arrived in"),
    ):
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", timeout)
        with served(fault) as url, pytest.raises(DownloadError, match=message):
            download_file(url, tmp_path / "a", max_bytes=1_000_000, title="file")


def test_a_rest_that_drips_is_given_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much came before."""
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.8")
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    file = RangedFile(BODY)

    def slowly(request: BaseHTTPRequestHandler) -> None:
        request.send_response(206)
        request.send_header("Content-Range", f"bytes 100000-{len(BODY) - 1}/{len(BODY)}")
        request.send_header("Content-Length", str(len(BODY) - 100_000))
        request.end_headers()
        with suppress(ConnectionError):
            for place in range(100_000, 100_040):
                request.wfile.write(BODY[place : place + 1])
                time.sleep(0.05)

    file.faults = [cut_after(file, 100_000), slowly]
    with served(file) as url, pytest.raises(DownloadError, match=r"only .* bytes arrived in 0\.8 s"):
        download_file(url, tmp_path / "a", max_bytes=1_000_000, title="file")


def test_a_slow_line_is_no_stuck_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.3")

    def steadily(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "20000")
        request.end_headers()
        with suppress(ConnectionError):
            for start in range(0, 20_000, 500):
                request.wfile.write(BODY[start : start + 500])
                time.sleep(0.03)

    with served(steadily) as url:
        assert download(url, tmp_path / "a") == BODY[:20_000]


@pytest.mark.parametrize("patience", [None, "a while"])
def test_by_default_a_slow_server_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: str | None
) -> None:
    monkeypatch.delenv("HF_HUB_DOWNLOAD_TIMEOUT")
    if patience is not None:
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", patience)
    file = RangedFile(BODY)
    file.faults = [lambda request: (time.sleep(0.5), file.send(request))]
    with served(file) as url:
        assert download(url, tmp_path / "a") == BODY
    assert len(file.ranges) == 1


def test_an_address_that_makes_no_sense_shows_no_password(tmp_path: Path) -> None:
    wrong = "http://user:secret@[::1/file"
    with serve({"/file": redirect(wrong)}) as address:
        for url in (wrong, f"{address}/file"):
            with pytest.raises(DownloadError, match=r"not a valid URL") as caught:
                download(url, tmp_path / "a")
            assert "secret" not in str(caught.value)


def test_a_server_that_is_gone_is_tried_a_few_times(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"Connection refused.*5 times in a row"):
        download("http://127.0.0.1:1/file", tmp_path / "a")


def test_a_compressed_answer_is_refused(tmp_path: Path) -> None:
    with served(content(b"x", content_encoding="gzip")) as url, pytest.raises(DownloadError, match="compresses"):
        download(url, tmp_path / "a")


def test_a_folder_that_cannot_be_written_is_the_callers_news(tmp_path: Path) -> None:
    with served(RangedFile(BODY)) as url, pytest.raises(OSError, match=os.strerror(2)):
        download(url, tmp_path / "absent" / "a")
