from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.config import AuditConfig, Config, HostConfig, Specification, VulnerabilityException
from portspec.inventory import AuditedHost, audited_hosts, targets
from portspec.inventory.targets import HostGlobs, matching_globs
from portspec.ports import ALL_PORTS
from tests.unit.factories import NOW

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PASSPHRASES = ("correct horse battery staple",)


def accepted(*globs: str, until: float = NOW) -> VulnerabilityException:
    """Make an exception for vulnerabilities of the hosts that one of the globs matches."""
    return VulnerabilityException(globs, ("cve-2026-12345",), until)


def entry(name: str, *, is_audited: bool = False) -> HostConfig:
    """Make an entry of `hosts`, or what discovery finds."""
    return HostConfig(name, Specification(), ALL_PORTS, 60.0, is_audited=is_audited)


def config_of(
    *entries: HostConfig, audit: Sequence[str] | None = (), exceptions: Iterable[VulnerabilityException] = ()
) -> Config:
    """Make a configuration with these entries, and with these names in `audit.hosts`; None: without the block."""
    block = None if audit is None else AuditConfig(PASSPHRASES, tuple(audit))
    return Config("conf.yml", entries, audit=block, accepted=tuple(exceptions))


def rostered(config: Config, *discovered: HostConfig) -> dict[str, str]:
    """Return the label of each host of the roster by its canonical name, in their order."""
    found = audited_hosts(config, targets(config, discovered))
    return {name: item.host for name, item in found.items()}


def test_hosts_that_must_report_are_on_the_roster() -> None:
    """Names in `audit.hosts` come first, then the hosts of the file that `audit: true` stands at."""
    config = config_of(entry("web1", is_audited=True), entry("web2"), entry("192.0.2.1", is_audited=True), audit=["db"])
    assert rostered(config) == {"db": "db", "web1": "web1", "192.0.2.1": "192.0.2.1"}


def test_nobody_has_to_report_without_the_block() -> None:
    """Without a passphrase there are no keys, and no roster."""
    assert rostered(config_of(entry("web1", is_audited=True), audit=None)) == {}


def test_nobody_has_to_report_unless_named() -> None:
    """A passphrase alone asks nobody for a report."""
    assert rostered(config_of(entry("web1"))) == {}


@pytest.mark.parametrize(
    ("in_hosts", "in_audit", "name"),
    [
        ("DB1.Example.org.", "db1.example.org", "db1.example.org"),
        ("db1.example.org", "DB1.EXAMPLE.ORG.", "db1.example.org"),
        ("2001:DB8::0:1", "2001:db8::1", "2001:db8::1"),
        ("2001:db8::1", "2001:DB8:0:0::1", "2001:db8::1"),
        ("bücher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_host_in_both_places_is_one_with_the_label_of_its_scans(in_hosts: str, in_audit: str, name: str) -> None:
    """Reports and scans of a host have the same label, however `audit.hosts` spells it."""
    assert rostered(config_of(entry(in_hosts), audit=[in_audit])) == {name: in_hosts}
    assert rostered(config_of(entry(in_hosts, is_audited=True), audit=[in_audit])) == {name: in_hosts}


def test_host_that_is_not_scanned_keeps_its_spelling() -> None:
    """A host that only reports is called what `audit.hosts` calls it."""
    assert rostered(config_of(audit=["DB1.Example.org."])) == {"db1.example.org": "DB1.Example.org."}


def test_each_address_of_a_network_has_to_report() -> None:
    """`audit: true` at a CIDR is about all of its addresses but for those that have an entry of their own."""
    config = config_of(entry("192.0.2.8/30", is_audited=True), entry("192.0.2.9"), entry("198.51.100.0/31"))
    assert list(rostered(config)) == ["192.0.2.8", "192.0.2.10", "192.0.2.11"]


def test_one_address_of_a_network_may_have_to_report() -> None:
    """An address in `audit.hosts` reports, though the CIDR that it is scanned under need not."""
    assert rostered(config_of(entry("192.0.2.8/30"), audit=["192.0.2.9"])) == {"192.0.2.9": "192.0.2.9"}


def test_discovered_hosts_have_to_report_where_their_source_says_so() -> None:
    """A source with `audit: true` puts what it finds on the roster; a host in the file is as the file has it."""
    config = config_of(entry("web1"), audit=["new2"])
    found = [entry("new1", is_audited=True), entry("new2"), entry("new3"), entry("web1", is_audited=True)]
    assert rostered(config, *found) == {"new1": "new1", "new2": "new2"}


def exceptions_of(config: Config) -> dict[str, tuple[VulnerabilityException, ...]]:
    """Return the exceptions that are about each host of the roster."""
    return {item.host: item.exceptions for item in audited_hosts(config, targets(config)).values()}


def test_exceptions_are_those_that_a_glob_matches() -> None:
    """A host of the roster has every exception that is about it, lapsed or not, in the order of the file."""
    every = accepted("*", until=0.0)
    web, database = accepted("web*.example.org"), accepted("mail", "DB?")
    config = config_of(
        entry("WEB1.example.org", is_audited=True), audit=["db1", "mail2"], exceptions=[every, web, database]
    )
    assert exceptions_of(config) == {
        "db1": (every, database),
        "mail2": (every,),
        "WEB1.example.org": (every, web),
    }


def test_exception_of_a_network_is_about_its_addresses() -> None:
    """The name of a CIDR of the file means all addresses that are scanned under it, those of `audit.hosts`, too."""
    network = accepted("192.0.2.8/30")
    config = config_of(
        entry("192.0.2.8/30", is_audited=True), entry("192.0.2.9", is_audited=True), exceptions=[network]
    )
    assert [host for host, found in exceptions_of(config).items() if found] == ["192.0.2.8", "192.0.2.10", "192.0.2.11"]
    assert exceptions_of(config_of(entry("192.0.2.8/30"), audit=["192.0.2.9"], exceptions=[network])) == {
        "192.0.2.9": (network,)
    }
    assert exceptions_of(config_of(audit=["192.0.2.9"], exceptions=[network])) == {"192.0.2.9": ()}


def test_exception_is_about_a_host_that_only_reports_in_any_spelling() -> None:
    """A final dot, case and the way an IPv6 address is written make no difference."""
    config = config_of(
        audit=["DB1.example.org.", "2001:0DB8::7"], exceptions=[accepted("db1.EXAMPLE.org", "2001:db8::7")]
    )
    assert all(exceptions_of(config).values())


def test_roster_is_a_value() -> None:
    """Two readings of the same file give rosters that are equal, so that a reload can tell whether anything changed."""
    config = config_of(entry("web1", is_audited=True), exceptions=[accepted("*")])
    assert audited_hosts(config, targets(config)) == audited_hosts(config, targets(config))
    assert audited_hosts(config, targets(config)) == {"web1": AuditedHost("web1", (accepted("*"),))}


@pytest.mark.parametrize(
    ("network", "glob"),
    [
        ("2001:DB8:0::/120", "2001:DB8:0::/120"),
        ("2001:DB8:0::/120", "2001:db8::/120"),
        ("2001:db8::/120", "2001:DB8:0::/120"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/255.255.255.0"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("192.0.2.0/24", "192.0.2.0/255.255.255.0"),
        ("192.0.2.0/24", "192.0.2.0/*"),
    ],
)
def test_network_is_matched_in_any_spelling(network: str, glob: str) -> None:
    """An exception names a CIDR as it stands in the file, or in another spelling of it."""
    item = accepted(glob)
    host = network.partition("/")[0]
    assert HostGlobs([item]).matching(host, network) == (item,)


def test_glob_with_a_slash_matches_no_host_without_a_network() -> None:
    """A host with an entry of its own stands under no CIDR, whatever glob an exception has."""
    globs = HostGlobs([accepted("*/*"), accepted("192.0.2.0/24")])
    assert globs.matching("192.0.2.1", "192.0.2.1") == ()


NAMES = [
    "web1",
    "WEB1",
    "web1.",
    "web*",
    "w?b1",
    "[uvw]eb1",
    "*",
    "192.0.2.1",
    "192.0.2.0/24",
    "192.0.2.0/*",
    "*/*",
    "bücher",
]


@given(
    st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3), max_size=4),
    st.sampled_from(["web1", "WEB1.", "web22", "BÜCHER", "192.0.2.1"]),
)
def test_hosts_have_the_exceptions_whose_globs_match(globs: list[list[str]], host: str) -> None:
    """In the order of the file, each once, whether a glob is looked up or tried."""
    exceptions = [replace(accepted("x"), hosts=tuple(some)) for some in globs]
    entry = "192.0.2.0/24" if host == "192.0.2.1" else "web1"
    expected = tuple(item for item in exceptions if matching_globs(item.hosts, host, entry))
    assert HostGlobs(exceptions).matching(host, entry) == expected


def test_audited_host_has_the_former_names_of_its_target() -> None:
    """Unless a host on the roster has the name."""
    renamed = replace(entry("new1", is_audited=True), renamed_from=("old1", "db1"))
    config = config_of(renamed, entry("web1", is_audited=True), audit=["db1"])
    found = audited_hosts(config, targets(config))
    assert {name: host.renamed_from for name, host in found.items()} == {"db1": (), "new1": ("old1",), "web1": ()}
