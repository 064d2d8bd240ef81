"""The running process: sockets, signals, and an end that loses no accepted request."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import math
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from hypercorn.asyncio import serve as serve_http
from hypercorn.config import Config

from ..errors import GhostZooError, OptionError
from .app import create_app
from .brpc.server import BrpcServer
from .logs import LineWriter, log_lines
from .open_inference.grpc_server import grpc_server
from .options import ServeOptions
from .service import Service

_logger = logging.getLogger("ghostzoo.serve")

_BACKLOG = 1024
_IDLE_SECONDS = 30.0
"""For which a connection may have no request, or only a part of its headers."""
_CLOSING_SECONDS = 1.0
"""On shutdown, time for clients with idle connections to send what they are about to send, and hear 'close'."""
_END_SECONDS = 5.0
"""After ``drain_timeout`` the process has so many to end; what still hangs then is left."""
FORCED_STATUS = 1
"""Exit status of a process that was ended with something left."""
_LAST_SECONDS = 1.0
"""For the last line of the log, whose reader may hang too."""

_NEW_OBJECTS = 3000
"""After which Python looks for garbage; after its own few hundred, it would go through all requests in hand."""

_SO_ATTACH_FILTER = 26
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
"""Linux, filter.h: the program "return 0", by which every packet is dropped."""


def serve(options: ServeOptions) -> None:
    """Load the models, then serve until SIGTERM or SIGINT; accepted requests are answered before it returns.

    Where something hangs, or at a second SIGINT, it does not return: the process is ended, with ``FORCED_STATUS``.

    Raises:
        GhostZooError: a model, an engine or an address cannot be used.
        KeyboardInterrupt: it was SIGINT that ended it.
    """
    with log_lines(text=options.text_log) as lines, _rare_gc(), asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            ended_by = runner.run(_serve(options, lines))
            if ended_by == signal.SIGINT and not options.text_log:
                _logger.info("interrupted")
        except (GhostZooError, OSError):
            raise
        except Exception:
            _logger.critical("The server has failed.", exc_info=True)
            sys.exit(1)
    if ended_by == signal.SIGINT:
        raise KeyboardInterrupt


def new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _serve(options: ServeOptions, lines: LineWriter) -> int | None:
    """Serve until a signal comes, and return its number."""
    asyncio.get_running_loop().set_exception_handler(on_loop_error)
    listener = Listener(options)
    service = Service(options)
    service.metrics.watch_log(lambda: lines.dropped)
    end = _HardEnd(service, lines)
    stop = asyncio.Event()
    signals: list[int] = []
    grpc, brpc = None, None

    async def stopped() -> None:
        await stop.wait()
        await listener.accept_the_rest(service.stopping)

    try:
        if options.grpc_port is not None:
            grpc, grpc_port = grpc_server(service)
        if options.brpc_port is not None:
            brpc = BrpcServer(service)
        await service.load()
        addresses = {"http": listener.url}
        if grpc is not None:
            await grpc.start()
            addresses["grpc"] = f"{_bracketed(options.host)}:{grpc_port}"
        if brpc is not None:
            await brpc.start()
            addresses["brpc"] = f"{_bracketed(options.host)}:{brpc.port}"
        _on_signals(stop, signals, end, options.drain_timeout)
        draining = asyncio.create_task(_stop_with(service, [each for each in (grpc, brpc) if each is not None]))
        if options.text_log:
            lines.put(_greeting(service, addresses))
        else:
            _logger.info("ghostzoo serves", extra={"fields": addresses})
        app: Any = create_app(service)  # Starlette's types say the same as Hypercorn's in other words
        await serve_http(app, http_config(options, listener), shutdown_trigger=stopped, mode="asgi")
        service.stopping.set()
        await draining
    finally:
        listener.close()
        if not await service.close():
            end.now()
    return signals[0] if signals else None


@contextmanager
def _rare_gc() -> Iterator[None]:
    """Look for garbage less often, and not among what is there before models are: nothing else runs meanwhile."""
    thresholds = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell the log of an error that nobody caught, but for connections that clients, or the system, broke off."""
    if "transport" in context and isinstance(context.get("exception"), ConnectionError | TimeoutError):
        _logger.debug("A connection ended: %s.", context["exception"])
    else:
        loop.default_exception_handler(context)


def _greeting(service: Service, addresses: dict[str, str]) -> str:
    """What a person at a terminal wants to know."""
    where = addresses["http"].replace("//0.0.0.0:", "//localhost:").replace("//[::]:", "//localhost:")
    what = "Open it in a browser to try it, or see" if service.options.page else "See"
    others = {"grpc": "gRPC", "brpc": "bRPC"}
    others_listen = "".join(f" {others[key]} listens on {addresses[key]}." for key in others if key in addresses)
    return (
        f"\nghostzoo serves {', '.join(service.repository.names)} at {where}\n"
        f"{what} {where}/docs for programs.{others_listen}\n"
        "Press Ctrl+C to stop; what was accepted is answered first.\n"
    )


async def _stop_with(service: Service, others: list[Any]) -> None:
    """When the server begins to stop, let the other protocols finish what they have accepted, as HTTP does."""
    await service.stopping.wait()
    await asyncio.gather(*(each.stop(service.options.drain_timeout) for each in others))


def _on_signals(stop: asyncio.Event, signals: list[int], end: _HardEnd, drain_timeout: float) -> None:
    """Begin to stop at SIGTERM, SIGINT or Windows' Ctrl-Break, of which ``signals`` are told, and end at once at a
    second SIGINT."""
    loop = asyncio.get_running_loop()

    def obey(number: int, _: object) -> None:
        signals.append(number)
        end.within(0 if stop.is_set() and number == signal.SIGINT else drain_timeout + _END_SECONDS)
        loop.call_soon_threadsafe(stop.set)

    if threading.current_thread() is threading.main_thread():
        numbers = [signal.SIGTERM, signal.SIGINT]
        if sys.platform == "win32":
            numbers.append(signal.SIGBREAK)
        for number in numbers:
            signal.signal(number, obey)


def http_config(options: ServeOptions, listener: Listener) -> Config:
    """What Hypercorn is told: its limits on what comes before a request is whole, and the socket to accept from."""
    config = Config()
    config.bind = [f"fd://{listener.give_away()}"]
    config.backlog = _BACKLOG
    config.h11_max_incomplete_size = options.limits.max_header_bytes
    config.h2_max_header_list_size = options.limits.max_header_bytes
    config.keep_alive_timeout = _IDLE_SECONDS
    config.keep_alive_max_requests = sys.maxsize
    config.max_app_queue_size = 3  # parts of a body that nobody has asked for yet, and are not in the budget
    config.graceful_timeout = options.drain_timeout
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


class Listener:
    """The listening socket: Hypercorn accepts from it, and here is decided until when.

    Raises:
        OptionError: the address cannot be had.
    """

    def __init__(self, options: ServeOptions) -> None:
        host, port = options.host, options.port
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._given = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except (OSError, OverflowError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise OptionError(f"Cannot listen on {host}, port {port}: {reason}; choose another.") from error
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections have it from here
            self._given.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(1000 * options.write_timeout))
        self._own = self._given.dup()
        self.url = f"http://{_bracketed(self._own.getsockname()[0])}:{self._own.getsockname()[1]}"

    def give_away(self) -> int:
        """Return a descriptor of the socket, which is the caller's to close."""
        return self._given.detach()

    def close(self) -> None:
        self._own.close()
        self._given.close()

    async def accept_the_rest(self, stopping: asyncio.Event) -> None:
        """Return when what the system has accepted is taken, and clients have had time to hear that this is the end.

        On Linux no client gets a connection meanwhile, so that none is lost when the socket is closed; elsewhere a few
        may, that connect in the last moment.
        """
        if sys.platform == "linux":
            program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
            one = struct.pack("HL", 1, ctypes.addressof(program))
            with suppress(OSError):  # as in sandboxes
                self._own.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, one)
        end = time.monotonic() + _CLOSING_SECONDS
        while select.select([self._own], [], [], 0)[0] and time.monotonic() < end:
            await asyncio.sleep(0.01)
        stopping.set()
        await asyncio.sleep(_CLOSING_SECONDS)
        self._own.close()


class _HardEnd:
    """The end that does not wait: a thread that hangs in native code cannot be ended, only its process can.

    Args:
        service: what may be left then is told to the log.
        log: what writes the log's lines.
    """

    def __init__(self, service: Service, log: LineWriter) -> None:
        self._service = service
        self._log = log
        self._ends: SimpleQueue[float] = SimpleQueue()
        threading.Thread(target=self._watch, name="ghostzoo-end", daemon=True).start()

    def within(self, seconds: float) -> None:
        """End the process in so many seconds at the latest; may be called by a signal handler, and again."""
        self._ends.put(time.monotonic() + seconds)

    def now(self) -> None:
        """End the process; does not return."""
        last = threading.Thread(target=self._last_steps, daemon=True)
        last.start()
        last.join(_LAST_SECONDS)
        os._exit(FORCED_STATUS)

    def _watch(self) -> None:
        end = math.inf
        while (left := end - time.monotonic()) > 0:
            try:
                end = min(end, self._ends.get(timeout=None if left == math.inf else left))
            except Empty:
                break
        self.now()

    def _last_steps(self) -> None:
        self._service.kill_decoders()
        fields = {"left": self._service.in_hand}
        _logger.error("The server was ended with work left.", extra={"fields": fields})
        self._log.close(_LAST_SECONDS)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
