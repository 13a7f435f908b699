from __future__ import annotations

import asyncio
import gzip
import itertools
import re
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from portspec.config import Config, Module, Specification
from portspec.ports import PortSet
from portspec.scan import Observation, Reason
from tests.unit.factories import ScriptedEngine, all_closed, seen, settle, target
from tests.unit.metrics.scrape import OPENMETRICS
from tests.unit.web.exporter import Exporter, prober
from tests.unit.web.site import Answer, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portspec.scan import ScanJob

WEB = target("web1", expect=[22], scan=[80])
MAIL = Module("mail", Specification(PortSet.of([25])), PortSet.of([25, 110]), "connect")
CONFIG = Config(
    "conf.yml", (), modules=MappingProxyType({"mail": MAIL}), probe_allow=("198.51.100.0/24", "2001:db8::/64")
)
TIMEOUT = "X-Prometheus-Scrape-Timeout-Seconds"


def opened(*ports: int) -> Callable[[ScanJob], Observation]:
    """Make the answer that these ports of every address are open and the others closed."""

    def answer(job: ScanJob) -> Observation:
        found = tuple(
            seen(address, scanned=job.ports, is_open=job.ports & PortSet.of(ports), rtt=0.002)
            for address in job.addresses
        )
        return Observation(found, 0.25, len(job.ports))

    return answer


def exporter(answer: Callable[[ScanJob], Observation] | None = all_closed, *, series_budget: int = 1000) -> Exporter:
    """Make an exporter whose engines answer so; without an answer they never do."""
    one = prober(CONFIG, [WEB], scanner=ScriptedEngine(answer), connector=ScriptedEngine(answer))
    return Exporter(prober=one, series_budget=series_budget)


def samples(answer: Answer) -> list[str]:
    """Return the samples of a page, without the time that the probe took, which is another each time."""
    assert answer.status == 200, answer.text
    return [line for line in answer.text.splitlines() if not line.startswith(("#", "probe_duration_seconds"))]


def test_host_is_probed_by_its_own_specification() -> None:
    """/probe of a host of conf.yml gives what /metrics gives of one host, and how the probe itself went."""
    answer = exporter(opened(22, 80)).ask("/probe?target=web1")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(answer)
    assert {
        "probe_success 1.0",
        'port_open{host="web1",port="22"} 1.0',
        'port_open{host="web1",port="80"} 1.0',
        'port_expected{host="web1",port="22"} 1.0',
        (
            'port_deviation{address="192.0.2.1",host="web1",kind="unexpected",port="80",severity="warning",'
            'state="open"} 1.0'
        ),
        'port_out_of_spec{host="web1"} 1.0',
        'port_scan_success{host="web1"} 1.0',
    } <= set(found)
    assert "probe_duration_seconds " in answer.text
    assert not [line for line in found if line.startswith(("portspec_hosts", "portspec_build_info", "process_"))]


def test_host_is_probed_by_a_module() -> None:
    """With a module the module's ports and specification count."""
    found = samples(exporter(opened(25)).ask("/probe?target=web1&module=mail"))
    assert 'port_expected{host="web1",port="25"} 1.0' in found
    assert 'port_out_of_spec{host="web1"} 0.0' in found
    assert 'port_expected{host="web1",port="22"} 1.0' not in found


@pytest.mark.parametrize("text", ["198.51.100.7", "2001:db8::7", "2001%3Adb8%3A0%3A%3A7"])
def test_address_of_an_allowed_network_is_probed(text: str) -> None:
    """An address of probe_allow needs a module, and no entry in conf.yml."""
    found = samples(exporter(opened(25)).ask(f"/probe?target={text}&module=mail"))
    host = "198.51.100.7" if "." in text else "2001:db8::7"
    assert f'port_open{{host="{host}",port="25"}} 1.0' in found


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("", 400, "the parameter target is missing: /probe?target=HOST\n"),
        ("?target=", 400, "the parameter target is missing: /probe?target=HOST\n"),
        ("?target=http://web1/", 400, '"http://web1/" is not a host (write the host without port and scheme)\n'),
        ("?target=web1&module=ssh", 400, 'conf.yml has no module "ssh" (modules: mail)\n'),
        ("?target=db1", 403, '"db1" is not a host of conf.yml, and probe_allow does not cover it\n'),
        ("?target=203.0.113.7&module=mail", 403, '"203.0.113.7" is not a host of conf.yml, and probe_allow does not'),
        ("?target=198.51.100.7", 400, '"198.51.100.7" has no specification in conf.yml: name a module'),
        ("?target=198.51.100.0/24&module=mail", 403, '"198.51.100.0/24" is not a host of conf.yml'),
        ("?target=web1&modul=mail", 400, '"modul" is not a parameter of /probe (known: target, module, debug)'),
        ("?target=web1&target=db1", 400, "the parameter target is given more than once"),
    ],
)
def test_probe_that_makes_no_sense_is_refused(query: str, status: int, message: str) -> None:
    """What may not be probed or is misspelled is 400 or 403, with a message that says why."""
    answer = exporter().ask(f"/probe{query}")
    assert answer.status == status
    assert message in answer.text.replace('\\"', '"')


@pytest.mark.parametrize("text", ["%00", "%0A", "web1%0Aport_open%201", "%F0%9F%98%80", "a" * 3000, "..%2F..%2Fetc"])
def test_target_of_garbage_is_refused(text: str) -> None:
    """Whatever bytes stand there, the answer is a refusal and no fault."""
    assert exporter().ask(f"/probe?target={text}").status in {400, 403}


def test_probe_wants_a_get() -> None:
    """/probe takes no other method, as with blackbox_exporter."""
    assert exporter().ask("/probe?target=web1", "POST").status == 405


def test_too_many_probes_are_429() -> None:
    """A thousand probes at once are answered with 429 and Retry-After, but for those that there is room for."""
    engine = ScriptedEngine()

    async def scenario() -> list[Answer]:
        one = Exporter(prober=prober(CONFIG, [WEB], scanner=engine, most=4))
        async with one.served() as url:
            asked = [asyncio.create_task(fetch(f"{url}/probe?target=web1")) for _ in range(40)]
            for answered in itertools.islice(asyncio.as_completed(asked), 36):
                assert (await answered).status == 429
            engine.finish(0)  # the scan of the one address that all of them ask
            return await asyncio.gather(*asked)

    answers = asyncio.run(asyncio.wait_for(scenario(), 30.0))
    refused = [answer for answer in answers if answer.status == 429]
    assert (len(refused), sum(answer.status == 200 for answer in answers)) == (36, 4)
    assert {(answer.headers["Retry-After"], answer.text) for answer in refused} == {
        ("1", "4 probes are already running; retry later\n")
    }


def test_probe_keeps_to_the_time_limit_of_the_scrape() -> None:
    """Prometheus says how long it waits; the answer comes before that, as a failed probe for the reason timeout."""
    found = samples(exporter(None).ask("/probe?target=web1", headers={TIMEOUT: "0.6"}))
    assert "probe_success 0.0" in found
    assert f'port_scan_failure{{host="web1",reason="{Reason.TIMEOUT.value}"}} 1.0' in found
    assert 'port_scan_success{host="web1"} 0.0' in found
    assert not [line for line in found if line.startswith(("port_open", "port_deviation"))]


@pytest.mark.parametrize(
    "value",
    [
        *("", "soon", "-1", "0", "nan", "inf", "-inf", "1e400", "0x10", "1,5", "10 s", "1" * 400),
        *("0.000001", "1e-300", "1e300", " 10 ", "1_0"),
    ],
)
def test_time_limit_of_any_kind_does_no_harm(value: str) -> None:
    """A header that says nothing sensible is as good as none, and a probe that is done at once is in every limit."""
    assert "probe_success 1.0" in samples(exporter().ask("/probe?target=web1", headers={TIMEOUT: value}))


def test_debug_tells_what_happened() -> None:
    """With debug=true there is a story for people, and below it the metrics."""
    answer = exporter(opened(80)).ask("/probe?target=web1&debug=true")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    story, _, metrics = answer.text.partition("\nMetrics that the probe would have returned:\n")
    first, *lines = story.splitlines()
    assert first.startswith("Probe of web1 with the connect engine: ")
    assert lines == [
        "Ports: 2 to scan; expect 22; allow none",
        "192.0.2.1: 1 open, 1 closed, 0 filtered; open: 80; unconfirmed: none; round-trip time: 2.000 ms",
        "missing: 22",
        "unexpected: 80",
        "excepted: none",
        "Verdict: out of spec",
    ]
    assert 'port_open{host="web1",port="80"} 1.0' in metrics


def test_debug_tells_why_a_probe_failed() -> None:
    """The story of a failed probe has the reason and a sentence, of each address and of the host."""

    def unseen(job: ScanJob) -> Observation:
        return Observation((seen(job.addresses[0], reason=Reason.NO_ROUTE),), 0.0, 0)

    story = exporter(unseen).ask("/probe?target=web1&debug=true").text
    assert "192.0.2.1: no_route: no connection to 192.0.2.1: no_route\n" in story
    assert "failure: no_route: no connection to 192.0.2.1: no_route\n" in story
    assert "Verdict: unknown\n" in story


def test_debug_of_a_timeout_tells_the_limit() -> None:
    """The story of a probe that took too long says so; on a busy machine it is stopped later than after 0.1 s."""
    story = exporter(None).ask("/probe?target=web1&debug=true", headers={TIMEOUT: "0.6"}).text
    assert re.search(r"failure: timeout: the scan was stopped after [0-9.]+ s: 0 of 2 ports were scanned\n", story)


@pytest.mark.parametrize("value", ["false", "0", "", "no"])
def test_debug_that_is_not_true_is_off(value: str) -> None:
    """Any other value of debug gives the metrics alone."""
    assert "Verdict" not in exporter().ask(f"/probe?target=web1&debug={value}").text


def test_debug_is_never_compressed() -> None:
    """The story is text, whatever a client accepts."""
    headers = {"Accept": OPENMETRICS, "Accept-Encoding": "gzip"}
    answer = exporter().ask("/probe?target=web1&debug=true", headers=headers)
    assert "Content-Encoding" not in answer.headers
    assert "# EOF" not in answer.text


@pytest.mark.parametrize(
    ("headers", "is_gzip", "is_openmetrics"),
    [
        ({}, False, False),
        ({"Accept-Encoding": "gzip"}, True, False),
        ({"Accept": OPENMETRICS}, False, True),
        ({"Accept": OPENMETRICS, "Accept-Encoding": "gzip"}, True, True),
        ({"Accept": ";;q=,", "Accept-Encoding": ";;"}, False, False),
    ],
)
def test_probe_is_negotiated_as_metrics_are(headers: Mapping[str, str], is_gzip: bool, is_openmetrics: bool) -> None:  # noqa: FBT001 - values of the test
    """A probe comes as text or OpenMetrics, plain or gzip, as a scrape does."""
    answer = exporter(opened(22)).ask("/probe?target=web1", headers=headers)
    assert answer.status == 200
    assert (answer.headers.get("Content-Encoding") == "gzip") == is_gzip
    text = gzip.decompress(answer.body).decode() if is_gzip else answer.text
    assert text.endswith("# EOF\n") == is_openmetrics
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text") == is_openmetrics
    assert 'port_open{host="web1",port="22"} 1.0' in text


def test_probe_keeps_to_the_series_budget() -> None:
    """What a probe finds beyond series_budget is left out and counted, as on /metrics."""
    found = samples(exporter(opened(22, 80), series_budget=1).ask("/probe?target=web1"))
    (dropped,) = [line for line in found if line.startswith("portspec_series_dropped ")]
    assert float(dropped.split()[1]) > 0


def test_probes_know_nothing_of_each_other() -> None:
    """Two probes at the same time have a page each, of their own target alone."""

    async def scenario() -> list[Answer]:
        async with exporter(opened(25)).served() as url:
            targets = [f"198.51.100.{number}" for number in (1, 2)]
            await settle()
            return await asyncio.gather(*(fetch(f"{url}/probe?target={one}&module=mail") for one in targets))

    first, second = asyncio.run(scenario())
    assert "198.51.100.2" not in first.text
    assert "198.51.100.1" not in second.text
