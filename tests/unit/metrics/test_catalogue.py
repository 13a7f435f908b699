from __future__ import annotations

import math
import re
import shutil
import subprocess
from itertools import chain
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from portspec.metrics import CATALOGUE, HttpStatus, probe_page
from portspec.state.snapshot import HostState, Snapshot
from portspec.state.table import HostTable
from tests.requirements import missing
from tests.unit.factories import NOW, snapshot, target, window
from tests.unit.metrics.scrape import TEXT, UNLIMITED, audited_zoo, body, exposition, text, zoo

if TYPE_CHECKING:
    from portspec.metrics import Metric

NAME = re.compile(r"(audit|port|portspec|probe|process|python)_[a-z0-9_]+")
HTTP = ("portspec_http_connections", "portspec_http_connections_closed_total", "portspec_http_requests_refused_total")
HISTOGRAM = ("bucket", "sum", "count")
OURS = re.compile(r"(audit|port|portspec|probe)_")


def parsed() -> dict[str, tuple[str, str, set[str]]]:
    """Return kind, help and labels of every family in the outputs, but for `le`; a counter is named as its samples."""
    families = {}
    http = HttpStatus({"web": 3}, {"limit": 1}, {"host": 2})
    kept = HostState(target("kept", maintenance=[window(0.0, math.inf)]), judged_at=NOW)  # under maintenance
    pages = (
        text(audited_zoo()),
        text(Snapshot(HostTable([kept]))),
        body(exposition(zoo()).write(names=HTTP, http=http)).decode(),
        probed("bad"),
    )
    for family in chain.from_iterable(map(text_string_to_metric_families, pages)):
        labels = {name for sample in family.samples for name in sample.labels}
        suffix = "_total" if family.type == "counter" else ""
        if family.type == "histogram":
            assert "le" in labels
            labels.remove("le")
        families[family.name + suffix] = (family.type, family.documentation, labels)
    return families


def probed(host: str) -> str:
    """Write the page of a probe that found a host as it is in the zoo."""
    return body(
        probe_page(zoo().hosts[host], duration=0.5, series_budget=UNLIMITED, accept=TEXT, accept_encoding="")
    ).decode()


def test_every_family_is_in_the_catalogue_as_it_says() -> None:
    """Each of portspec's own families is written with the kind, the help and the labels of the catalogue."""
    written = {name: family for name, family in parsed().items() if OURS.match(name)}
    catalogue = {metric.name: metric for metric in CATALOGUE}
    assert set(written) <= set(catalogue)
    for name, (kind, documentation, labels) in written.items():
        assert (kind, documentation) == (catalogue[name].kind, catalogue[name].help)
        if name != "port_host_info":  # whose labels are the configuration's
            assert labels == set(catalogue[name].labels)


def test_every_metric_of_the_catalogue_can_be_seen() -> None:
    """A snapshot with a host of every kind, and a probe, show each metric of the catalogue: none is a dead entry."""
    assert {metric.name for metric in CATALOGUE} <= set(parsed())


def test_every_family_has_help_and_type_before_its_samples() -> None:
    """In the text each family begins with HELP and TYPE, once, and no sample stands outside of its family."""
    current = kind = None
    begun: list[str] = []
    helped = None
    for line in text(audited_zoo()).splitlines():
        if line.startswith("# HELP "):
            helped = line.split(" ", 3)[2]
        elif line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert helped == current
            begun.append(current)
        else:
            name = re.split(r"[{ ]", line, maxsplit=1)[0]
            assert name in ([f"{current}_{part}" for part in HISTOGRAM] if kind == "histogram" else [current])
    assert len(begun) == len(set(begun))


def test_names_have_a_known_prefix() -> None:
    """Every family begins with audit_, port_, portspec_, probe_, process_ or python_."""
    for name in parsed():
        assert NAME.fullmatch(name), name


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_catalogue_follows_the_conventions(metric: Metric) -> None:
    """Help is a sentence; a counter ends in _total, a gauge does not; a time has its unit; labels are plain words."""
    assert metric.help.endswith(".")
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    if any(word in metric.name for word in ("timestamp", "duration", "interval", "max_age")):
        assert metric.name.endswith("_seconds")
    assert all(re.fullmatch(r"[a-z][a-z_]*", label) for label in metric.labels)


def test_names_of_the_catalogue_are_unique() -> None:
    """No metric stands in the catalogue twice."""
    names = [metric.name for metric in CATALOGUE]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "page", [text(audited_zoo()), text(snapshot()), probed("bad")], ids=["zoo", "no hosts", "probe"]
)
def test_promtool_finds_nothing_to_say(page: str) -> None:
    """`promtool check metrics` accepts the output without a word."""
    promtool = shutil.which("promtool")
    if promtool is None:
        missing("promtool (Debian: prometheus) is not installed")
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
