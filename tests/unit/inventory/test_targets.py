from __future__ import annotations

import dataclasses
import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.config import Config, HostConfig, MaintenanceWindow, PortException, Specification
from portspec.deny import NOTHING, deny_of
from portspec.errors import UsageError
from portspec.inventory import Target, select, targets
from portspec.ports import ALL_PORTS
from tests.unit.factories import NOW, exception

DENIED = deny_of(["127.0.0.0/8"])


def config_of(*hosts: str) -> Config:
    """Make a configuration with these entries under `hosts`."""
    return Config("conf.yml", tuple(HostConfig(host, Specification(), ALL_PORTS, 60.0) for host in hosts))


def hosts_of(*entries: str) -> list[str]:
    """List the hosts that these entries stand for."""
    return [target.host for target in targets(config_of(*entries))]


def entry_of(host: str, *entries: str) -> str:
    """Name the entry whose configuration holds for a host."""
    return next(target.config.name for target in targets(config_of(*entries)) if target.host == host)


def test_names_and_addresses_stand_in_the_order_of_the_file() -> None:
    """A page that lists the hosts lists them as the file does."""
    assert hosts_of("web", "192.0.2.1", "db", "2001:db8::1") == ["web", "192.0.2.1", "db", "2001:db8::1"]


def test_a_network_stands_where_the_file_has_it() -> None:
    """The addresses of a CIDR come before what is written below it."""
    assert hosts_of("web", "192.0.2.0/31", "db") == ["web", "192.0.2.0", "192.0.2.1", "db"]


def test_a_wide_network_before_a_narrow_one_stays_first() -> None:
    """How specific a CIDR is decides what holds for an address, not where it stands."""
    assert hosts_of("198.51.100.0/30", "192.0.2.8/31") == [
        *(f"198.51.100.{last}" for last in range(4)),
        *(f"192.0.2.{last}" for last in (8, 9)),
    ]


def test_a_name_has_no_address_yet() -> None:
    """What has to be looked up is told by the missing address."""
    assert [(target.host, target.address) for target in targets(config_of("db1", "192.0.2.1"))] == [
        ("db1", None),
        ("192.0.2.1", "192.0.2.1"),
    ]


def test_each_address_of_a_network_is_a_host() -> None:
    """A CIDR stands for all of its addresses, the first and the last one included, each with the CIDR's entry."""
    found = targets(config_of("192.0.2.8/30"))
    assert [target.address for target in found] == ["192.0.2.8", "192.0.2.9", "192.0.2.10", "192.0.2.11"]
    assert [target.host for target in found] == [target.address for target in found]
    assert {target.config.name for target in found} == {"192.0.2.8/30"}


def test_an_ipv6_network_is_spelled_in_the_short_form() -> None:
    """The hosts of an IPv6 CIDR have the one spelling that everybody expects."""
    assert hosts_of("2001:DB8:0::/127") == ["2001:db8::", "2001:db8::1"]


def test_a_network_may_have_a_netmask() -> None:
    """192.0.2.0/255.255.255.254 is 192.0.2.0/31."""
    assert hosts_of("192.0.2.0/255.255.255.254") == ["192.0.2.0", "192.0.2.1"]


@pytest.mark.parametrize("entries", [("192.0.2.0/30", "192.0.2.2"), ("192.0.2.2", "192.0.2.0/30")])
def test_an_address_of_its_own_beats_every_network(entries: tuple[str, ...]) -> None:
    """An entry for the address itself holds, before or after the CIDR, and the address is one host."""
    assert entry_of("192.0.2.2", *entries) == "192.0.2.2"
    assert entry_of("192.0.2.1", *entries) == "192.0.2.0/30"
    assert sorted(hosts_of(*entries)) == ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3"]


@pytest.mark.parametrize("entries", [("192.0.2.0/29", "192.0.2.4/31"), ("192.0.2.4/31", "192.0.2.0/29")])
def test_the_longest_prefix_holds(entries: tuple[str, ...]) -> None:
    """Where two CIDRs have an address, the narrower one configures it, whichever is first."""
    assert entry_of("192.0.2.4", *entries) == "192.0.2.4/31"
    assert entry_of("192.0.2.3", *entries) == "192.0.2.0/29"
    assert len(hosts_of(*entries)) == 8


def test_an_ipv6_address_in_a_long_spelling_is_the_one_of_the_network() -> None:
    """An entry 2001:DB8::0:1 takes its address out of a CIDR that has 2001:db8::1, and keeps its spelling as label."""
    found = targets(config_of("2001:db8::/127", "2001:DB8::0:1"))
    assert sorted((target.host, str(target.address)) for target in found) == [
        ("2001:DB8::0:1", "2001:db8::1"),
        ("2001:db8::", "2001:db8::"),
    ]


def test_labels_are_spelled_as_the_file_spells_them() -> None:
    """The label `host` is what the user typed, whatever the spelling that is compared."""
    assert hosts_of("DB1.Example.org.", "2001:0DB8::1") == ["DB1.Example.org.", "2001:0DB8::1"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 63), st.integers(26, 32)).map(
            lambda pair: str(ipaddress.ip_network((0xC0000200 + pair[0], pair[1]), strict=False))
        ),
        unique=True,
        max_size=8,
    )
)
def test_each_address_is_one_host_under_its_most_specific_entry(networks: list[str]) -> None:
    """Whatever networks overlap, every address in any of them is there once, configured by the longest prefix."""
    found = targets(config_of(*networks))
    parsed = [ipaddress.ip_network(network) for network in networks]
    assert {target.host for target in found} == {str(ip) for network in parsed for ip in network}
    assert len({target.host for target in found}) == len(found)
    for target in found:
        holders = [network for network in parsed if ipaddress.ip_address(target.host) in network]
        assert target.config.name == str(max(holders, key=lambda network: network.prefixlen))


KNOWN = targets(config_of("db1", "DB2.example.org", "2001:db8::1", "2001:0DB8::2", "192.0.2.0/31"))


def picked(*hosts: str) -> list[str]:
    """List what `select` picks from KNOWN."""
    return [target.host for target in select(KNOWN, hosts)]


def test_no_host_selects_all() -> None:
    """A command without hosts works on every host of the file, in its order."""
    assert select(KNOWN, []) == KNOWN


def test_hosts_are_selected_in_the_order_asked_for() -> None:
    """What is named first comes first."""
    assert picked("192.0.2.1", "db1") == ["192.0.2.1", "db1"]


@pytest.mark.parametrize(
    ("asked", "host"),
    [
        ("db1", "db1"),
        ("DB1", "db1"),
        ("db2.EXAMPLE.org", "DB2.example.org"),
        ("db2.example.org.", "DB2.example.org"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:0DB8::2", "2001:0DB8::2"),
        ("2001:db8::2", "2001:0DB8::2"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_a_host_is_found_in_any_spelling(asked: str, host: str) -> None:
    """Case, a final dot and the way an IPv6 address is written make no difference, on either side."""
    assert picked(asked) == [host]


def test_a_host_that_is_named_twice_is_selected_once() -> None:
    """No host is scanned twice in one scan, nor printed in two rows."""
    assert picked("db1", "192.0.2.0", "DB1") == ["db1", "192.0.2.0"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("db3", '"db3" is not a host of the configuration; did you mean db1?'),
        ("db2.example.com", '"db2.example.com" is not a host of the configuration; did you mean DB2.example.org?'),
        ("DB2.EXAMPLE.COM", '"DB2.EXAMPLE.COM" is not a host of the configuration; did you mean DB2.example.org?'),
        ("mail", '"mail" is not a host of the configuration'),
        ("", '"" is not a host of the configuration'),
        ("web 1%", '"web 1%" is not a host of the configuration'),
    ],
)
def test_an_unknown_host_is_an_error_with_the_nearest_one(asked: str, message: str) -> None:
    """A slip is answered with the host that was meant, spelled as in the file, and nothing is guessed from afar."""
    with pytest.raises(UsageError) as caught:
        select(KNOWN, ["db1", asked])
    assert str(caught.value) == message


def test_select_gives_the_targets_themselves() -> None:
    """What is picked carries configuration and address with it."""
    (target,) = select(KNOWN, ["192.0.2.1"])
    assert target == Target("192.0.2.1", KNOWN[-1].config, "192.0.2.1")


@pytest.mark.parametrize("asked", ["192.0.2.0/31", "192.0.2.0/255.255.255.254"])
def test_a_network_is_selected_by_its_name(asked: str) -> None:
    """A CIDR of the file stands for all of its addresses, in any spelling."""
    assert picked(asked) == ["192.0.2.0", "192.0.2.1"]
    assert picked("192.0.2.1", asked) == ["192.0.2.1", "192.0.2.0"]


def test_a_network_selects_only_what_it_configures() -> None:
    """An address with an entry of its own is not part of the CIDR around it."""
    known = targets(config_of("192.0.2.0/30", "192.0.2.2"))
    assert [target.host for target in select(known, ["192.0.2.0/30"])] == ["192.0.2.0", "192.0.2.1", "192.0.2.3"]


def test_a_network_that_is_not_in_the_file_is_unknown() -> None:
    """A part of a CIDR is not a host of the configuration."""
    with pytest.raises(UsageError):
        picked("192.0.2.0/32")


def excepted(*entries: str, globs: tuple[str, ...]) -> list[str]:
    """List the hosts of these entries that an exception for some globs is about."""
    config = dataclasses.replace(config_of(*entries), exceptions=(exception(80, until=NOW, hosts=globs),))
    return [target.host for target in targets(config) if target.exceptions]


@pytest.mark.parametrize(
    ("globs", "hosts"),
    [
        (("web1.example.org",), ["web1.example.org"]),
        (("web*.example.org",), ["web1.example.org", "WEB2.Example.Org"]),
        (("WEB?.EXAMPLE.ORG",), ["web1.example.org", "WEB2.Example.Org"]),
        (("*",), ["web1.example.org", "WEB2.Example.Org", "db1", "192.0.2.8", "192.0.2.9"]),
        (("web[2-9].*", "db1"), ["WEB2.Example.Org", "db1"]),
        (("db1", "db*"), ["db1"]),
        (("web1",), []),
        (("192.0.2.9",), ["192.0.2.9"]),
        (("192.0.2.*",), ["192.0.2.8", "192.0.2.9"]),
        (("192.0.2.8/31",), ["192.0.2.8", "192.0.2.9"]),
        (("192.0.2.8/30",), []),
    ],
)
def test_exception_is_about_the_hosts_that_a_glob_matches(globs: tuple[str, ...], hosts: list[str]) -> None:
    """A glob is matched with the whole name in any case; the name of a CIDR means all of its addresses."""
    assert excepted("web1.example.org", "WEB2.Example.Org", "db1", "192.0.2.8/31", globs=globs) == hosts


def test_address_with_an_entry_of_its_own_is_not_in_the_exception_of_the_network() -> None:
    """What is accepted of a CIDR is not accepted of an address that the file configures by itself."""
    assert excepted("192.0.2.0/31", "192.0.2.1", globs=("192.0.2.0/31",)) == ["192.0.2.0"]


def test_glob_of_addresses_is_not_about_a_network_whose_name_it_matches() -> None:
    """A glob of addresses is about those that it matches, also where the spelling of their CIDR looks like one."""
    hosts = excepted("192.0.2.128/25", globs=("192.0.2.1*",))
    assert hosts == [f"192.0.2.{last}" for last in range(128, 200)]


@pytest.mark.parametrize(
    ("entry", "glob"), [("web1.example.org.", "web1.example.org"), ("2001:0DB8::2", "2001:db8::2")]
)
def test_exception_is_about_a_host_in_any_spelling(entry: str, glob: str) -> None:
    """A final dot and the way an IPv6 address is written make no difference, as anywhere else."""
    assert excepted(entry, globs=(glob,)) == [entry]


def test_lapsed_exceptions_are_kept_in_the_order_of_the_file() -> None:
    """A target has every exception that is about it, in force or not: the time is not known here."""
    exceptions: tuple[PortException, ...] = (exception(80, until=0.0), exception(22, until=NOW, hosts=["db1"]))
    config = dataclasses.replace(config_of("db1", "web1"), exceptions=exceptions)
    assert [target.exceptions for target in targets(config)] == [exceptions, exceptions[:1]]


def discovered(*names: str) -> list[HostConfig]:
    """Make hosts as discovery gives them, told from those of the file by their interval."""
    return [HostConfig(name, Specification(), ALL_PORTS, 5.0) for name in names]


def test_discovered_hosts_come_after_those_of_the_file() -> None:
    """The order of the file stays, and that of the sources follows."""
    found = targets(config_of("web", "192.0.2.1"), discovered("new", "192.0.2.2"))
    assert [target.host for target in found] == ["web", "192.0.2.1", "new", "192.0.2.2"]
    assert [target.address for target in found] == [None, "192.0.2.1", None, "192.0.2.2"]


@pytest.mark.parametrize("name", ["WEB.example.org", "web.example.org.", "192.0.2.1", "2001:DB8:0::1"])
def test_host_of_the_file_is_not_discovered(name: str) -> None:
    """What the file says of a host holds, in whatever spelling a source gives it."""
    found = targets(config_of("web.example.org", "192.0.2.1", "2001:db8::1"), discovered(name))
    assert {target.config.interval for target in found} == {60.0}
    assert len(found) == 3


def test_host_that_is_discovered_twice_is_one() -> None:
    """The first source that has a host configures it."""
    found = targets(config_of(), [*discovered("new"), *config_of("NEW").hosts])
    assert [(target.host, target.config.interval) for target in found] == [("new", 5.0)]


def test_exceptions_are_about_discovered_hosts_too() -> None:
    """It makes no difference where a host comes from."""
    config = dataclasses.replace(config_of("web"), exceptions=(exception(80, until=NOW, hosts=["new*"]),))
    found = targets(config, discovered("new1"))
    assert [(target.host, len(target.exceptions)) for target in found] == [("web", 0), ("new1", 1)]


def test_only_discovered_hosts_are_denied_addresses() -> None:
    """Networks are denied to what discovery alone names: a name, an address, each address of a CIDR."""
    config = dataclasses.replace(config_of("web", "192.0.2.1", "198.51.100.0/31"), deny=DENIED)
    found = targets(config, discovered("new", "192.0.2.2", "203.0.113.0/31", "WEB.", "192.0.2.1", "198.51.100.1"))
    of_the_file = {"web", "192.0.2.1", "198.51.100.0", "198.51.100.1"}
    assert {target.host for target in found if target.deny == NOTHING} == of_the_file
    assert {target.host for target in found if target.deny == DENIED} == {
        *("new", "192.0.2.2", "203.0.113.0", "203.0.113.1")
    }


def renamed(name: str, *former: str, source: str = "http_sd[0]") -> HostConfig:
    """Make a host that had other names, as discovery gives it."""
    return dataclasses.replace(discovered(name)[0], renamed_from=former, source=source)


def former_names(config: Config, *found: HostConfig) -> dict[str, tuple[str, ...]]:
    """Return the former names that count, by host, of hosts with some."""
    return {target.host: target.renamed_from for target in targets(config, found) if target.renamed_from}


def test_former_names_of_hosts_that_are_there_do_not_count() -> None:
    """A host is not taken for another one, whichever of them discovery found."""
    config = config_of("web1", "192.0.2.0/30")
    assert former_names(config, renamed("new1", "web1", "old1", "192.0.2.1", "new2", "new1"), *discovered("new2")) == {
        "new1": ("old1",)
    }


def test_former_name_of_several_hosts_is_that_of_none() -> None:
    """Except for one that the file gives a name to: what it has, a source of discovery does not change."""
    of_the_file = renamed("web1", "old1", source="conf.yml")
    config = dataclasses.replace(config_of(), hosts=(of_the_file,))
    assert former_names(config, renamed("new1", "old1", "old2"), renamed("new2", "old2", "old3")) == {
        "web1": ("old1",),
        "new2": ("old3",),
    }


FORMER = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=4)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(FORMER, st.booleans()), max_size=6))
def test_each_former_name_leads_to_one_host(drawn: dict[str, tuple[list[str], bool]]) -> None:
    """Whatever a file and lists say, it is one that named it, and no host has the name itself."""
    of_the_file = [renamed(name, *former, source="conf.yml") for name, (former, is_there) in drawn.items() if is_there]
    lists = [renamed(name, *former) for name, (former, is_there) in drawn.items() if not is_there]
    found = former_names(dataclasses.replace(config_of(), hosts=tuple(of_the_file)), *lists)
    every = [former for names in found.values() for former in names]
    assert len(every) == len(set(every))
    assert not set(every) & set(drawn)
    for host, names in found.items():
        assert [name for name in drawn[host][0] if name in names] == list(names)


def test_requested_maintenance_of_a_former_name_is_that_of_the_host() -> None:
    """That of the present name comes first."""
    old, new = (MaintenanceWindow((name,), NOW, NOW + 60) for name in ("old1", "new1"))
    found = renamed("new1", "old1")
    assert [target.maintenance for target in targets(config_of(), [found], {"old1": old})] == [(old,)]
    assert [target.maintenance for target in targets(config_of(), [found], {"old1": old, "new1": new})] == [(new,)]


def test_host_that_is_denied_other_networks_is_scanned_otherwise() -> None:
    """A change of `deny`, or of where a host is named, begins another scan of it."""
    before = Target("db1", config_of("db1").hosts[0])
    assert not before.is_scanned_otherwise(before)
    assert dataclasses.replace(before, deny=DENIED).is_scanned_otherwise(before)
