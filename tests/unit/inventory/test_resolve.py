from __future__ import annotations

import asyncio
import errno
import random
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from portspec.config import HostConfig, Specification
from portspec.deny import NOTHING, deny_of
from portspec.errors import NoThreadError
from portspec.inventory import Lookups, Resolution, SystemResolver, Target, addresses_of
from portspec.inventory import resolve as resolve_module
from portspec.inventory.hostsfile import HostsFile
from portspec.ports import ALL_PORTS
from portspec.scan import Failure, Reason
from tests.faults.registry import fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

V4, V6, BOTH = socket.AF_INET, socket.AF_INET6, socket.AF_UNSPEC
NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NO_DATA = socket.gaierror(getattr(socket, "EAI_NODATA", socket.EAI_NONAME), "No address associated with hostname")
TRY_AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NO_RECORD = Failure(Reason.RESOLVE, "does not resolve (no A or AAAA record)")
LIMIT = 0.01
SLOTS = 3


class Lookup:
    """Answers look-ups from a table; what is an exception in it is raised, what is an event is waited for."""

    def __init__(self, answers: Mapping[socket.AddressFamily, list[str] | BaseException | threading.Event]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, socket.AddressFamily]] = []

    def __call__(self, name: str, family: socket.AddressFamily) -> list[str]:
        """Answer as getaddrinfo would."""
        self.asked.append((name, family))
        answer = self.answers[family]
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, threading.Event):
            assert answer.wait(30)
            return ["192.0.2.99"]
        return answer


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Return an event that look-ups hang on; it opens at the end, so that no thread outlives its test for long."""
    event = threading.Event()
    yield event
    event.set()


def failed(family: str, why: str, reason: Reason = Reason.RESOLVE) -> Failure:
    """Make the failure of a look-up."""
    return Failure(reason, f"the lookup of its {family} addresses failed ({why})")


def resolve(lookup: Callable[..., list[str]], *, ipv6: bool = True, time_limit: float = 30) -> Resolution:
    """Look `db1` up with a scripted resolver."""
    return asyncio.run(SystemResolver(ipv6=ipv6, time_limit=time_limit, lookup=lookup).resolve("db1"))


def few_slots(lookup: Callable[..., list[str]], time_limit: float = 30) -> SystemResolver:
    """Make a resolver that looks up three names at a time, so that three that hang use the slots up."""
    return SystemResolver(ipv6=False, time_limit=time_limit, lookup=lookup, lookups=Lookups(most=SLOTS))


async def drain(resolver: SystemResolver) -> None:
    """Wait until every look-up has given its slot back."""
    for _ in range(SLOTS):
        await asyncio.wait_for(resolver._lookups.threads.acquire(), 30)
    for _ in range(SLOTS):
        resolver._lookups.threads.release()


def test_both_families_are_asked_and_ipv4_comes_first() -> None:
    """With ipv6 a name has the addresses of its A and of its AAAA records."""
    lookup = Lookup({V6: ["2001:db8::1"], V4: ["192.0.2.2", "192.0.2.1"]})
    assert resolve(lookup) == Resolution(("192.0.2.2", "192.0.2.1", "2001:db8::1"))
    assert sorted(lookup.asked) == [("db1", V4), ("db1", V6)]


def test_without_ipv6_only_ipv4_is_asked() -> None:
    """A machine without IPv6 need not wait for AAAA records."""
    lookup = Lookup({V4: ["192.0.2.1"]})
    assert resolve(lookup, ipv6=False) == Resolution(("192.0.2.1",))
    assert lookup.asked == [("db1", V4)]


def test_the_families_are_asked_at_the_same_time() -> None:
    """A slow family costs its own time only."""
    both = threading.Barrier(2)

    def lookup(_: str, family: socket.AddressFamily) -> list[str]:
        both.wait(30)
        return ["192.0.2.1"] if family == V4 else ["2001:db8::1"]

    assert resolve(lookup) == Resolution(("192.0.2.1", "2001:db8::1"))


def test_each_address_is_given_once() -> None:
    """The resolver may repeat an address, a scan must not."""
    lookup = Lookup({V4: ["192.0.2.1", "192.0.2.2", "192.0.2.1"], V6: ["2001:db8::1", "2001:db8::1"]})
    assert resolve(lookup) == Resolution(("192.0.2.1", "192.0.2.2", "2001:db8::1"))


@pytest.mark.parametrize("nothing", [NO_DATA, NO_SUCH_NAME, socket.gaierror(socket.EAI_ADDRFAMILY, "no")])
@pytest.mark.parametrize("family", [V4, V6])
def test_a_family_without_records_is_no_failure(family: socket.AddressFamily, nothing: socket.gaierror) -> None:
    """Most names have A records only, and some AAAA records only."""
    lookup = Lookup({V4: ["192.0.2.1"], V6: ["2001:db8::1"]} | {family: nothing})
    assert resolve(lookup) == Resolution(("2001:db8::1",) if family == V4 else ("192.0.2.1",))


@pytest.mark.parametrize("nothing", [NO_DATA, NO_SUCH_NAME])
def test_a_name_that_does_not_exist_has_a_failure_that_says_so(nothing: socket.gaierror) -> None:
    """No address in any family that was asked is a failure, which names the records that are missing."""
    lookup = Lookup({V4: nothing, V6: nothing})
    assert resolve(lookup) == Resolution((), NO_RECORD)
    assert resolve(lookup, ipv6=False) == Resolution((), Failure(Reason.RESOLVE, "does not resolve (no A record)"))


def test_an_empty_answer_is_a_name_without_records() -> None:
    """A resolver that answers with nothing at all leaves the host unknown, too."""
    assert resolve(Lookup({V4: [], V6: []})).failure == NO_RECORD


def test_a_failure_in_one_family_gives_the_addresses_of_the_other_and_the_failure() -> None:
    """Half of the addresses are scanned, and it is said that they are half."""
    assert resolve(Lookup({V4: ["192.0.2.1"], V6: TRY_AGAIN})) == Resolution(
        ("192.0.2.1",), failed("IPv6", "temporary failure in name resolution")
    )


def test_no_records_in_one_family_do_not_hide_a_failure_in_the_other() -> None:
    """A name without A records whose AAAA look-up fails has failed, and is not said to have no records."""
    assert resolve(Lookup({V4: NO_DATA, V6: TRY_AGAIN})) == Resolution(
        (), failed("IPv6", "temporary failure in name resolution")
    )


@fault(
    "name server",
    "scans",
    "An error such as SERVFAIL makes the host unknown, and the log says it for each address family.",
)
def test_a_failure_in_both_families_is_told_for_each() -> None:
    """Each family that fails tells why, and nothing was found."""
    assert resolve(Lookup({V4: TRY_AGAIN, V6: OSError("no luck")})) == Resolution(
        (),
        Failure(
            Reason.RESOLVE,
            "the lookup of its IPv4 addresses failed (temporary failure in name resolution); "
            "the lookup of its IPv6 addresses failed (no luck)",
        ),
    )


@fault("no descriptors", "scans", "A look-up without a descriptor makes the host unknown (reason `local_limit`).")
@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (OSError(errno.ENFILE, "Too many open files in system"), "too many open files in system"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "cannot allocate memory"),
        (socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"), "memory allocation failure"),
    ],
)
def test_what_this_machine_lacks_is_not_the_fault_of_the_name(error: OSError, why: str) -> None:
    """A look-up for which there is no descriptor or no memory is a failure of reason local_limit."""
    found = resolve(Lookup({V4: error}), ipv6=False)
    assert found == Resolution((), failed("IPv4", why, Reason.LOCAL_LIMIT))


@pytest.mark.parametrize("name", ["a" * 64 + ".example", "☕.example", "0x7f000001", "127.1"])
def test_what_is_no_name_is_a_failure_and_nobody_is_asked(name: str) -> None:
    """A resolver raises nothing; what is no name, or an address to the C library, is told before any look-up."""
    lookup = Lookup({V4: ["192.0.2.1"]})
    found = asyncio.run(SystemResolver(ipv6=False, lookup=lookup).resolve(name))
    assert found.addresses == ()
    assert found.failure
    assert found.failure.reason is Reason.RESOLVE
    assert found.failure.detail.startswith(f'"{name}" is not a')
    assert lookup.asked == []


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("faß.test", "xn--fa-hia.test"),
        ("DB1.Test", "db1.test"),
        ("db1.", "db1."),
        ("bücher。test", "xn--bcher-kva.test"),
    ],
)
def test_a_name_is_asked_for_in_its_canonical_form(name: str, asked: str) -> None:
    """IDNA 2008 and not Python's own codec says what a name server is asked for; a final dot stays."""
    lookup = Lookup({V4: ["192.0.2.1"]})
    assert asyncio.run(SystemResolver(ipv6=False, lookup=lookup).resolve(name)) == Resolution(("192.0.2.1",))
    assert lookup.asked == [(asked, V4)]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        *(
            (one, "is not the address of one host")
            for one in ("0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1")  # noqa: S104
        ),
        ("::ffff:192.0.2.1", "is an IPv4-mapped IPv6 address; write 192.0.2.1"),
        ("fe80::1", "is a link-local address, which means nothing without a zone; name another one"),
        ("fe80::1%2", "has a zone (%…); portspec scans addresses without one"),
        ("64:ff9b::", "is translated to 0.0.0.0, which is not the address of one host"),
        ("127.0.0.1", "is this machine's own (loopback); if that is meant, list the name in /etc/hosts"),
        ("::1", "is this machine's own (loopback); if that is meant, list the name in /etc/hosts"),
    ],
)
def test_an_address_that_conf_yml_may_not_name_is_a_failure(address: str, why: str) -> None:
    """What a sinkhole or a typing error in DNS leads to is not scanned, and it is said what is wrong with it."""
    failure = Failure(Reason.RESOLVE, f"its address {address} {why}")
    answer: dict[socket.AddressFamily, Any] = {V4: NO_DATA, V6: NO_DATA}
    family = V6 if ":" in address else V4
    assert resolve(Lookup(answer | {family: [address]})) == Resolution((), failure)
    good = "2001:db8::1" if family == V6 else "192.0.2.1"
    assert resolve(Lookup(answer | {family: [address, good]})) == Resolution((good,), failure)


def test_many_wrong_addresses_are_counted() -> None:
    """A failure stays a line that can be read."""
    resolution = resolve(Lookup({V4: [f"224.0.0.{number}" for number in range(9)], V6: NO_DATA}))
    assert resolution.failure
    assert resolution.failure.detail.count("its address") == 3
    assert resolution.failure.detail.endswith("; and 6 more cannot be scanned")


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "db1.localhost", "db1", "here"])
def test_this_machine_s_own_names_may_have_loopback_addresses(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Localhost and the machine's name mean this machine, and so does what /etc/hosts says."""
    monkeypatch.setattr(socket, "gethostname", lambda: "Here")
    (tmp_path / "hosts").write_text("127.0.1.1 db1\n")
    hosts = HostsFile(tmp_path / "hosts", tmp_path / "nsswitch.conf")
    lookup = Lookup({V4: ["127.0.1.1"]})
    resolver = SystemResolver(ipv6=False, lookup=lookup, hosts_file=hosts)
    assert asyncio.run(resolver.resolve(name)) == Resolution(("127.0.1.1",))


def test_a_name_that_the_file_answers_for_is_looked_up_once_for_both_families(tmp_path: Path) -> None:
    """The C library asks no name server for what stands in /etc/hosts, so no family can fail."""
    (tmp_path / "hosts").write_text("2001:db8::1 db1\n192.0.2.1 db1 # both\n192.0.2.2 db2\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    hosts = HostsFile(tmp_path / "hosts", tmp_path / "nsswitch.conf")
    lookup = Lookup({BOTH: ["2001:db8::1", "192.0.2.1"], V4: ["192.0.2.3"], V6: TRY_AGAIN})
    resolver = SystemResolver(ipv6=True, lookup=lookup, hosts_file=hosts)
    assert asyncio.run(resolver.resolve("DB1")) == Resolution(("192.0.2.1", "2001:db8::1"))
    assert lookup.asked == [("db1", BOTH)]
    half = Resolution(("192.0.2.3",), failed("IPv6", "temporary failure in name resolution"))
    assert asyncio.run(resolver.resolve("db3")) == half


@fault(
    "name server",
    "scans",
    "A look-up ends after its time limit; the host is unknown (`port_scan_failure`, reason `resolve`), never closed.",
)
def test_a_look_up_has_a_time_limit(gate: threading.Event) -> None:
    """A family whose name server does not answer is given up, and the other family's addresses stay."""
    assert resolve(Lookup({V4: gate}), ipv6=False, time_limit=LIMIT) == Resolution(
        (), failed("IPv4", "no answer in 0.01 s")
    )
    assert resolve(Lookup({V4: ["192.0.2.1"], V6: gate}), time_limit=1.0) == Resolution(  # the first one needs a thread
        ("192.0.2.1",), failed("IPv6", "no answer in 1 s")
    )


def test_look_ups_that_hang_do_not_block_others_while_a_slot_is_free(gate: threading.Event) -> None:
    """A dead name server costs the hosts behind it, not the rest."""

    async def scenario() -> Resolution:
        answers: dict[str, Lookup] = {"slow": Lookup({V4: gate}), "fast": Lookup({V4: ["192.0.2.1"]})}
        resolver = few_slots(lambda name, family: answers[name](name, family))
        hanging = [asyncio.create_task(resolver.resolve("slow")) for _ in range(SLOTS - 1)]
        found = await asyncio.wait_for(resolver.resolve("fast"), 30)
        assert not any(task.done() for task in hanging)
        gate.set()
        await asyncio.gather(*hanging)
        await drain(resolver)
        return found

    assert asyncio.run(scenario()) == Resolution(("192.0.2.1",))


def test_no_more_look_ups_run_than_there_are_slots(gate: threading.Event) -> None:
    """Where every thread hangs in the C library no further one is started, and a name is given up in the time limit."""

    async def scenario() -> None:
        lookup = Lookup({V4: gate})
        resolver = few_slots(lookup, LIMIT)
        given_up = await asyncio.gather(*(resolver.resolve(f"slow{number}") for number in range(SLOTS)))
        assert all(resolution.failure for resolution in given_up)
        assert resolver._lookups.threads.is_full  # the threads still hang in the C library

        following = await asyncio.wait_for(resolver.resolve("next"), 30)
        assert following == Resolution((), failed("IPv4", "no answer in 0.01 s"))
        assert [name for name, _ in lookup.asked] == ["slow0", "slow1", "slow2"]

        gate.set()
        await drain(resolver)
        resolver._time_limit = 30
        assert (await asyncio.wait_for(resolver.resolve("late"), 30)).addresses == ("192.0.2.99",)
        await drain(resolver)

    asyncio.run(scenario())


def test_the_wait_for_a_turn_is_not_counted() -> None:
    """A name that others keep waiting longer than the time limit is looked up when its turn comes."""
    limit = 0.3

    async def scenario() -> Resolution:
        lookup = Lookup({V4: ["192.0.2.1"]})
        resolver = few_slots(lookup, limit)
        for _ in range(SLOTS):
            await resolver._lookups.turns.acquire()
        waiting = asyncio.create_task(resolver.resolve("next"))
        done, _ = await asyncio.wait([waiting], timeout=1.5 * limit)
        assert (done, lookup.asked) == (set(), [])
        resolver._lookups.turns.release()
        return await asyncio.wait_for(waiting, 30)

    assert asyncio.run(scenario()) == Resolution(("192.0.2.1",))


def test_a_look_up_that_ends_after_the_loop_is_closed_is_silent(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that comes back when the program is on its way out has nobody to tell, and prints no traceback."""
    complaints: list[object] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    before = set(threading.enumerate())
    resolve(Lookup({V4: gate}), ipv6=False, time_limit=LIMIT)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    gate.set()
    thread.join(30)
    assert complaints == []


def test_a_machine_that_gives_no_more_threads_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver raises nothing: with no thread to be had the host is unknown, and the slot is free again."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> tuple[Resolution, bool]:
        resolver = SystemResolver(ipv6=False, lookup=Lookup({V4: []}), lookups=Lookups(most=1))
        return await resolver.resolve("db1"), resolver._lookups.threads.is_full

    monkeypatch.setattr(threading.Thread, "start", start)
    assert asyncio.run(scenario()) == (
        Resolution((), failed("IPv4", str(NoThreadError()), Reason.LOCAL_LIMIT)),
        False,
    )


def test_the_system_resolver_is_getaddrinfo() -> None:
    """The default look-up is getaddrinfo(3), which knows this machine."""
    assert asyncio.run(SystemResolver(ipv6=False).resolve("localhost")) == Resolution(("127.0.0.1",))


@pytest.mark.parametrize("count", [2, 3, 300])
def test_addresses_of_a_name_are_bounded(count: int) -> None:
    """Of more addresses than allowed the same few are scanned each time, and the host is unknown with the number."""
    addresses = [f"192.0.2.{number % 256}" if number < 256 else f"198.51.100.{number - 256}" for number in range(count)]

    def resolution() -> Resolution:
        random.Random(count).shuffle(addresses)  # noqa: S311
        lookup = Lookup({V4: [*addresses], V6: ["2001:db8::1"]})
        return asyncio.run(SystemResolver(ipv6=True, max_addresses=3, lookup=lookup).resolve("db1"))

    found = resolution()
    if count == 2:
        assert (len(found.addresses), found.failure) == (3, None)
        return
    assert found == resolution()
    assert found.addresses == ("192.0.2.0", "192.0.2.1", "192.0.2.2")
    assert found.failure == Failure(
        Reason.RESOLVE, f"has {count + 1} addresses, of which 3 are scanned (scan: max_addresses)"
    )


DENIED = deny_of(["169.254.0.0/16", "127.0.0.0/8", "2001:db8::/32"])


def denial(address: str, network: str) -> str:
    """Return how a denied address is told."""
    return f"its address {address} {deny_of([network]).fault_of(address)}"


@pytest.mark.parametrize(
    ("address", "network"),
    [("169.254.169.254", "169.254.0.0/16"), ("2001:db8::1", "2001:db8::/32"), ("127.0.0.1", "127.0.0.0/8")],
)
def test_denied_address_of_a_name_is_left_out(address: str, network: str) -> None:
    """A name that leads to a denied address has a failure that says so; its other addresses stay."""
    lookup = Lookup({V4: ["192.0.2.1"], V6: []})
    lookup.answers = {**lookup.answers, V6 if ":" in address else V4: ["192.0.2.1", address]}
    found = asyncio.run(SystemResolver(ipv6=True, lookup=lookup).resolve("db1", DENIED))
    assert found == Resolution(("192.0.2.1",), Failure(Reason.DENIED, denial(address, network)))


def test_denied_loopback_address_is_not_said_to_be_allowed_by_the_hosts_file(tmp_path: Path) -> None:
    """A denied name is denied whether or not /etc/hosts has it, and nothing else is advised."""
    for text in ("127.0.0.1 db1\n", ""):
        (tmp_path / "hosts").write_text(text, encoding="utf-8")
        hosts = HostsFile(tmp_path / "hosts", tmp_path / "nsswitch.conf")
        resolver = SystemResolver(ipv6=False, lookup=Lookup({V4: ["127.0.0.1"]}), hosts_file=hosts)
        found = asyncio.run(resolver.resolve("db1", DENIED))
        assert found == Resolution((), Failure(Reason.DENIED, denial("127.0.0.1", "127.0.0.0/8")))


def test_denied_spelling_of_an_ipv4_address_is_denied() -> None:
    """An AAAA record with a denied IPv4 address in it is denied, not only rejected as one that cannot be scanned."""
    lookup = Lookup({V4: [], V6: ["64:ff9b::169.254.169.254"]})
    found = asyncio.run(SystemResolver(ipv6=True, lookup=lookup).resolve("db1", DENIED))
    assert (found.addresses, found.failure and found.failure.reason) == ((), Reason.DENIED)


def test_name_whose_answer_changes_is_checked_each_time() -> None:
    """DNS rebinding: an address that was allowed a moment ago does not vouch for the next one."""
    lookup = Lookup({V4: ["192.0.2.1"]})
    resolver = SystemResolver(ipv6=False, lookup=lookup)
    assert asyncio.run(resolver.resolve("db1", DENIED)) == Resolution(("192.0.2.1",))
    lookup.answers = {V4: ["169.254.169.254"]}
    assert asyncio.run(resolver.resolve("db1", DENIED)).addresses == ()


def test_few_of_many_denied_addresses_are_named() -> None:
    """A failure of a name with many denied addresses stays a sentence, and tells how many there are."""
    addresses = [f"127.0.0.{number}" for number in range(1, 101)]
    found = asyncio.run(SystemResolver(ipv6=False, lookup=Lookup({V4: addresses})).resolve("db1", DENIED))
    assert found.failure is not None
    assert found.failure.detail.count("its address") == 3
    assert found.failure.detail.endswith("; and 97 more are denied")


def test_name_with_thousands_of_addresses_costs_no_more_than_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of as many addresses as a DNS answer holds a few hundred are judged, the lowest ones, whatever their order."""
    judged: list[str] = []
    monkeypatch.setattr(resolve_module, "_fault", lambda text, **_: judged.append(text))
    addresses = [f"10.0.{number // 250}.{number % 250}" for number in range(4000)]
    random.Random(1).shuffle(addresses)  # noqa: S311
    found = asyncio.run(SystemResolver(ipv6=False, lookup=Lookup({V4: addresses})).resolve("db1", DENIED))
    why = "has 4,000 addresses, of which 64 are scanned (scan: max_addresses)"
    assert found == Resolution(tuple(f"10.0.0.{number}" for number in range(64)), Failure(Reason.RESOLVE, why))
    assert len(judged) == 256


def test_name_with_thousands_of_addresses_of_which_the_lowest_are_denied_is_unknown() -> None:
    """Addresses that were not looked at are not scanned and not forgotten: the failure has their number."""
    addresses = [f"127.0.{number // 250}.{number % 250 + 1}" for number in range(4000)] + ["198.51.100.1"]
    found = asyncio.run(SystemResolver(ipv6=False, lookup=Lookup({V4: addresses})).resolve("db1", DENIED))
    assert found.addresses == ()
    assert found.failure is not None
    assert found.failure.reason is Reason.DENIED
    assert found.failure.detail.endswith("has 4,001 addresses, of which 0 are scanned (scan: max_addresses)")


def test_address_that_is_a_host_is_denied_without_a_look_up() -> None:
    """A discovered address is checked as those of a name are; one that is allowed is the host's address."""
    of = Target("db1", HostConfig("db1", Specification(), ALL_PORTS, 60.0), "169.254.169.254", deny=DENIED)
    resolver = SystemResolver(ipv6=False, lookup=Lookup({}))
    found = asyncio.run(addresses_of(of, resolver))
    fault = DENIED.fault_of("169.254.169.254")
    assert found == Resolution((), Failure(Reason.DENIED, f"169.254.169.254 {fault}"))
    assert asyncio.run(addresses_of(replace(of, deny=NOTHING), resolver)) == Resolution(("169.254.169.254",))
