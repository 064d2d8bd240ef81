"""What ``ghostzoo serve`` can be told."""

from __future__ import annotations

import os
import re
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from .._utils.addresses import AddressPolicy, is_public
from .._utils.hardware import usable_cpus
from ..errors import OptionError
from ..fetch.options import FetchOptions
from ..images.decode import ImageLimits

ANY_HOST = "*"
_HOST_NAME = re.compile(r"[\w.-]+", re.ASCII)

API_KEY_VARIABLE = "GHOSTZOO_API_KEY"
"""Environment variable with the key that clients must show."""

_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::\d+)?")
_MIN_KEY_LENGTH = 16
_MOST_BODY_BYTES = 2**31 - 1


@dataclass(frozen=True)
class ServeLimits:
    """What one request may cost at most; each is checked before the memory is taken."""

    max_body_bytes: int = 64 * 2**20
    """Of one request, after decompression; less than 2 GiB, which is gRPC's own limit."""
    max_buffered_bytes: int = 512 * 2**20
    """Of all requests together, with what is unpacked and parsed of them, and of large answers; beyond it new ones are
    told to come back later."""
    max_header_bytes: int = 32 * 2**10
    """Request line and headers together; for gRPC, the metadata."""
    max_images: int = 64
    """Images, or rows of a tensor, in one call."""
    image: ImageLimits = field(default_factory=lambda: ImageLimits(max_bytes=32 * 2**20, max_pixels=50_000_000))

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_buffered_bytes", "max_header_bytes", "max_images"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)!r}.")
        if self.max_body_bytes > _MOST_BODY_BYTES:
            raise OptionError(f"max_body_bytes must be at most {_MOST_BODY_BYTES}, not {self.max_body_bytes}.")
        if self.max_body_bytes > self.max_buffered_bytes:
            raise OptionError(f"max_buffered_bytes must be at least max_body_bytes ({self.max_body_bytes}).")


@dataclass(frozen=True)
class ServeOptions:
    """All options of the server; the command line has one for each that people change."""

    models: tuple[str | None, ...] = ()
    """Names or bundle folders; a request that names no model gets the first. Without any, the package's own model."""
    engines: tuple[str, ...] = ("auto",)
    """Each model is loaded once for each; a request that names no engine gets the first."""
    fetching: FetchOptions = field(default_factory=FetchOptions)
    """Where models come from."""
    device: str | None = None
    precision: str = "fp32"
    threads: int | None = None
    """CPU threads within one call of the engine; one by default, since as many calls run at once as there are CPUs."""
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    """``None`` for no gRPC."""
    brpc_port: int | None = None
    """For clients of Paddle Serving's C++ server; ``None`` for none."""
    workers: int = field(default_factory=lambda: usable_cpus() + 1)
    """Threads that run the engine, and processes that decode; one more than CPUs, for one of them often waits for
    Python."""
    max_batch: int = 8
    max_delay: float = 0.005
    """Seconds that an image waits for others that are on their way, to share a call of the engine with them."""
    queue_size: int = 256
    """Images that may wait; a request beyond it is refused with 503."""
    deadline: float = 30.0
    """Seconds for one request, from its first byte to its answer."""
    write_timeout: float = 20.0
    """Seconds in which a client has to take in 16 KiB of an answer, or what is left of it; else it is dropped."""
    decode_processes: bool = sys.platform != "win32"
    """Whether images are decoded in processes of their own, one for each worker, or by the workers themselves. What
    hangs or crashes the decoder then costs its own image; a thread cannot be ended. Windows has no such processes."""
    decode_timeout: float = 15.0
    """Seconds that decoding one image may take in such a process: a few times what the largest takes."""
    drain_timeout: float = 30.0
    """Seconds that accepted requests have left after SIGTERM."""
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients may address the server, besides localhost, ``host`` and any address; ``*`` for any."""
    allow_urls: bool = False
    """Whether clients may have images fetched from other machines."""
    url_ports: tuple[int, ...] = (80, 443)
    """Ports of other machines that images may be fetched from."""
    url_policy: AddressPolicy = is_public
    """Which addresses images may be fetched from; there is no option of the command line for this one."""
    model_control: bool = False
    """Whether clients may unload and load the models that the server was started with."""
    page: bool = True
    """Whether the web page is served at ``/``."""
    text_log: bool = False
    """Whether the log is text for people, or JSON Lines."""
    limits: ServeLimits = field(default_factory=ServeLimits)

    def __post_init__(self) -> None:
        for name in ("workers", "max_batch", "queue_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)!r}.")
        if not self.url_ports or not all(0 < port < 65536 for port in self.url_ports):
            raise OptionError(f"url_ports must be ports from 1 to 65535, at least one, not {self.url_ports!r}.")
        if self.max_delay < 0 or self.drain_timeout < 0:
            raise OptionError("max_delay and drain_timeout must not be negative.")
        for name in ("deadline", "decode_timeout", "write_timeout"):
            if getattr(self, name) <= 0:
                raise OptionError(f"{name} must be above zero, not {getattr(self, name)!r}.")
        _check_host(self.host)
        for name in self.allowed_hosts:
            if name != ANY_HOST and _HOST_NAME.fullmatch(name) is None:
                raise OptionError(
                    "An allowed host is a name such as ghostzoo.example.com, without scheme and port, or *, not "
                    f"{name!r}."
                )
        for origin in self.cors_origins:
            _check_origin(origin)
        if self.queue_size < self.limits.max_images:
            raise OptionError(
                f"queue_size ({self.queue_size}) must be at least max_images ({self.limits.max_images}), "
                "or a full call could never be taken."
            )

    @property
    def engine_threads(self) -> int | None:
        """Threads to load the engines with; other devices than the CPU take no such option."""
        if self.threads is None and self.device in (None, "cpu", "CPU"):
            return 1
        return self.threads


def _check_host(host: str) -> None:
    """Refuse what cannot be listened on before any model is loaded."""
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise OptionError(
            f"Cannot listen on {host!r}, which is neither an address nor a name that this machine knows; 127.0.0.1 is "
            "for this machine alone, 0.0.0.0 for all that reach it."
        ) from error


def _check_origin(origin: str) -> None:
    """Refuse an origin that no browser sends; they are compared letter by letter."""
    if origin not in ("*", "null") and _ORIGIN.fullmatch(origin) is None:
        raise OptionError(
            f"{origin!r} is not an origin; write https://page.example or http://localhost:3000, in lower case and "
            "without a path or a slash at its end, or * for any."
        )


def find_api_key(file: str | None) -> str | None:
    """Return the key in ``file``, or else the one in the environment, or ``None`` where there is neither.

    Raises:
        OptionError: the file cannot be read, or the key is too short to keep anybody out.
    """
    key, place = os.environ.get(API_KEY_VARIABLE), API_KEY_VARIABLE
    if file is not None:
        place = file
        try:
            key = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"The API key file {file} cannot be read ({error}); check the path.") from error
    if key is None:
        return None
    if len(key) < _MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise OptionError(
            f"The API key in {place} must be at least {_MIN_KEY_LENGTH} printable ASCII characters without spaces; "
            "'openssl rand -hex 32' makes one."
        )
    return key
