"""Names → addresses through the system's resolver (getaddrinfo(3)), in parallel and with a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LOOKUPS = 64  # getaddrinfo blocks a thread each
TIME_LIMIT = 5.0  # seconds for one name and family; glibc itself may take 10 and more

# No address of this family: an answer, not a failure. Whether the name exists at all, the other family tells.
_NO_ADDRESS = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), socket.EAI_ADDRFAMILY}


@dataclass(frozen=True, slots=True)
class Resolution:
    """The addresses of a name, IPv4 first, each once; `failure` says why they may not be all."""

    addresses: tuple[str, ...] = ()
    failure: str | None = None


class Resolver(Protocol):
    """Anything that turns a name into addresses; it answers with a Resolution and raises nothing."""

    async def resolve(self, name: str) -> Resolution:
        """Look one name up now."""
        ...


class SystemResolver:
    """Looks up A records and, with `ipv6`, AAAA records; each family by itself.

    One family that fails while the other answers gives addresses and a failure, so that a host is not
    judged by half of its addresses without anybody knowing.
    """

    def __init__(
        self, *, ipv6: bool, time_limit: float = TIME_LIMIT, lookup: Callable[..., list[str]] | None = None
    ) -> None:
        self._families = (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)
        self._time_limit = time_limit
        self._lookup = lookup or _getaddrinfo
        self._slots = asyncio.Semaphore(MAX_LOOKUPS)

    async def resolve(self, name: str) -> Resolution:
        """Look a name up now; see Resolution."""
        answers = await asyncio.gather(*(self._family(name, family) for family in self._families))
        addresses = tuple(dict.fromkeys(address for found, _ in answers for address in found))
        failures = dict.fromkeys(failure for _, failure in answers if failure)
        if not addresses and not failures:
            wanted = "A or AAAA" if len(self._families) > 1 else "A"
            return Resolution((), f"does not resolve (no {wanted} record)")
        return Resolution(addresses, "; ".join(failures) or None)

    async def _family(self, name: str, family: socket.AddressFamily) -> tuple[list[str], str | None]:
        await self._slots.acquire()
        try:
            answer = _in_thread(lambda: self._lookup(name, family), self._slots.release)
        except RuntimeError as error:  # no thread to be had (RLIMIT_NPROC, cgroup): as good as no resolver
            self._slots.release()
            return [], _failed(family, str(error))
        try:
            return await asyncio.wait_for(answer, self._time_limit), None
        except TimeoutError:
            return [], _failed(family, f"no answer in {self._time_limit:g} s")
        except socket.gaierror as error:
            if error.errno in _NO_ADDRESS:
                return [], None
            return [], _failed(family, (error.strerror or str(error)).lower())
        except (OSError, UnicodeError) as error:
            return [], _failed(family, str(error))


def _failed(family: socket.AddressFamily, why: str) -> str:
    version = "IPv6" if family == socket.AF_INET6 else "IPv4"
    return f"the look-up of its {version} addresses failed ({why})"


def _getaddrinfo(name: str, family: socket.AddressFamily) -> list[str]:
    found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _in_thread(work: Callable[[], list[str]], done: Callable[[], None]) -> asyncio.Future[list[str]]:
    """Run `work` in a daemon thread: one that hangs in the C library must not hold up the exit of the program.

    `done` is called on the event loop when the thread has really ended, also after a time limit.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[str]] = loop.create_future()

    def finish(result: list[str] | None, error: BaseException | None) -> None:
        done()
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result or [])

    def run() -> None:
        result: list[str] | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as caught:  # noqa: BLE001 - carried to the one who waits
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name="portspec-resolve", daemon=True).start()
    return future
