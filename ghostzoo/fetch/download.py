"""Downloads a URL to a file: resumed if the server allows, retried where that may help, complete or not at all."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from .._utils.files import move
from .._utils.http import DownloadError, follow, open_session, reason_of
from .retry import TRANSIENT_STATUSES, TransientError, parse_retry_after, retry

TIMEOUT_VARIABLE = "HF_HUB_DOWNLOAD_TIMEOUT"
"""Environment variable of the Hub's client, which applies to other downloads too."""
DEFAULT_TIMEOUT = 20.0
"""Seconds for connecting, and for each chunk of the body."""

_CHUNK = 256 * 1024
_MAX_REDIRECTS = 5
_SLOWEST = 1024
"""Bytes per second; a server that sends less for the whole timeout is considered stuck."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

Report = Callable[[int, int | None], None]


def download_file(
    url: str, target: Path, *, max_bytes: int, title: str, report: Report = lambda done, total: None
) -> None:
    """Download ``url`` to ``target``, which appears once it is complete; an interrupted download is resumed.

    Args:
        url: ``http`` or ``https``.
        target: the file.
        max_bytes: a larger file is an error.
        title: the download's name in messages.
        report: called with the bytes so far, and the total if the server gives it.

    Only one process at a time may download to a ``target``. Proxies and certificates are taken from the environment.

    Raises:
        DownloadError: the network or the server failed; the message does not contain the URL.
        OSError: the file cannot be written.
    """
    part = _Part(target.with_name(f"{target.name}.part"))
    timeout = _timeout()
    with open_session() as session:
        try:
            retry(lambda: _attempt(session, url, part, max_bytes, timeout, report), title)
        except TransientError as error:
            raise DownloadError(str(error)) from error
    move(part.path, target, over=True)
    part.discard()


@dataclass
class _Part:
    """An incomplete file, and a note next to it of what it is part of."""

    path: Path

    @property
    def note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def begin(self, url: str, validator: str | None, total: int | None) -> None:
        """Note what the next bytes are part of; without a validator that is unknown, and no note is written."""
        self.discard()
        if validator:
            self.note.write_text(json.dumps({"url": url, "validator": validator, "total": total}))

    def resume_from(self, url: str) -> tuple[int, str, int | None]:
        """Return the number of bytes there are, of what, and of how many; zero if there is nothing to resume."""
        try:
            note = json.loads(self.note.read_bytes())
            size = self.path.stat().st_size
            if note["url"] == url and isinstance(note["validator"], str):
                return size, note["validator"], note["total"]
        except (OSError, ValueError, KeyError, TypeError):  # no note, or one left incomplete by a killed process
            pass
        return 0, "", None

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _attempt(session: requests.Session, url: str, part: _Part, max_bytes: int, timeout: float, report: Report) -> None:
    start, validator, total = part.resume_from(url)
    if start and start == total:
        return
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        with follow(session, url, max_redirects=_MAX_REDIRECTS, timeout=lambda: timeout, headers=headers) as response:
            _check_status(response, part)
            if response.status_code == 206:
                total = _check_range(response, part, start, total)
            else:
                start, total = 0, _content_length(response)
                part.begin(url, _validator(response), total)
            if max(total or 0, start) > max_bytes:
                raise DownloadError(f"it has {total} bytes, more than the {max_bytes} that a model may have")
            _receive(response, part.path, start, total, max_bytes, timeout, report)
    except requests.exceptions.SSLError as error:
        raise DownloadError(
            f"its certificate is not trusted ({reason_of(error)}); name the authority's file in SSL_CERT_FILE or "
            "REQUESTS_CA_BUNDLE if you trust it"
        ) from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise TransientError(f"the server did not answer within {timeout:g} s") from error
    except (requests.exceptions.ConnectionError, urllib3.exceptions.HTTPError) as error:
        raise TransientError(f"the connection failed ({reason_of(error)})") from error
    except ValueError as error:  # the libraries' message shows the whole URL, the password in it included
        raise DownloadError("it is not a valid URL, or redirects to one that is not; check its spelling") from error
    except requests.exceptions.RequestException as error:
        raise DownloadError(f"it cannot be downloaded ({reason_of(error)})") from error


def _check_status(response: requests.Response, part: _Part) -> None:
    answer = f"the server answered {response.status_code} {response.reason}"
    if response.status_code in TRANSIENT_STATUSES:
        raise TransientError(answer, parse_retry_after(response.headers.get("retry-after")))
    if response.status_code == 416:
        part.discard()
        raise TransientError("the server could not resume the last download")
    if response.status_code not in (200, 206):
        raise DownloadError(answer)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise DownloadError("the server compresses the file although it was asked not to; its size cannot be checked")


def _check_range(response: requests.Response, part: _Part, start: int, total: int | None) -> int | None:
    """Check that the response is what was requested; return the size of the complete file."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    said = int(match[2]) if match and match[2] != "*" else None
    if not match or int(match[1]) != start or (None not in (said, total) and said != total):
        part.discard()
        raise TransientError("the server resumed with another file")
    return said if said is not None else total


def _receive(
    response: requests.Response,
    path: Path,
    done: int,
    total: int | None,
    max_bytes: int,
    timeout: float,
    report: Report,
) -> None:
    report(done, total)
    since, before = time.monotonic(), done
    with path.open("ab") as file:
        while chunk := response.raw.read1(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            if done > max_bytes:
                raise DownloadError(f"it has more than the {max_bytes} bytes that a model may have")
            report(done, total)
            if time.monotonic() - since > timeout:
                if done - before < _SLOWEST * timeout:
                    raise TransientError(f"only {done - before} bytes arrived in {timeout:g} s")
                since, before = time.monotonic(), done
    if total is not None and done != total:
        raise TransientError(f"the connection broke after {done} of {total} bytes")
    if total is None:
        report(done, done)


def _content_length(response: requests.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _validator(response: requests.Response) -> str | None:
    """Return what identifies this version of the content, if the server gives it."""
    etag = response.headers.get("etag", "")
    return etag if etag.startswith('"') else response.headers.get("last-modified")


def _timeout() -> float:
    try:
        return max(float(os.environ[TIMEOUT_VARIABLE]), 0.1)
    except (KeyError, ValueError):
        return DEFAULT_TIMEOUT
