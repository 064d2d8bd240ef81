"""URLs of clients -> the images behind them: so many at once, shared fairly, and counted as their bytes come."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Collection
from contextlib import suppress
from ipaddress import IPv6Address, ip_address, ip_network

from .._utils.addresses import AddressPolicy
from .._utils.http import LATE, Download, DownloadError
from ..errors import ImageError
from ..images.decode import ImageLimits, describe
from .memory import Hold
from .request_errors import late

AT_ONCE = 32
"""Downloads at once; they wait for other machines and do not need a CPU each."""
OF_ONE_CLIENT = 8
"""Of these, the most that one client has, so that four have to be slow at the same time before another waits."""


class FairSlots:
    """So many at once, shared among clients: none has more than its part, and those that wait come round in turn.

    Used on the event loop alone.
    """

    def __init__(self, at_once: int, of_one_client: int) -> None:
        self._free = at_once
        self._part = of_one_client
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, client: str) -> None:
        """Wait for a turn; whoever got one has to give it back."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(client, turn)
            else:  # it came in the same moment
                self.give_back(client)
            raise

    def give_back(self, client: str) -> None:
        self._free += 1
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        self._grant()

    def _grant(self) -> None:
        while self._free and (client := self._next()) is not None:
            turn = self._waiting[client][0]
            self._forget(client, turn)
            if client in self._waiting:
                self._waiting.move_to_end(client)
            if not turn.done():
                self._free -= 1
                self._running[client] += 1
                turn.set_result(None)

    def _next(self) -> str | None:
        return next((client for client in self._waiting if self._running[client] < self._part), None)

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(client, deque())
        with suppress(ValueError):  # it was passed over already
            turns.remove(turn)
        if not turns:
            self._waiting.pop(client, None)


class Fetcher:
    """Fetches images for clients.

    Args:
        limits: of each image.
        policy: which addresses may be connected to.
        ports: which ports may be connected to.
    """

    def __init__(self, limits: ImageLimits, policy: AddressPolicy, ports: Collection[int]) -> None:
        self._limits = limits
        self._policy = policy
        self._ports = ports
        self._turns = FairSlots(AT_ONCE, OF_ONE_CLIENT)

    async def fetch(self, url: str, client: str | None, deadline: float, hold: Hold) -> bytes | ImageError:
        """Fetch an image, or return why there is none. If the caller is cancelled, the download ends with it.

        Args:
            client: the address that asks.
            deadline: by the event loop's clock.
            hold: told of the bytes as they come; where it raises, the download ends with its error.

        Raises:
            RequestError: the deadline has passed, or ``hold`` raised it.
        """
        part = _network(client)
        try:
            async with asyncio.timeout_at(deadline):
                await self._turns.take(part)
                return await self._download(url, part, hold)
        except DownloadError as error:
            return ImageError(describe(url), str(error))
        except TimeoutError:
            raise late() from None

    async def _download(self, url: str, part: str, hold: Hold) -> bytes:
        loop = asyncio.get_running_loop()
        image: asyncio.Future[bytes] = loop.create_future()

        async def count(size: int) -> None:
            if image.done():  # whoever waited for it has gone, and with it what it held
                raise DownloadError(LATE)
            try:
                hold(size)
            except Exception as error:
                image.set_exception(error)
                raise

        def count_from_thread(size: int) -> None:
            asyncio.run_coroutine_threadsafe(count(size), loop).result(self._limits.url_timeout)

        def end() -> None:
            self._turns.give_back(part)  # not before: a name look-up goes on where nobody waits for it any more
            if image.done():
                return
            try:
                image.set_result(download.result())
            except DownloadError as error:
                image.set_exception(error)

        def end_from_thread() -> None:
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(end)

        download = Download(
            url,
            max_bytes=self._limits.max_bytes,
            timeout=self._limits.url_timeout,
            max_redirects=self._limits.max_redirects,
            address_policy=self._policy,
            ports=self._ports,
            on_bytes=count_from_thread,
            on_end=end_from_thread,
        )
        download.start()
        try:
            async with asyncio.timeout(self._limits.url_timeout):
                return await image
        except TimeoutError:
            raise DownloadError(LATE) from None
        finally:
            download.abandon()


def _network(client: str | None) -> str:
    """Who counts as one client: an address, or for IPv6 the /64 that one subscriber has at least."""
    try:
        address = ip_address((client or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or ip_network((address, 64), strict=False))
    return str(address)
