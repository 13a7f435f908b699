"""Names → addresses through the system's resolver (getaddrinfo(3)), in parallel and with a time limit."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from portspec.deny import NOTHING
from portspec.errors import NoThreadError
from portspec.inventory.hostsfile import HostsFile
from portspec.limit import Limit
from portspec.names import address_of, fault_of, query_name
from portspec.scan import Failure, Reason
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portspec.deny import Deny
    from portspec.inventory.targets import Target

MAX_LOOKUPS = 64  # getaddrinfo blocks a thread each
MAX_ADDRESSES = 64  # of a name
LOOKUP_TIMEOUT = 5.0  # seconds for one name and family; glibc itself may take 10 and more

# No address of this family: an answer, not a failure. Whether the name exists at all, the other family tells.
_NO_ADDRESS = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), socket.EAI_ADDRFAMILY}
_BOTH_FAMILIES = socket.AF_UNSPEC
# Of a name with many more addresses than are scanned, so many times as many are looked at, the lowest ones: a DNS
# message has room for 4,000, and to judge all of them takes a quarter of a second of the event loop.
_EXAMINED = 4
_MAX_FAULTS = 3  # addresses of a name that a failure names
_LOCAL_NAMES = {"localhost", "localhost.localdomain"}  # RFC 6761, 6.3, and nss-myhostname(8)
_LOCAL_RESOURCE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}


@dataclass(frozen=True, slots=True)
class Resolution:
    """The addresses of a name, IPv4 first, each once; `failure` says why they may not be all."""

    addresses: tuple[str, ...] = ()
    failure: Failure | None = None


class Resolver(Protocol):
    """Anything that turns a name into addresses; it answers with a Resolution and raises nothing."""

    async def resolve(self, name: str, deny: Deny = NOTHING, /) -> Resolution:
        """Look up one name now. Addresses that `deny` covers are left out, with a failure."""
        ...


async def addresses_of(target: Target, resolver: Resolver) -> Resolution:
    """Return the addresses of a target now, without those that are denied to it."""
    if target.address is None:
        return await resolver.resolve(target.host, target.deny)
    if fault := target.deny.fault_of(target.address):
        return Resolution((), Failure(Reason.DENIED, f"{target.address} {fault}"))
    return Resolution((target.address,))


class Lookups:
    """How many look-ups a process makes at a time: `most` threads that look up, and names that wait for them.

    A name has its turn when there is a thread for each of its address families, `families` of them.
    """

    def __init__(self, *, families: int = 1, most: int = MAX_LOOKUPS) -> None:
        self.threads = Limit(most)
        self.turns = Limit(most // families)

    def tune(self, *, families: int) -> None:
        """Change the number of address families."""
        self.turns.most = self.threads.most // families


class SystemResolver:
    """Looks up A records and, with `ipv6`, AAAA records; each family by itself.

    One family that fails while the other answers gives addresses and a failure, so that a host is not
    silently judged by half of its addresses. A name that /etc/hosts answers for, before any name
    server is asked, has the addresses listed there, and no family can fail. An address that is not allowed in
    conf.yml is a failure, and so is a loopback address of a name that is not this machine's own. Of more than
    `max_addresses` addresses, the lowest are returned with a failure: the owner of a name must not decide how much
    is scanned. `lookups` limits the number of threads that look up names; the time limit does not include the wait for
    a free thread.
    """

    def __init__(
        self,
        *,
        ipv6: bool,
        max_addresses: int = MAX_ADDRESSES,
        time_limit: float = LOOKUP_TIMEOUT,
        lookup: Callable[..., list[str]] | None = None,
        lookups: Lookups | None = None,
        hosts_file: HostsFile | None = None,
    ) -> None:
        self._families = (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)
        self._max_addresses = max_addresses
        self._time_limit = time_limit
        self._lookup = lookup or _getaddrinfo
        self._lookups = lookups or Lookups(families=len(self._families))
        self._hosts_file = hosts_file or HostsFile()

    async def resolve(self, name: str, deny: Deny = NOTHING, /) -> Resolution:
        """Look up a name now; see Resolution and Resolver."""
        try:
            query = query_name(name)
        except ValueError as error:
            return Resolution((), Failure(Reason.RESOLVE, str(error)))
        await self._lookups.turns.acquire()
        try:
            families = await self._families_of(query)
            answers = await asyncio.gather(*(self._family(query, family) for family in families))
            found = list({text: None for texts, _ in answers for text in texts})
            count = len(found)
            if count > (most := self._max_addresses * _EXAMINED):
                found = sorted(found, key=_order)[:most]
            found.sort(key=lambda text: ":" in text)
            is_local = any(map(_is_loopback, found)) and await self._is_local(query)
        finally:
            self._lookups.turns.release()
        denied = {text: fault for text in found if (fault := deny.fault_of(text))}
        faults = {text: fault for text in found if text not in denied and (fault := _fault(text, is_local=is_local))}
        addresses = tuple(text for text in found if text not in denied and text not in faults)
        failures = _rejected(Reason.DENIED, denied, "are denied")
        failures += [failure for _, failure in answers if failure]
        failures += _rejected(Reason.RESOLVE, faults, "cannot be scanned")
        if count == len(found):
            count = len(addresses)
        if count > self._max_addresses:
            # Name servers rotate their records: the same ones each time.
            addresses = tuple(sorted(addresses, key=_order)[: self._max_addresses])
            why = f"has {count:,} addresses, of which {len(addresses):,} are scanned (scan: max_addresses)"
            failures.append(Failure(Reason.RESOLVE, why))
        if not addresses and not failures:
            wanted = "A or AAAA" if len(self._families) > 1 else "A"
            return Resolution((), Failure(Reason.RESOLVE, f"does not resolve (no {wanted} record)"))
        if not failures:
            return Resolution(addresses)
        detail = "; ".join(dict.fromkeys(failure.detail for failure in failures))
        return Resolution(addresses, Failure(failures[0].reason, detail))

    async def _families_of(self, query: str) -> tuple[socket.AddressFamily, ...]:
        """Return the families to ask for: both in one where the file answers for both."""
        if len(self._families) > 1 and await self._of_file(lambda: self._hosts_file.answers_alone(query)):
            return (_BOTH_FAMILIES,)
        return self._families

    async def _is_local(self, query: str) -> bool:
        """Return whether a name may have a loopback address: by its meaning, or since /etc/hosts gives it one."""
        name = query.removesuffix(".")
        if name in _LOCAL_NAMES or name.endswith(".localhost") or name == socket.gethostname().lower():
            return True
        return await self._of_file(lambda: any(item.is_loopback for item in self._hosts_file.addresses(query)))

    async def _of_file(self, question: Callable[[], bool]) -> bool:
        try:
            return await in_daemon_thread(question)
        except NoThreadError:  # which the look-up itself tells
            return False

    async def _family(self, name: str, family: socket.AddressFamily) -> tuple[list[str], Failure | None]:
        try:
            async with asyncio.timeout(self._time_limit):
                return await self._in_thread(name, family), None
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
            return [], _failed(family, why, is_local=error.errno in _LOCAL_RESOURCE_ERRORS)
        except NoThreadError as error:
            return [], _failed(family, str(error), is_local=True)

    async def _in_thread(self, name: str, family: socket.AddressFamily) -> list[str]:
        """Look up in a thread; it occupies its slot until it ends, which may be long after the timeout."""
        threads = self._lookups.threads
        await threads.acquire()
        try:
            answer = in_daemon_thread(lambda: self._lookup(name, family), threads.release)
        except NoThreadError:
            threads.release()
            raise
        return await answer


def _failed(family: socket.AddressFamily, why: str, *, is_local: bool = False) -> Failure:
    version = {socket.AF_INET: "IPv4 ", socket.AF_INET6: "IPv6 "}.get(family, "")
    reason = Reason.LOCAL_LIMIT if is_local else Reason.RESOLVE
    return Failure(reason, f"the lookup of its {version}addresses failed ({why})")


def _rejected(reason: Reason, faults: Mapping[str, str], what: str) -> list[Failure]:
    """Return the failures of addresses that are not scanned: the first ones by name, and the number of the others."""
    told = [f"its address {text} {fault}" for text, fault in islice(faults.items(), _MAX_FAULTS)]
    if (more := len(faults) - _MAX_FAULTS) > 0:
        told.append(f"and {more} more {what}")
    return [Failure(reason, why) for why in told]


def _order(text: str) -> tuple[bool, bytes]:
    """Return by what addresses are sorted: IPv4 before IPv6, each by number; quick, for thousands of them."""
    is_ipv6 = ":" in text
    try:
        return is_ipv6, socket.inet_pton(socket.AF_INET6 if is_ipv6 else socket.AF_INET, text.partition("%")[0])
    except OSError:
        return is_ipv6, b""


def _is_loopback(text: str) -> bool:
    address = address_of(text)
    return address is not None and fault_of(address) is None and address.is_loopback


def _fault(text: str, *, is_local: bool) -> str | None:
    """Return why an address that a name resolved to cannot be scanned; None if it can be."""
    address = address_of(text)
    if "%" in text:
        return "has a zone (%…); portspec scans addresses without one"
    fault = fault_of(address) if address else "is none"
    if fault is None and not is_local and _is_loopback(text):
        return "is this machine's own (loopback); if that is meant, list the name in /etc/hosts"
    return fault


def _getaddrinfo(name: str, family: socket.AddressFamily) -> list[str]:
    """Look up an ASCII name: Python would encode any other with IDNA 2003. The zone of an address is kept (`…%2`)."""
    found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    return [_spelled(sockaddr) for *_, sockaddr in found]


def _spelled(sockaddr: tuple[Any, ...]) -> str:
    address, _, *more = sockaddr  # IPv6: flow label and zone
    return f"{address}%{more[1]}" if more and more[1] else str(address)
