from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dns.rcode
import pytest

from portspec.inventory.discovery.dns import DnsClient
from portspec.inventory.discovery.resolvconf import ResolvConf, parse
from tests.faults.registry import fault
from tests.unit.inventory.discovery.parts import NameServer, dns_source, name_server, names

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.inventory.discovery import Answer

SSH = "_ssh._tcp.example.org."
RECORDS = {
    (SSH, "SRV"): ["0 0 22 web2.example.org.", "0 0 22 WEB1.example.org.", "0 0 2222 web1.example.org."],
    ("_none._tcp.example.org.", "SRV"): ["0 0 0 ."],
    ("odd.example.org.", "SRV"): ["0 0 1 -x.example.org.", "0 0 1 web1.example.org."],
    ("www.example.org.", "A"): ["192.0.2.9", "192.0.2.10", "192.0.2.9"],
    ("www.example.org.", "AAAA"): ["2001:db8::1"],
    ("alias.example.org.", "CNAME"): ["www.example.org."],
    ("_ssh._tcp.xn--fa-hia.test.", "SRV"): ["0 0 22 xn--fa-hia.test."],
    ("sinkhole.example.org.", "A"): ["0.0.0.0", "192.0.2.9"],  # noqa: S104 - what a name server says
    ("many.example.org.", "A"): [f"198.51.100.{last}" for last in range(1, 201)],
}


def looked_up(
    *queries: str, kind: str = "SRV", prepare: Callable[[NameServer], None] = lambda _: None, timeout: float = 5.0
) -> tuple[dict[str, Answer], NameServer]:
    """Look names up at a name server that is prepared so."""

    async def scenario() -> tuple[dict[str, Answer], NameServer]:
        async with name_server(RECORDS) as served:
            prepare(served)
            client = served.client(dns_source(*queries, kind=kind, timeout=timeout))
            return dict(await client.ask()), served

    return asyncio.run(scenario())


def failure(query: str, **parts: Any) -> str:
    """Return the failure of one name."""
    answers, _ = looked_up(query, **parts)
    assert answers[query].hosts == ()
    return answers[query].failure or ""


def test_srv_gives_the_target_names() -> None:
    """Each target is one host, sorted, whatever its ports, its case and the order of the records."""
    answers, _ = looked_up(SSH)
    assert names(answers[SSH]) == ["web1.example.org", "web2.example.org"]


@pytest.mark.parametrize(
    ("name", "found", "refused"),
    [("_none._tcp.example.org.", [], 0), ("odd.example.org.", ["web1.example.org"], 1)],
    ids=["not offered", "no host"],
)
def test_srv_target_may_be_no_host(name: str, found: list[str], refused: int) -> None:
    """The target "." is no fault (RFC 2782); what is no host is refused, and the others are taken."""
    answers, _ = looked_up(name)
    assert (names(answers[name]), answers[name].refused) == (found, refused)


def test_name_is_asked_for_by_idna_2008() -> None:
    """The name server is asked for what conf.yml means by the name, and not for fass."""
    answers, _ = looked_up("_ssh._tcp.faß.test.")
    assert names(answers["_ssh._tcp.faß.test."]) == ["xn--fa-hia.test"]


def test_address_that_conf_yml_may_not_name_is_refused() -> None:
    """What a sinkhole answers with is counted, and no host."""
    answers, _ = looked_up("sinkhole.example.org.", kind="A")
    answer = answers["sinkhole.example.org."]
    assert (names(answer), answer.refused) == (["192.0.2.9"], 1)
    assert answer.complaints == ('"0.0.0.0" is not the address of one host',)


def test_a_and_aaaa_give_each_address() -> None:
    """Each address is a host of its own, and stands once."""
    answers, _ = looked_up("www.example.org.", kind="A")
    assert sorted(names(answers["www.example.org."])) == ["192.0.2.10", "192.0.2.9"]
    answers, _ = looked_up("www.example.org.", kind="AAAA")
    assert names(answers["www.example.org."]) == ["2001:db8::1"]


def test_each_name_is_an_answer_of_its_own() -> None:
    """One name that fails leaves the others."""
    answers, _ = looked_up(SSH, "none.example.org.")
    assert list(answers) == [SSH, "none.example.org."]
    assert names(answers[SSH])
    assert answers["none.example.org."].failure == "the name does not exist"


def test_a_name_without_records_of_the_type_is_an_empty_list() -> None:
    """The name server was asked and said: none."""
    answers, _ = looked_up(SSH, kind="A")
    assert names(answers[SSH]) == []


def test_a_name_that_does_not_exist_is_a_failure() -> None:
    """NXDOMAIN is more often a typing error, or a zone that went away, than a list that is empty."""
    assert failure("none.example.org.") == "the name does not exist"


@fault("name server", "discovery", "An answer that is an error is logged; the source keeps its last hosts.")
@pytest.mark.parametrize("code", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_a_name_server_that_fails_is_a_failure(code: dns.rcode.Rcode) -> None:
    """What it said is told."""
    said = failure(SSH, prepare=lambda served: served.rcodes.update({SSH: code}))
    assert said.startswith("no name server answered: ")
    assert code.name in said


@fault(
    "name server",
    "discovery",
    "A source `dns` that gets no answer keeps its last hosts; `portspec_discovery_failures_total` rises.",
)
def test_silence_is_a_failure() -> None:
    """A name server that does not answer is given up after the time limit."""
    assert failure(SSH, prepare=lambda served: served.silent.add(SSH), timeout=0.1) == "no answer in 0.1 s"


def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    """Long lists are whole."""
    name = "many.example.org."
    answers, served = looked_up(name, kind="A", prepare=lambda served: served.long.add(name))
    assert len(names(answers[name])) == 200
    assert [way for _, _, way in served.asked] == ["udp", "tcp"]


def test_the_search_list_is_used_for_a_name_without_a_final_dot() -> None:
    """As the system's resolver does it."""

    async def scenario() -> Answer:
        async with name_server(RECORDS) as served:
            client = served.client(dns_source("_ssh._tcp"), search=((b"example", b"org"),))
            return (await client.ask())["_ssh._tcp"]

    assert names(asyncio.run(scenario())) == ["web1.example.org", "web2.example.org"]


@fault("no descriptors", "discovery", "A source without a descriptor keeps its last hosts.")
def test_what_cannot_be_read_is_a_failure_of_each_name() -> None:
    """A machine without descriptors raises nothing."""

    def configuration() -> ResolvConf:
        raise OSError(24, "Too many open files")

    answers = asyncio.run(DnsClient(dns_source(SSH), configuration=configuration).ask())
    assert answers[SSH].failure == "/etc/resolv.conf cannot be read: too many open files"


def test_a_look_up_that_names_no_server_says_whom_it_asked() -> None:
    """Where resolv.conf names nobody that can be used this machine is asked, as getaddrinfo(3) does."""

    async def scenario() -> tuple[Answer, Answer]:
        async with name_server(RECORDS) as served:
            found = parse(b"nameserver localhost\n", {})
            client = DnsClient(dns_source(SSH), configuration=lambda: found, port=served.port)
            good = (await client.ask())[SSH]
            served.rcodes[SSH] = dns.rcode.REFUSED
            return good, (await client.ask())[SSH]

    good, failed = asyncio.run(scenario())
    assert names(good) == ["web1.example.org", "web2.example.org"]
    assert failed.failure
    assert failed.failure.endswith("(/etc/resolv.conf has no usable name server, so 127.0.0.1 was asked)")


def test_servers_that_cannot_be_asked_leave_the_others() -> None:
    """Each server has its turn within the time limit, whatever the first one does and resolv.conf says."""

    async def scenario() -> Answer:
        async with name_server(RECORDS) as served:
            text = b"nameserver 127.0.0.53\nnameserver ::1%nowhere\nnameserver 127.0.0.1\noptions timeout:30\n"
            client = DnsClient(dns_source(SSH, timeout=3.0), configuration=lambda: parse(text, {}), port=served.port)
            return (await client.ask())[SSH]

    assert names(asyncio.run(scenario())) == ["web1.example.org", "web2.example.org"]


def test_a_search_list_that_makes_a_name_too_long_is_passed_over() -> None:
    """What is left of the list is tried."""

    async def scenario() -> Answer:
        async with name_server(RECORDS) as served:
            text = b"search " + b".".join([b"a" * 60] * 4) + b" a..b .example.org\n"
            found = replace(parse(text, {}), servers=("127.0.0.1",))
            client = DnsClient(dns_source("_ssh._tcp"), configuration=lambda: found, port=served.port)
            return (await client.ask())["_ssh._tcp"]

    assert names(asyncio.run(scenario())) == ["web1.example.org", "web2.example.org"]


def test_nothing_tells_beforehand_that_a_name_changed() -> None:
    """Names are looked up on their interval only."""
    client = DnsClient(dns_source(SSH))
    assert not asyncio.run(client.is_changed())
    assert client.poll == float("inf")
