"""A URL -> its bytes, within limits of size, time and redirects; nothing touches the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urljoin, urlsplit

import requests

from . import __version__
from .addresses import AddressPolicy, AddressRefusedError, PinnedAdapter

_CHUNK = 64 * 1024
_LATE = "it was not there in time; try again or raise url_timeout"
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
            with requests.Session() as session:
                session.headers["User-Agent"] = f"ghostzoo/{__version__}"
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
            self.error = DownloadError(f"it cannot be downloaded ({_reason(error)})")
        except Exception as error:  # whatever is not caught here would be lost with the thread
            self.error = DownloadError(f"it cannot be downloaded ({error})")

    def abandon(self) -> None:
        """Shut the connection down under the worker, so that it ends soon; closing would wait for its read to end."""
        if self._shut_down is not None:
            with suppress(OSError, RuntimeError, ValueError):  # the worker has ended it itself meanwhile
                self._shut_down()

    def _fetch(self, session: requests.Session, url: str) -> None:
        for _ in range(self._max_redirects + 1):
            if urlsplit(url).scheme.lower() not in ("http", "https"):
                raise DownloadError(f"it leads to {urlsplit(url).scheme}:, and only http and https are followed")
            with session.get(url, stream=True, allow_redirects=False, timeout=self._left()) as response:
                self._shut_down = response.raw.shutdown
                if response.status_code in _REDIRECTS and "location" in response.headers:
                    url = urljoin(url, response.headers["location"])
                    continue
                if response.status_code != 200:
                    raise DownloadError(f"the server answered {response.status_code} {response.reason}")
                self._receive(response)
                return
        raise DownloadError(f"it redirects more than {self._max_redirects} times")

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
        return DownloadError(f"it has more than the {self._max_bytes} bytes that are read; raise max_bytes")


def _reason(error: Exception) -> str:
    """The innermost cause, which is the readable one."""
    while isinstance(error.__cause__ or error.__context__, Exception):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error) or type(error).__name__
