"""A URL -> its bytes, within limits of size, time and redirects; nothing touches the disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import urljoin, urlsplit

import requests

from . import __version__
from .addresses import AddressPolicy, AddressRefusedError, PinnedAdapter

_CHUNK = 64 * 1024
_LATE = "it was not there in time (url_timeout); try again"
_REDIRECTS = (301, 302, 303, 307, 308)


class DownloadError(Exception):
    """The download failed; the message says why, without the URL."""


def download_bytes(
    url: str, *, max_bytes: int, timeout: float, max_redirects: int, address_policy: AddressPolicy | None = None
) -> bytes:
    """Fetch ``url`` with one GET. Proxies and certificates are those of the environment, as ``requests`` has it.

    Args:
        url: ``http`` or ``https``; redirects may not lead to anything else.
        max_bytes: largest size, after decompression.
        timeout: seconds for everything together, name look-up and redirects included.
        max_redirects: how many redirects are followed.
        address_policy: which addresses may be connected to, for URLs of people who are not trusted: ``is_public``.
            Nothing of the environment is used then, neither a proxy (which would resolve the name again) nor a
            password that it holds for the host.

    Raises:
        DownloadError: any failure.
    """
    transfer = _Transfer(max_bytes, time.monotonic() + timeout, max_redirects, address_policy)
    # A read timeout starts anew with every byte, and a name look-up has none: only a thread can be left behind in time.
    worker = threading.Thread(target=transfer.run, args=(url,), name="ghostzoo-download", daemon=True)
    worker.start()
    worker.join(timeout)
    if worker.is_alive():
        transfer.abandon()
        raise DownloadError(_LATE)
    if transfer.error is not None:
        raise DownloadError(str(transfer.error)) from transfer.error
    return bytes(transfer.data)


def open_session() -> requests.Session:
    """Return a session that says who asks; proxies and certificates are those of the environment.

    For certificates, ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` count as they do for Python and the Hub's client, and
    ``requests``' own variables go before them.
    """
    session = requests.Session()
    session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or True
    session.headers["User-Agent"] = f"ghostzoo/{__version__}"
    return session


@contextmanager
def follow(
    session: requests.Session,
    url: str,
    *,
    max_redirects: int,
    timeout: Callable[[], float],
    headers: Mapping[str, str] | None = None,
    on_answer: Callable[[requests.Response], None] = lambda _: None,
) -> Iterator[requests.Response]:
    """Yield the answer to a GET that is no redirect, its body unread.

    Args:
        url: ``http`` or ``https``; redirects may not lead to anything else.
        timeout: called before each request; seconds for the connection and for each read.
        on_answer: called with each answer, redirects included.

    Raises:
        DownloadError: a redirect leads elsewhere, or there are too many.
        requests.exceptions.RequestException, ValueError: whatever ``requests`` raises.
    """
    for _ in range(max_redirects + 1):
        if urlsplit(url).scheme.lower() not in ("http", "https"):
            raise DownloadError(f"it leads to {urlsplit(url).scheme}:, and only http and https are followed")
        with session.get(url, stream=True, allow_redirects=False, timeout=timeout(), headers=headers) as response:
            on_answer(response)
            if response.status_code not in _REDIRECTS or "location" not in response.headers:
                yield response
                return
            url = urljoin(url, response.headers["location"])
    raise DownloadError(f"it redirects more than {max_redirects} times")


class _Transfer:
    def __init__(
        self, max_bytes: int, deadline: float, max_redirects: int, address_policy: AddressPolicy | None
    ) -> None:
        self.data = bytearray()
        self.error: Exception | None = None
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._max_redirects = max_redirects
        self._address_policy = address_policy
        self._shut_down: Callable[[], None] | None = None

    def run(self, url: str) -> None:
        try:
            with open_session() as session:
                if self._address_policy is not None:
                    session.trust_env = False
                    for scheme in ("http://", "https://"):
                        session.mount(scheme, PinnedAdapter(self._address_policy))
                self._fetch(session, url)
        except DownloadError as error:
            self.error = error
        except AddressRefusedError as error:
            self.error = DownloadError(str(error))
        except requests.exceptions.Timeout:
            self.error = DownloadError(_LATE)
        except ValueError:  # the libraries' message shows the whole URL, the password in it included
            self.error = DownloadError("it is no valid URL, or leads to none; check its spelling")
        except requests.exceptions.RequestException as error:
            self.error = DownloadError(f"it cannot be downloaded ({reason_of(error)})")
        except Exception as error:  # whatever is not caught here would be lost with the thread
            self.error = DownloadError(f"it cannot be downloaded ({error})")

    def abandon(self) -> None:
        """Shut the connection down under the worker, so that it ends soon; closing would wait for its read to end."""
        if self._shut_down is not None:
            with suppress(OSError, RuntimeError, ValueError):  # the worker has ended it itself meanwhile
                self._shut_down()

    def _fetch(self, session: requests.Session, url: str) -> None:
        answers = follow(session, url, max_redirects=self._max_redirects, timeout=self._left, on_answer=self._opened)
        with answers as response:
            if response.status_code != 200:
                raise DownloadError(f"the server answered {response.status_code} {response.reason}")
            self._receive(response)

    def _opened(self, response: requests.Response) -> None:
        self._shut_down = response.raw.shutdown

    def _receive(self, response: requests.Response) -> None:
        declared = response.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise self._too_large()
        for chunk in response.iter_content(_CHUNK):
            self.data += chunk
            if len(self.data) > self._max_bytes:
                raise self._too_large()
            self._left()
        if declared.isdecimal() and "content-encoding" not in response.headers and len(self.data) != int(declared):
            raise DownloadError(f"the connection broke after {len(self.data)} of {declared} bytes; try again")

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DownloadError(_LATE)
        return left

    def _too_large(self) -> DownloadError:
        return DownloadError(f"it has more than the {self._max_bytes} bytes that are read (max_bytes)")


def reason_of(error: BaseException) -> str:
    """Return the innermost cause, which is the readable one."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__
