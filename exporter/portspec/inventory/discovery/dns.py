"""dns: names whose SRV, A or AAAA records are hosts."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import dns.asyncresolver
import dns.exception
import dns.resolver

from portspec.config.targetgroups import TargetGroup
from portspec.inventory.discovery.groups import Answer, find_hosts
from portspec.names import query_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portspec.config.model import DnsSource


class DnsClient:
    """Looks the names of one source up, all at once, at the name servers of resolv.conf(5), over TCP where it must.

    A name that does not exist is a failure, one without records of the type an empty list. A name without a final
    dot is tried with the search list, too, as the system's resolver does.
    """

    poll = math.inf

    def __init__(
        self, source: DnsSource, *, resolver: Callable[[], dns.asyncresolver.Resolver] = dns.asyncresolver.Resolver
    ) -> None:
        self._source = source
        self._resolver = resolver  # made for each look: resolv.conf may have changed

    async def ask(self) -> Mapping[str, Answer]:
        """Look every name up; the answers are by name."""
        names = self._source.names
        return dict(zip(names, await asyncio.gather(*map(self._answer, names)), strict=True))

    async def is_changed(self) -> bool:
        """Nobody tells before one asks."""
        return False

    async def _answer(self, name: str) -> Answer:
        source = self._source
        try:
            async with asyncio.timeout(source.timeout + 1):  # the resolver's own limit comes first
                answer = await self._resolver().resolve(
                    query_name(name), source.type, raise_on_no_answer=False, lifetime=source.timeout, search=True
                )
        except (TimeoutError, dns.exception.Timeout):
            why = f"no answer in {source.timeout:g} s"
        except dns.resolver.NXDOMAIN:
            why = "the name does not exist"
        except dns.resolver.NoNameservers as error:
            why = f"no name server answers it: {str(error).partition(': ')[2] or 'all failed'}"
        except dns.resolver.NoResolverConfiguration:
            why = "no name server is known; see /etc/resolv.conf"
        except dns.exception.DNSException as error:
            why = f"the look-up failed: {str(error) or type(error).__name__}"
        except OSError as error:
            why = f"the look-up failed: {(error.strerror or str(error)).lower()}"
        else:
            return find_hosts([TargetGroup(_targets(answer, source.type))], source.entry)
        return Answer(failure=why)


def _targets(answer: dns.resolver.Answer, kind: str) -> tuple[str, ...]:
    """Give the hosts of an answer, sorted: name servers rotate their records, and that is no change."""
    if answer.rrset is None:
        return ()
    if kind != "SRV":
        return tuple(sorted({record.address for record in answer.rrset}))
    names = {record.target.to_text(omit_final_dot=True).lower() for record in answer.rrset}
    return tuple(sorted(names - {"."}))  # RFC 2782: "." says that the service is not offered
