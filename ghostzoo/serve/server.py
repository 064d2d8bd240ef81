"""The running process: sockets, signals, and an end that loses no accepted request."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from ..errors import GhostZooError, OptionError
from .access import log_refusal
from .app import create_app
from .connection import limited_protocol
from .hard_end import HardEnd
from .logs import LineWriter, json_lines
from .open_inference.grpc_server import grpc_server
from .options import ServeOptions
from .service import Service

_logger = logging.getLogger("ghostzoo.serve")

_KEEP_ALIVE_SECONDS = 30
_IDLE_SECONDS = 1.0
"""On shutdown, time for clients with idle connections to send what they are about to send, and hear 'close'."""
_END_SECONDS = 5.0
"""After ``drain_timeout`` the process has so many to end; what still hangs then is left."""


def serve(options: ServeOptions) -> None:
    """Load the models, then serve until SIGTERM or SIGINT; accepted requests are answered before it returns.

    Where something hangs, or at a second SIGINT, it does not return: the process is ended, with ``FORCED_STATUS``.

    Raises:
        GhostZooError: a model, an engine or an address cannot be used.
    """
    loop_factory = uvicorn.Config("", loop="auto").get_loop_factory()  # uvloop where there is one
    with json_lines() as lines, asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            runner.run(_serve(options, lines))
        except (GhostZooError, OSError):
            raise
        except Exception:
            _logger.critical("The server has failed.", exc_info=True)
            sys.exit(1)


async def _serve(options: ServeOptions, lines: LineWriter) -> None:
    listener = listen(options.host, options.port)
    service = Service(options)
    service.metrics.watch_log(lambda: lines.dropped)
    end = HardEnd(lambda: service.scheduler.in_hand, service.kill_decoders, lines)
    try:
        grpc, grpc_port = grpc_server(service) if options.grpc_port is not None else (None, None)
        await service.load()
        server = DrainingServer(http_config(service), service, end)
        host, port = listener.getsockname()[:2]
        addresses = {"http": f"http://{_bracketed(host)}:{port}"}
        if grpc is not None:
            await grpc.start()
            addresses["grpc"] = f"{_bracketed(host)}:{grpc_port}"
        _logger.info("ghostzoo serves", extra={"fields": addresses})
        draining = asyncio.create_task(_stop_with(service, grpc))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, lambda *_: end.within(0))  # for when uvicorn has ended, and gives it back
        await server.serve([listener])
        service.stopping.set()
        await draining
    finally:
        listener.close()
        if not await service.close():
            end.now()


async def _stop_with(service: Service, grpc: Any) -> None:
    """When the server begins to stop, let gRPC finish what it has accepted, at the same time as HTTP does."""
    await service.stopping.wait()
    if grpc is not None:
        await grpc.stop(service.options.drain_timeout)


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        OptionError: the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise OptionError(f"Cannot listen on {host}, port {port}: {reason}; choose another.") from error


def http_config(service: Service) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(service),
        http=limited_protocol(
            service.options.limits.max_header_bytes, partial(log_refusal, service), service.options.write_timeout
        ),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(service.options.drain_timeout)),
    )


class DrainingServer(uvicorn.Server):
    """Stops in three steps: no new connections; every answer closes its connection; what is left idle is closed."""

    def __init__(self, config: uvicorn.Config, service: Service, end: HardEnd) -> None:
        super().__init__(config)
        self.should_exit: bool = False
        self._service = service
        self._end = end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second SIGINT stops at once. The signal is not raised again after the end: it was obeyed."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        self._end.within(0 if self.force_exit else self._service.options.drain_timeout + _END_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stopping.set()
        for server in self.servers:
            server.close()
        end = asyncio.get_running_loop().time() + _IDLE_SECONDS
        while self.server_state.connections and asyncio.get_running_loop().time() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
