from __future__ import annotations

import asyncio
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from portspec.config import Config, Module, PortException, Specification
from portspec.deny import deny_of
from portspec.inventory import Resolution, Target
from portspec.ports import PortSet
from portspec.scan import Failure, Observation, Reason
from portspec.schedule.on_demand import TIMEOUT_OFFSET, ProbeError, Prober
from portspec.state.verdict import Verdict
from tests.faults.registry import fault
from tests.unit.factories import NOW, ScriptedEngine, ScriptedResolver, all_closed, seen, settle, target
from tests.unit.web.exporter import prober

if TYPE_CHECKING:
    from portspec.config.model import EngineChoice
    from portspec.scan import ScanJob
    from portspec.schedule.on_demand import Probe

WEB = target("web1", expect=[22], scan=[80, 443])
NAME = target("db1.example.org", expect=[22], address=None)
SHORT = TIMEOUT_OFFSET + 0.1  # the shortest limit: the scan has a tenth of a second


def module(name: str = "mail", *, expect: tuple[int, ...] = (25,), engine: EngineChoice = "auto") -> Module:
    """Make a module that scans port 110 beside what it expects."""
    specification = Specification(PortSet.of(expect))
    return Module(name, specification, PortSet.of((*expect, 110)), engine)


def config(*modules: Module, allow: tuple[str, ...] = ()) -> Config:
    """Make a configuration with modules and CIDRs that may be probed."""
    return Config("conf.yml", (), modules=MappingProxyType({item.name: item for item in modules}), probe_allow=allow)


def opened(*ports: int) -> Any:
    """Make the answer that these ports of every address are open and the others closed."""

    def answer(job: ScanJob) -> Observation:
        found = tuple(
            seen(address, scanned=job.ports, is_open=job.ports & PortSet.of(ports)) for address in job.addresses
        )
        return Observation(found, 0.25, len(job.ports))

    return answer


def probe(one: Prober, of: str = "web1", by: str | None = None, limit: float | None = None) -> Probe:
    """Make one probe."""
    return asyncio.run(one.probe(of, by, limit))


def refusal(one: Prober, of: str, by: str | None = None) -> tuple[int, str]:
    """Make a probe that must be refused; give status and message."""
    with pytest.raises(ProbeError) as caught:
        probe(one, of, by)
    return caught.value.status, str(caught.value)


def test_host_is_scanned_by_its_own_specification() -> None:
    """Without a module a host of conf.yml is scanned on its own ports and judged by its own specification."""
    engine = ScriptedEngine(opened(22, 80))
    made = probe(prober(config(), [WEB], scanner=engine))
    assert [(job.addresses, job.ports) for job in engine.jobs] == [(("192.0.2.1",), PortSet.of([22, 80, 443]))]
    assert made.state.target is WEB
    assert made.state.verdict is Verdict.OUT_OF_SPEC
    assert [item.port for item in made.state.deviations] == [80]


@pytest.mark.parametrize("text", ["web1", "WEB1", "web1."])
def test_host_is_found_in_any_spelling(text: str) -> None:
    """Case and a final dot make no other host; the metrics have the spelling of conf.yml."""
    assert probe(prober(config(), [target("Web1")]), text).state.host == "Web1"


@pytest.mark.parametrize("text", ["2001:db8::7", "2001:0DB8::0:7"])
def test_ipv6_address_is_found_in_any_spelling(text: str) -> None:
    """A longer spelling of an IPv6 address is the same host."""
    one = prober(config(), [target("2001:DB8::7", address="2001:db8::7")])
    assert probe(one, text).state.target.address == "2001:db8::7"


def test_name_is_looked_up() -> None:
    """A host with a name is scanned on the addresses that it has now."""
    engine = ScriptedEngine(opened(22))
    resolver = ScriptedResolver({NAME.host: Resolution(("192.0.2.8", "192.0.2.9"))})
    made = probe(prober(config(), [NAME], scanner=engine, resolver=resolver), NAME.host)
    assert [job.addresses for job in engine.jobs] == [("192.0.2.8",), ("192.0.2.9",)]
    assert made.state.verdict is Verdict.IN_SPEC


def test_name_without_address_is_a_failure() -> None:
    """A name that does not resolve is a probe that was made, and a host that is unknown."""
    made = probe(prober(config(), [NAME]), NAME.host)
    assert made.state.latest
    assert made.state.latest.judgement.failure == Failure(Reason.RESOLVE, f"{NAME.host} is not in the script")


def test_module_takes_the_place_of_the_specification() -> None:
    """With a module a host of conf.yml is scanned on the module's ports and judged by the module's specification."""
    engine = ScriptedEngine(opened(22, 25))
    made = probe(prober(config(module()), [WEB], scanner=engine), "web1", "mail")
    assert engine.jobs[0].ports == PortSet.of([25, 110])
    assert engine.jobs[0].addresses == ("192.0.2.1",)
    assert (made.state.host, made.state.deviations, made.state.verdict) == ("web1", (), Verdict.IN_SPEC)


def test_exceptions_of_a_host_hold_in_a_probe() -> None:
    """A deviation that is excepted in the loop is excepted in a probe, with a module as without one."""
    accepted = PortException(("web1",), PortSet.of([80, 110]), NOW + 60)
    of = Target(WEB.host, WEB.config, WEB.address, (accepted,))
    one = prober(config(module()), [of], scanner=ScriptedEngine(opened(22, 25, 80, 110)))
    for by, port in ((None, 80), ("mail", 110)):
        made = probe(one, "web1", by)
        assert (made.state.verdict, [item.port for item in made.state.excepted]) == (Verdict.IN_SPEC, [port])


@pytest.mark.parametrize(
    ("text", "address"),
    [("198.51.100.7", "198.51.100.7"), ("2001:db8:0:0::7", "2001:db8::7"), ("2001:DB8::7", "2001:db8::7")],
)
def test_address_of_an_allowed_network_is_scanned_by_a_module(text: str, address: str) -> None:
    """An address that conf.yml does not name is scanned when probe_allow covers it, by the module that is named."""
    engine = ScriptedEngine(opened(25))
    one = prober(config(module(), allow=("198.51.100.0/24", "2001:db8::/32")), scanner=engine)
    made = probe(one, text, "mail")
    assert engine.jobs[0].addresses == (address,)
    assert (made.state.host, made.state.verdict) == (address, Verdict.IN_SPEC)


def test_host_of_the_file_has_its_own_specification_within_an_allowed_network() -> None:
    """An address that conf.yml names needs no module, also when probe_allow covers it."""
    of = target("198.51.100.7", expect=[22], address="198.51.100.7")
    assert probe(prober(config(allow=("198.51.100.0/24",)), [of]), "198.51.100.7").state.target is of


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("", 400, "the parameter target is missing: /probe?target=HOST"),
        (
            "http://web1/",
            400,
            '"http://web1/" is not a host (write the host without port and scheme)',
        ),
        ("0x7f000001", 400, '"0x7f000001" is not an IPv4 address (four numbers from 0 to 255 without leading zeros)'),
        ("::1%lo/128", 400, '"::1%lo/128" has a zone (%…); portspec scans addresses without one'),
        ("web1:22", 400, '"web1:22" has a port; write it as: "web1": [22]'),
        (
            "web 1",
            400,
            (
                '"web 1" is not a host (expected a name of letters, digits, - and _ with no - at an end, an IPv4 or '
                "IPv6 address, or a CIDR)"
            ),
        ),
        ("db1", 403, '"db1" is not a host of conf.yml, and probe_allow does not cover it'),
        ("203.0.113.7", 403, '"203.0.113.7" is not a host of conf.yml, and probe_allow does not cover it'),
        ("198.51.100.0/24", 403, '"198.51.100.0/24" is not a host of conf.yml, and probe_allow does not cover it'),
        ("2001:db8::7", 403, '"2001:db8::7" is not a host of conf.yml, and probe_allow does not cover it'),
        (
            "198.51.100.7",
            400,
            '"198.51.100.7" has no specification in conf.yml: name a module, /probe?target=198.51.100.7&module=NAME',
        ),
    ],
)
def test_target_that_may_not_be_probed_is_refused(text: str, status: int, message: str) -> None:
    """What is no host is 400, a host that conf.yml does not allow 403; neither is looked up or scanned."""
    engine, resolver = ScriptedEngine(all_closed), ScriptedResolver()
    one = prober(config(allow=("198.51.100.0/24",)), [WEB], scanner=engine, resolver=resolver)
    assert refusal(one, text) == (status, message)
    assert (engine.jobs, resolver.asked) == ([], [])


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "0.1.2.3", "169.254.169.254", "::ffff:198.51.100.7", "localhost"])
def test_module_opens_no_way_around_the_permission(text: str) -> None:
    """With a module, too, only hosts of conf.yml and addresses of probe_allow are probed."""
    one = prober(config(module(), allow=("198.51.100.0/24",)), [WEB])
    assert refusal(one, text, "mail")[0] in {400, 403}


def test_unknown_module_is_refused() -> None:
    """A module that conf.yml does not have is 400, with those that it has."""
    assert refusal(prober(config(module("web"), module("mail")), [WEB]), "web1", "ssh") == (
        400,
        'conf.yml has no module "ssh" (modules: mail, web)',
    )
    assert refusal(prober(config(), [WEB]), "web1", "") == (400, 'conf.yml has no module "" (modules: none)')


@pytest.mark.parametrize(
    ("wanted", "runs", "used", "connects"),
    [
        (None, "syn", "syn", False),
        ("auto", "syn", "syn", False),
        ("syn", "syn", "syn", False),
        ("connect", "syn", "connect", True),
        (None, "connect", "connect", False),
        ("auto", "connect", "connect", False),
        ("connect", "connect", "connect", True),
    ],
)
def test_engine_is_the_one_that_the_module_wants(
    wanted: EngineChoice | None,
    runs: str,
    used: str,
    connects: bool,  # noqa: FBT001 - a value of the test
) -> None:
    """A module may ask for connections; anything else is scanned by the engine that scans."""
    scanner, connector = ScriptedEngine(all_closed), ScriptedEngine(all_closed)
    modules = [module(engine=wanted)] if wanted else []
    one = prober(config(*modules), [WEB], scanner=scanner, connector=connector, engine=runs)
    assert probe(one, "web1", "mail" if wanted else None).engine == used
    assert (len(scanner.jobs), len(connector.jobs)) == ((0, 1) if connects else (1, 0))


def test_syn_engine_that_is_not_there_is_503() -> None:
    """A module that wants raw sockets where they may not be used is refused, and not scanned otherwise in silence."""
    one = prober(config(module(engine="syn")), [WEB], engine="connect")
    assert refusal(one, "web1", "mail") == (
        503,
        'module "mail" requires the syn engine, which this exporter cannot use',
    )


def test_scan_beyond_the_time_limit_is_a_timeout() -> None:
    """A scan that is not done in time is ended: the probe fails for the reason `timeout`, and tells how far it came."""
    engine = ScriptedEngine()
    made = probe(prober(config(), [WEB], scanner=engine), limit=SHORT)
    assert made.state.latest
    assert made.state.latest.judgement.verdict is Verdict.UNKNOWN
    failure = made.state.latest.judgement.failure
    assert failure is not None
    assert failure.reason is Reason.TIMEOUT
    assert failure.detail in {
        "the scan was stopped after 0.1 s: 0 of 3 ports were scanned",
        "the scan did not end within 0.1 s, the limit of the request",  # on a machine too busy to end it in time
    }
    assert made.state.latest.finished_at == NOW
    assert [future.cancelled() for future in engine.futures] == [True]
    assert made.duration >= 0.08


@fault("name server", "metrics and pages", "`/probe` answers within its time limit, with the reason `timeout`.")
def test_look_up_counts_towards_the_time_limit() -> None:
    """A name server that does not answer ends the probe in time, too."""
    resolver = ScriptedResolver({NAME.host: Resolution(("192.0.2.8",))}, held=[NAME.host])

    async def scenario() -> Probe:
        return await prober(config(), [NAME], resolver=resolver).probe(NAME.host, None, SHORT)

    latest = asyncio.run(scenario()).state.latest
    assert latest
    assert latest.judgement.failure
    assert latest.judgement.failure.reason is Reason.TIMEOUT


@pytest.mark.parametrize(
    ("limit", "waited"), [(10.0, 9.5), (0.7, 0.7 - 0.5), (0.5, 0.1), (0.001, 0.1), (3600.0, 120.0), (None, 120.0)]
)
def test_probe_ends_half_a_second_before_the_scrape_does(
    limit: float | None, waited: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has half a second for its way; a limit too short for that leaves a tenth; none is two minutes."""
    limits: list[float | None] = []
    real = asyncio.timeout

    def timeout(seconds: float | None) -> asyncio.Timeout:
        limits.append(seconds)
        return real(None)

    monkeypatch.setattr(asyncio, "timeout", timeout)
    probe(prober(config(), [WEB]), limit=limit)
    assert limits == [pytest.approx(waited)]


def test_probes_at_a_time_are_bounded() -> None:
    """Past the bound a probe is refused with 429; one that ends makes room for the next."""

    async def scenario() -> None:
        engine = ScriptedEngine()
        hosts = [target(f"web{number}", address=f"192.0.2.{number}") for number in (1, 2, 3)]
        one = prober(config(), hosts, scanner=engine, most=2)
        running = [asyncio.create_task(one.probe(host.host, None, None)) for host in hosts[:2]]
        await settle()
        with pytest.raises(ProbeError, match="2 probes are already running; retry later") as caught:
            await one.probe("web1", None, None)
        assert caught.value.status == 429
        engine.finish(0)
        await running[0]
        third = asyncio.create_task(one.probe("web3", None, None))
        await settle()
        assert engine.running == 2
        engine.finish(1)
        engine.finish(2)
        await asyncio.gather(running[1], third)

    asyncio.run(scenario())


def test_refused_probe_takes_no_place() -> None:
    """What is refused, for whatever reason, does not count among the probes that are being made."""
    one = prober(config(module(engine="syn")), [WEB], most=1)
    for of, by in (("", None), ("db1", None), ("web1", "none"), ("web1", "mail")):
        refusal(one, of, by)
    assert probe(one).state.verdict is Verdict.OUT_OF_SPEC


def test_probe_whose_asker_has_gone_gives_its_place_back() -> None:
    """A cancelled probe ends its scan, and the next one may be made."""

    async def scenario() -> None:
        engine = ScriptedEngine()
        one = prober(config(), [WEB], scanner=engine, most=1)
        gone = asyncio.create_task(one.probe("web1", None, None))
        await settle()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert engine.futures[0].cancelled()
        following = asyncio.create_task(one.probe("web1", None, None))
        await settle()
        engine.finish(1)
        await following

    asyncio.run(scenario())


def test_probe_that_timed_out_gives_its_place_back() -> None:
    """The running count goes back after a time-out as after an answer."""

    async def scenario() -> None:
        one = prober(config(), [WEB], scanner=ScriptedEngine(), most=1)
        for _ in range(2):
            assert (await one.probe("web1", None, SHORT)).state.latest

    asyncio.run(scenario())


def test_probe_whose_engine_breaks_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the engine makes the host unknown, and the exporter goes on."""

    def broken(_: ScanJob) -> Observation:
        raise ZeroDivisionError("somewhere")

    latest = probe(prober(config(), [WEB], scanner=ScriptedEngine(broken))).state.latest
    assert latest
    assert latest.judgement.failure == Failure(Reason.INTERNAL, "the scan crashed: ZeroDivisionError: somewhere")


@pytest.mark.parametrize("by", [None, "mail"])
def test_discovered_host_is_probed_where_it_may_lead_only(by: str | None) -> None:
    """An address that is denied to a discovered host is denied to /probe, too, whichever module is named."""
    engine = ScriptedEngine(opened(22))
    of = replace(target("web1", address="127.0.0.1"), deny=deny_of(["127.0.0.0/8"]))
    made = probe(prober(config(module()), [of], scanner=engine), "web1", by)
    assert engine.jobs == []
    assert made.state.verdict is Verdict.UNKNOWN
    assert made.state.latest is not None
    assert made.state.latest.judgement.failure is not None
    assert made.state.latest.judgement.failure.reason is Reason.DENIED


def test_address_that_conf_yml_allows_to_probe_is_not_denied() -> None:
    """`probe_allow` stands in conf.yml: what it covers may be scanned, whatever is denied to discovered hosts."""
    engine = ScriptedEngine(opened(25))
    probe(prober(config(module(), allow=("127.0.0.0/8",)), [], scanner=engine), "127.0.0.1", "mail")
    assert [job.addresses for job in engine.jobs] == [("127.0.0.1",)]
