"""A URL -> its bytes, within limits of size, time and redirects; nothing touches the disk."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from urllib.parse import urljoin, urlsplit

import requests

from .._version import __version__
from ..errors import innermost
from .addresses import AddressPolicy, AddressRefusedError, PinnedAdapter
from .connections import BoundedAdapter

_CHUNK = 64 * 1024
_COUNTED = 256 * 1024
"""Bytes that come before they are counted; counting each chunk would take as long as reading it."""
LATE = "it did not arrive in time; try again"
_REDIRECTS = (301, 302, 303, 307, 308)


class DownloadError(Exception):
    """The download failed; the message says why, without the URL.

    Attributes:
        limit: which argument of ``download_bytes`` bounds it, if that is why.
    """

    def __init__(self, message: str, limit: str | None = None) -> None:
        super().__init__(message)
        self.limit = limit


def download_bytes(url: str, *, max_bytes: int, timeout: float, max_redirects: int) -> bytes:
    """Fetch ``url`` with one GET. Proxies and certificates are those of the environment, as ``requests`` has it.

    Args:
        url: ``http`` or ``https``; redirects may not lead to anything else.
        max_bytes: largest size, after decompression.
        timeout: seconds for everything together, name look-up and redirects included.
        max_redirects: how many redirects are followed.

    Raises:
        DownloadError: any failure.
    """
    download = Download(url, max_bytes=max_bytes, timeout=timeout, max_redirects=max_redirects)
    download.start()
    # A read timeout starts anew with every byte, and a name look-up has none: only a thread can be left behind in time.
    if not download.ended.wait(timeout):
        download.abandon()
        raise DownloadError(LATE, "timeout")
    return download.result()


def open_session(adapter: BoundedAdapter | None = None) -> requests.Session:
    """Return a session that says who asks; proxies and certificates are those of the environment.

    For certificates, ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` count as they do for Python and the Hub's client, and
    ``requests``' own variables go before them.
    """
    session = _Session()
    session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or True
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter or BoundedAdapter())
    session.headers["User-Agent"] = f"ghostzoo/{__version__}"
    return session


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Leave redirects to ``follow``; to find the next one ``requests`` would read all of this one's body."""


@contextmanager
def follow(
    session: requests.Session,
    url: str,
    *,
    max_redirects: int,
    timeout: Callable[[], float],
    headers: Mapping[str, str] | None = None,
) -> Iterator[requests.Response]:
    """Yield the answer to a GET that is no redirect, its body unread.

    Args:
        url: ``http`` or ``https``; redirects may not lead to anything else.
        timeout: called before each request; seconds for the connection and for each read.

    Raises:
        DownloadError: a redirect leads elsewhere, or there are too many.
        requests.exceptions.RequestException, ValueError: whatever ``requests`` raises.
    """
    for _ in range(max_redirects + 1):
        if urlsplit(url).scheme.lower() not in ("http", "https"):
            raise DownloadError(f"it leads to {urlsplit(url).scheme}:, and only http and https are followed")
        with session.get(url, stream=True, allow_redirects=False, timeout=timeout(), headers=headers) as response:
            if response.status_code not in _REDIRECTS or "location" not in response.headers:
                yield response
                return
            url = urljoin(url, response.headers["location"])
    raise DownloadError(f"it redirects more than {max_redirects} times")


class Download:
    """One GET in a thread of its own, which can be abandoned at any time.

    Args:
        url, max_bytes, timeout, max_redirects: as for ``download_bytes``.
        address_policy: which addresses may be connected to, for URLs of people who are not trusted: ``is_public``.
            Nothing of the environment is used then, neither a proxy (which would resolve the name again) nor a
            password that it holds for the host.
        ports: with a policy, the only ports that may be connected to; any, if it is empty.
        on_bytes: called in the thread with the number of bytes that came, each time these are at least 256 KiB, and
            at the end; what it raises ends the download.
        on_end: called in the thread when nothing more will come.
    """

    def __init__(
        self,
        url: str,
        *,
        max_bytes: int,
        timeout: float,
        max_redirects: int,
        address_policy: AddressPolicy | None = None,
        ports: Collection[int] = (),
        on_bytes: Callable[[int], object] = lambda _: None,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self.ended = threading.Event()
        self._url = url
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._max_redirects = max_redirects
        self._address_policy = address_policy
        self._ports = ports
        self._on_bytes = on_bytes
        self._on_end = on_end
        self._deadline = 0.0
        self._data = BytesIO()
        self._error: DownloadError | None = None
        self._abandoned = False
        self._socket: socket.socket | None = None

    def start(self) -> None:
        self._deadline = time.monotonic() + self._timeout
        threading.Thread(target=self._run, name="ghostzoo-download", daemon=True).start()

    def abandon(self) -> None:
        """Have the thread end soon; only a name look-up that it may be in goes on to its own end."""
        self._abandoned = True
        if self._socket is not None:
            _shut_down(self._socket)

    def result(self) -> bytes:
        """The body, once the download has ended.

        Raises:
            DownloadError: any failure.
        """
        if self._error is not None:
            raise self._error
        return self._data.getvalue()

    def _run(self) -> None:
        try:
            with open_session(self._adapter()) as session:
                session.trust_env = self._address_policy is None
                self._fetch(session)
        except DownloadError as error:
            self._error = error
        except AddressRefusedError as error:
            self._error = DownloadError(str(error))
        except requests.exceptions.Timeout:
            self._error = DownloadError(LATE, "timeout")
        except ValueError:  # the libraries' message shows the whole URL, the password in it included
            self._error = DownloadError("it is not a valid URL, or redirects to one that is not; check its spelling")
        except requests.exceptions.RequestException as error:
            self._error = DownloadError(f"it cannot be downloaded ({reason_of(error)})")
        except Exception as error:  # whatever is not caught here would be lost with the thread
            self._error = DownloadError(f"it cannot be downloaded ({error})")
        finally:
            self.ended.set()
            self._on_end()

    def _adapter(self) -> BoundedAdapter:
        if self._address_policy is None:
            return BoundedAdapter(self._connected)
        return PinnedAdapter(self._connected, self._address_policy, self._ports)

    def _connected(self, connection: socket.socket) -> None:
        self._socket = connection
        if self._abandoned:
            _shut_down(connection)

    def _fetch(self, session: requests.Session) -> None:
        with follow(session, self._url, max_redirects=self._max_redirects, timeout=self._left) as response:
            if response.status_code != 200:
                raise DownloadError(f"the server answered {response.status_code} {response.reason}")
            self._receive(response)

    def _receive(self, response: requests.Response) -> None:
        declared = response.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise self._too_large()
        told = 0
        for chunk in response.iter_content(_CHUNK):
            size = self._data.tell() + len(chunk)
            if size > self._max_bytes:
                raise self._too_large()
            if size - told >= _COUNTED:
                self._on_bytes(size - told)
                told = size
            self._data.write(chunk)
            self._left()
        size = self._data.tell()
        self._on_bytes(size - told)
        if declared.isdecimal() and "content-encoding" not in response.headers and size != int(declared):
            raise DownloadError(f"the connection broke after {size} of {declared} bytes; try again")

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0 or self._abandoned:
            raise DownloadError(LATE, "timeout")
        return left

    def _too_large(self) -> DownloadError:
        return DownloadError(f"it has more than the {self._max_bytes} bytes that are read", "max_bytes")


def _shut_down(connection: socket.socket) -> None:
    """End what another thread reads; closing would wait for its read to end."""
    with suppress(OSError, ValueError, AttributeError):  # ended meanwhile; TLS within TLS has no such method
        connection.shutdown(socket.SHUT_RDWR)


def reason_of(error: BaseException) -> str:
    """Return what the innermost cause says, which is the readable one."""
    cause = innermost(error)
    return str(cause) or type(cause).__name__
