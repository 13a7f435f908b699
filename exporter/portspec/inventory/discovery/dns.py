"""dns: names whose SRV, A or AAAA records are hosts."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver

from portspec.errors import NoThreadError
from portspec.inventory.discovery import resolvconf
from portspec.inventory.discovery.hosts import Answer, find_hosts
from portspec.inventory.discovery.nameserver import NameServer
from portspec.inventory.discovery.targetgroups import TargetGroup
from portspec.names import query_name
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portspec.config.model import DnsSource
    from portspec.inventory.discovery.resolvconf import ResolvConf

_PORT = 53
_DEFAULT_TIMEOUT = 2.0  # seconds for one question to one server where resolv.conf does not say


class DnsClient:
    """Looks the names of one source up, all at once, at the name servers of resolv.conf(5), over TCP where it must.

    A name that does not exist is a failure, one without records of the type an empty list. A name without a final
    dot is tried with the search list, too, as the system's resolver does.
    """

    poll = math.inf

    def __init__(
        self, source: DnsSource, *, configuration: Callable[[], ResolvConf] = resolvconf.read, port: int = _PORT
    ) -> None:
        self._source = source
        self._configuration = configuration  # read for each look: resolv.conf may have changed
        self._port = port

    async def ask(self) -> Mapping[str, Answer]:
        """Look up every name; return the answers by name."""
        names = self._source.names
        try:
            async with asyncio.timeout(self._source.timeout):
                found = await in_daemon_thread(self._configuration)
        except (OSError, NoThreadError) as error:  # a time-out is one of the former
            why = (isinstance(error, OSError) and error.strerror) or str(error) or "no answer from the disk"
            return dict.fromkeys(names, Answer(failure=f"{resolvconf.PATH} cannot be read: {why.lower()}"))
        return dict(zip(names, await asyncio.gather(*(self._answer(name, found) for name in names)), strict=True))

    async def is_changed(self) -> bool:
        """Return False: this source cannot signal changes."""
        return False

    async def _answer(self, name: str, found: ResolvConf) -> Answer:
        source = self._source
        try:
            query = dns.name.from_text(query_name(name), origin=None)
            resolver = _resolver(found, query, self._port, source.timeout)
            async with asyncio.timeout(source.timeout + 1):  # the resolver's own limit comes first
                answer = await resolver.resolve(
                    query,
                    source.type,
                    tcp=found.use_tcp,
                    raise_on_no_answer=False,
                    lifetime=source.timeout,
                    search=True,
                )
        except (TimeoutError, dns.exception.Timeout):
            why = f"no answer in {source.timeout:g} s{_default(found)}"
        except dns.resolver.NXDOMAIN:
            why = "the name does not exist"
        except dns.resolver.NoNameservers as error:
            why = f"no name server answered: {str(error).partition(': ')[2] or 'all failed'}{_default(found)}"
        except dns.exception.DNSException as error:
            why = f"the lookup failed: {str(error) or type(error).__name__}"
        except OSError as error:
            why = f"the lookup failed: {(error.strerror or str(error)).lower()}"
        else:
            return find_hosts([TargetGroup(_targets(answer, source.type))], source.entry)
        return Answer(failure=why)


def _resolver(found: ResolvConf, query: dns.name.Name, port: int, lifetime: float) -> dns.asyncresolver.Resolver:
    """Return the resolver of one lookup; `lifetime` (seconds) is enough to ask each server once.

    Raises OSError where the name of this machine is none that the DNS could have: dnspython wants to know it.
    """
    servers = found.servers or (resolvconf.DEFAULT_SERVER,)
    try:
        resolver = dns.asyncresolver.Resolver(configure=False)
    except dns.exception.DNSException as error:
        raise OSError(f"the name of this machine is not a host name: {error}") from None
    resolver.domain = dns.name.root
    resolver.nameservers = [NameServer(server, port) for server in servers]
    resolver.search = [suffix for suffix in map(_absolute, found.search) if suffix and _is_name(query, suffix)]
    resolver.ndots = found.ndots
    resolver.rotate = found.rotate
    resolver.timeout = min(
        max(1, found.timeout) if found.timeout is not None else _DEFAULT_TIMEOUT, lifetime / len(servers)
    )
    if found.edns0:
        resolver.use_edns()
    return resolver


def _absolute(labels: tuple[bytes, ...]) -> dns.name.Name | None:
    try:
        return dns.name.Name([*labels, b""])
    except dns.exception.DNSException:  # longer than a name may be
        return None


def _is_name(query: dns.name.Name, suffix: dns.name.Name) -> bool:
    """Return whether a name with a suffix is no longer than a name may be."""
    try:
        return query.is_absolute() or bool(query + suffix)
    except dns.exception.DNSException:
        return False


def _default(found: ResolvConf) -> str:
    """Return a note about the default server if resolv.conf has no usable one."""
    nobody = f" ({resolvconf.PATH} has no usable name server, so {resolvconf.DEFAULT_SERVER} was asked)"
    return "" if found.servers else nobody


def _targets(answer: dns.resolver.Answer, kind: str) -> tuple[str, ...]:
    """Return the hosts of an answer, sorted: name servers rotate their records, and that is no change."""
    if answer.rrset is None:
        return ()
    if kind != "SRV":
        return tuple(sorted({record.address for record in answer.rrset}))
    names = {record.target.to_text(omit_final_dot=True).lower() for record in answer.rrset}
    return tuple(sorted(names - {"."}))  # RFC 2782: "." says that the service is not offered
