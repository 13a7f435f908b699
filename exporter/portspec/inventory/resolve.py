"""Names → addresses through the system's resolver (getaddrinfo(3)), in parallel and with a time limit."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from portspec.limit import Limit
from portspec.scan import Failure, Reason
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LOOKUPS = 64  # getaddrinfo blocks a thread each
TIME_LIMIT = 5.0  # seconds for one name and family; glibc itself may take 10 and more

# No address of this family: an answer, not a failure. Whether the name exists at all, the other family tells.
_NO_ADDRESS = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), socket.EAI_ADDRFAMILY}
_NO_RESOURCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}


@dataclass(frozen=True, slots=True)
class Resolution:
    """The addresses of a name, IPv4 first, each once; `failure` says why they may not be all."""

    addresses: tuple[str, ...] = ()
    failure: Failure | None = None


class Resolver(Protocol):
    """Anything that turns a name into addresses; it answers with a Resolution and raises nothing."""

    async def resolve(self, name: str) -> Resolution:
        """Look one name up now."""
        ...


class Lookups:
    """How many look-ups a process makes at a time: threads that look up, and names that wait for them.

    A name has its turn when there is a thread for each of its address families, `families` of them.
    """

    def __init__(self, *, families: int = 1) -> None:
        self.threads = Limit(MAX_LOOKUPS)
        self.turns = Limit(MAX_LOOKUPS // families)

    def tune(self, *, families: int) -> None:
        """Look up in so many families from now on."""
        self.turns.most = MAX_LOOKUPS // families


class SystemResolver:
    """Looks up A records and, with `ipv6`, AAAA records; each family by itself.

    One family that fails while the other answers gives addresses and a failure, so that a host is not
    judged by half of its addresses without anybody knowing. `lookups` limits how many threads look up; names beyond
    that wait, and the time limit does not count that wait.
    """

    def __init__(
        self,
        *,
        ipv6: bool,
        time_limit: float = TIME_LIMIT,
        lookup: Callable[..., list[str]] | None = None,
        lookups: Lookups | None = None,
    ) -> None:
        self._families = (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)
        self._time_limit = time_limit
        self._lookup = lookup or _getaddrinfo
        self._lookups = lookups or Lookups(families=len(self._families))

    async def resolve(self, name: str) -> Resolution:
        """Look a name up now; see Resolution."""
        await self._lookups.turns.acquire()
        try:
            answers = await asyncio.gather(*(self._family(name, family) for family in self._families))
        finally:
            self._lookups.turns.release()
        addresses = tuple(dict.fromkeys(address for found, _ in answers for address in found))
        failures = [failure for _, failure in answers if failure]
        if not addresses and not failures:
            wanted = "A or AAAA" if len(self._families) > 1 else "A"
            return Resolution((), Failure(Reason.RESOLVE, f"does not resolve (no {wanted} record)"))
        if not failures:
            return Resolution(addresses)
        detail = "; ".join(dict.fromkeys(failure.detail for failure in failures))
        return Resolution(addresses, Failure(failures[0].reason, detail))

    async def _family(self, name: str, family: socket.AddressFamily) -> tuple[list[str], Failure | None]:
        try:
            return await asyncio.wait_for(self._in_thread(name, family), self._time_limit), None
        except TimeoutError:
            return [], _failed(family, f"no answer in {self._time_limit:g} s")
        except socket.gaierror as error:
            if error.errno in _NO_ADDRESS:
                return [], None
            return [], _failed(
                family, (error.strerror or str(error)).lower(), is_local=error.errno == socket.EAI_MEMORY
            )
        except OSError as error:
            why = error.strerror.lower() if error.strerror else str(error)
            return [], _failed(family, why, is_local=error.errno in _NO_RESOURCE)
        except (UnicodeError, RuntimeError) as error:  # the latter: no thread to be had (RLIMIT_NPROC, cgroup)
            return [], _failed(family, str(error), is_local=isinstance(error, RuntimeError))

    async def _in_thread(self, name: str, family: socket.AddressFamily) -> list[str]:
        """Look up in a thread; its place is free again when the thread ends, which may be long after the time limit."""
        threads = self._lookups.threads
        await threads.acquire()
        try:
            answer = in_daemon_thread(lambda: self._lookup(name, family), threads.release)
        except RuntimeError:
            threads.release()
            raise
        return await answer


def _failed(family: socket.AddressFamily, why: str, *, is_local: bool = False) -> Failure:
    version = "IPv6" if family == socket.AF_INET6 else "IPv4"
    reason = Reason.LOCAL_LIMIT if is_local else Reason.RESOLVE
    return Failure(reason, f"the look-up of its {version} addresses failed ({why})")


def _getaddrinfo(name: str, family: socket.AddressFamily) -> list[str]:
    found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]
