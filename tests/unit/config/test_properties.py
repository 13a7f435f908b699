from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.config import Config, HostConfig, ScanConfig, Specification, load
from portspec.config import yaml_document as source_module
from portspec.errors import ConfigError
from portspec.names import fault_of
from portspec.ports import ALL_PORTS, NO_PORTS, PortSet

if TYPE_CHECKING:
    from pathlib import Path

Draw = Any  # hypothesis' DrawFn is generic over what is drawn

LOADERS = ["CSafeLoader", "SafeLoader"]  # libyaml, and what PyYAML falls back to where that is missing


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one conf.yml that every example overwrites."""
    return tmp_path_factory.mktemp("conf") / "conf.yml"


def joined(sets: list[PortSet]) -> PortSet:
    """Return the ports of all sets."""
    return PortSet.of_ranges(span for ports in sets for span in ports.ranges)


port = st.integers(1, 65535)
entry = st.one_of(
    port.map(lambda number: (number, PortSet.of([number]))),
    st.tuples(port, st.sampled_from(["{}", "{}/tcp", " {} "])).map(
        lambda pair: (pair[1].format(pair[0]), PortSet.of([pair[0]]))
    ),
    st.tuples(port, port).map(sorted).map(lambda ends: ("{}-{}".format(*ends), PortSet(((ends[0], ends[1]),)))),
    st.sampled_from(["all", "ALL"]).map(lambda word: (word, ALL_PORTS)),
)  # fmt: skip
none: st.SearchStrategy[tuple[list[object] | None, PortSet]] = st.sampled_from([None, []]).map(
    lambda value: (value, NO_PORTS)
)
some = st.lists(entry, min_size=1, max_size=5).map(
    lambda entries: ([spelled for spelled, _ in entries], joined([ports for _, ports in entries]))
)
some_ports = st.one_of(entry, some)
any_ports = st.one_of(none, some_ports)

interval = st.one_of(
    st.integers(1, 366 * 86400).map(lambda seconds: (seconds, float(seconds))),
    st.integers(1, 366 * 86400).map(lambda seconds: (str(seconds), float(seconds))),
    st.integers(1, 100).map(lambda hours: (f"{hours}h30m", hours * 3600.0 + 1800)),
)
# A literal ${ is written $${ in a file. PyYAML quotes Unicode's line ends so that they read back as spaces.
characters = st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029")
text = st.text(characters, max_size=12).map(lambda words: (words.replace("${", "$${"), words))
label_name = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name != "host" and not name.startswith("__")
)
labels = st.dictionaries(label_name, text, max_size=3).map(
    lambda pairs: (
        {name: spelled for name, (spelled, _) in pairs.items()},
        {name: value for name, (_, value) in pairs.items()},
    )
)
host_address = st.ip_addresses().filter(lambda address: fault_of(address) is None)
host_name = st.one_of(
    st.from_regex(r"[a-z_][a-z0-9_]{0,8}(-[a-z0-9]{1,3})?(\.[a-z]{2,5}){0,2}", fullmatch=True),
    host_address.map(str),
    st.integers(0, 255).map(lambda third: f"10.0.{third}.0/24"),
)
host_mapping = st.fixed_dictionaries(
    {},
    optional={
        "expect": any_ports,
        "allow": any_ports,
        "scanports": st.one_of(st.just((None, NO_PORTS)), some_ports),
        "interval": interval,
        "labels": labels,
    },
)
rate = st.one_of(
    st.integers(1, 10_000_000).map(lambda value: (value, float(value))), st.just((None, None)), st.just((1.5, 1.5))
)
scan_block = st.fixed_dictionaries(
    {},
    optional={
        "engine": st.sampled_from([("auto", "auto"), ("syn", "syn"), ("connect", "connect")]),
        "rate": rate,
        "host_rate": st.one_of(rate, st.just(("auto", None))),
        "timeout": st.sampled_from([(1, 1.0), ("500ms", 0.5), (0.25, 0.25), (60, 60.0)]),
        "retries": st.integers(0, 10).map(lambda value: (value, value)),
    },
)
address = st.sampled_from(["a@example.org", "noc+ports@example.org", "o'neil@[192.0.2.1]"])
mail = st.fixed_dictionaries(
    {},
    optional={
        "sendemail": st.sampled_from([False, "no", "off"]),
        "smtpserver": st.sampled_from(["mail.example.org", "192.0.2.1", "2001:db8::1"]),
        "smtpport": st.integers(1, 65535),
        "smtptls": st.sampled_from(["starttls", "implicit"]),
        "alertemail": st.one_of(address, st.lists(address, max_size=2), st.none()),
        "fromemail": address,
        "remind": st.sampled_from([0, "24h", 60]),
        "alertmanager": st.sampled_from(["http://127.0.0.1:9093", "https://alerts.example.org/am/"]),
        "fallback_after": interval.map(lambda pair: pair[0]),
    },
)
credentials: st.SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"smtpusername": text.map(lambda pair: pair[0]), "smtppassword": text.map(lambda pair: pair[0])}
    ),
)
top = st.fixed_dictionaries(
    {"scanports": some_ports},
    optional={
        "interval": interval,
        "ipv6": st.sampled_from([(True, True), (False, False), ("yes", True), ("OFF", False)]),
        "parallelscans": st.integers(1, 10_000).map(lambda value: (value, value)),
        "recheck": st.one_of(interval, st.sampled_from([(0, 0.0), ("0s", 0.0)])),
        "scan": scan_block.map(
            lambda block: (
                {key: written for key, (written, _) in block.items()},
                {key: meant for key, (_, meant) in block.items()},
            )
        ),
    },
)


@st.composite
def configurations(draw: Draw) -> tuple[dict[str, Any], Config]:
    """Draw the data of a conf.yml, and the Config that it describes."""
    pairs = draw(top)
    meant = {key: value for key, (_, value) in pairs.items()}
    hosts: dict[str, object] = {}
    entries: list[HostConfig] = []
    for name in draw(st.lists(host_name, min_size=1, max_size=5, unique=True)):
        if draw(st.booleans()):
            hosts[name], expect = draw(any_ports)
            mapping: dict[str, Any] = {"expect": expect}
        else:
            drawn = draw(host_mapping)
            hosts[name] = {key: written for key, (written, _) in drawn.items()}
            mapping = {key: value for key, (_, value) in drawn.items()}
        specification = Specification(mapping.get("expect", NO_PORTS), mapping.get("allow", NO_PORTS))
        entries.append(
            HostConfig(
                name=name,
                specification=specification,
                ports=joined(
                    [mapping.get("scanports") or meant["scanports"], specification.expect, specification.allow]
                ),
                interval=mapping.get("interval", meant.get("interval", 3600.0)),
                labels=mapping.get("labels", {}),
            )
        )
    data = {key: written for key, (written, _) in pairs.items()} | draw(mail) | draw(credentials) | {"hosts": hosts}
    order = draw(st.permutations(sorted(data)))
    return {key: data[key] for key in order}, Config(
        path="conf.yml",
        hosts=tuple(entries),
        ipv6=meant.get("ipv6", False),
        parallelscans=meant.get("parallelscans", 10),
        recheck=meant.get("recheck", 900.0),
        scan=ScanConfig(**meant.get("scan", {})),
    )


@settings(max_examples=120, deadline=None)
@given(configurations(), st.sampled_from([None, True, False]), st.booleans())
def test_a_valid_configuration_loads_into_what_it_describes(
    file: Path, drawn: tuple[dict[str, Any], Config], flow: bool | None, unicode: bool  # noqa: FBT001 - drawn
) -> None:  # fmt: skip
    """Whatever valid data is written as YAML, in block or flow style, the Config says the same."""
    data, config = drawn
    file.write_text(
        yaml.safe_dump(data, sort_keys=False, default_flow_style=flow, allow_unicode=unicode), encoding="utf-8"
    )
    loaded = load(file, {})
    assert loaded.hosts == config.hosts
    assert (loaded.ipv6, loaded.parallelscans, loaded.scan) == (config.ipv6, config.parallelscans, config.scan)
    assert loaded.recheck == config.recheck


def loads_or_is_told(file: Path, content: bytes, loader: str = LOADERS[0]) -> None:
    """Load what may be wrong: nothing but ConfigError comes out, with one printable line for each problem."""
    file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "_LOADER", getattr(yaml, loader))
        try:
            assert load(file, {"X": "22"}).hosts
        except ConfigError as error:
            told = error
        else:
            return
    lines = str(told).split("\n")
    numbers = [problem.line for problem in told.problems]
    assert len(lines) == len(numbers) > 0
    assert all(line.isprintable() and line.startswith(str(file)) for line in lines)
    assert numbers == sorted(numbers)
    assert 0 <= numbers[0] <= numbers[-1] <= len(content.decode(errors="replace").splitlines()) + 1


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_told(file: Path, content: bytes) -> None:
    """A file may hold anything."""
    loads_or_is_told(file, content)


@pytest.mark.parametrize("loader", LOADERS)
@settings(max_examples=100, deadline=None)
@given(words=st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_loads_or_is_told(file: Path, loader: str, words: str) -> None:
    """A file may hold any characters, those that YAML forbids included."""
    loads_or_is_told(file, words.encode(), loader)


TOKENS = [
    *("hosts:", "scanports:", "scan:", "engine:", "labels:", "interval:", "ipv6:", "smtpserver:", "alertemail:"),
    *("db1:", "- ", "\n", "\n  ", "\n    ", "? ", ": ", ", ", "{", "}", "[", "]", "'", '"', "|\n ", ">-\n ", "# "),
    *("&a ", "*a ", "<<: ", "!!float ", "!!int ", "!!bool ", "!!null ", "!!set ", "!!binary ", "!x ", "---\n", "...\n"),
    *("${X}", "${", "$${", "22", "0", "-1", "1.5", ".nan", ".inf", "1:30.5", "1e400", "true", "~", "all", "ssh"),
    *("\t", "\x00", "\x1b", "\x85", "\u2028", "\ufeff", "ü", "%", "@", "a" * 70, "9" * 400),
]


@pytest.mark.parametrize("loader", LOADERS)
@settings(max_examples=250, deadline=None)
@given(tokens=st.lists(st.sampled_from(TOKENS), max_size=25))
def test_anything_like_yaml_loads_or_is_told(file: Path, loader: str, tokens: list[str]) -> None:
    """Pieces of YAML in any order are a configuration or an error, whichever parser PyYAML has."""
    loads_or_is_told(file, "".join(tokens).encode(), loader)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=10),
    st.sampled_from(["all", "22", "80-22", "1h", "${X}", "${", "auto", "::1", "192.0.2.0/24", "a@b", "/", "%", "."]),
)
keys = st.one_of(
    st.sampled_from([
        *("hosts", "scanports", "scan", "interval", "ipv6", "parallelscans", "engine", "rate", "timeout", "retries"),
        *("expect", "allow", "labels", "smtpserver", "smtpport", "smtppassword", "smtppassword_file", "alertemail"),
        "smtptokencommand",
        *("sendemail", "fromemail", "smtptls", "smtpcafile", "smtpusername", "remind", "alertmanager"),
        *("fallback_after", "exceptions", "confirm", "db1", "[key]", "192.0.2.1", "22"),
        *("audit", "passphrase", "passphrase_file", "previous_passphrase", "domain", "max_age", "keep", "reportfile"),
        *("reportmail", "ids", "until"),
    ]),
    scalars,
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=15,
)
texts = st.one_of(values, st.text(max_size=40))
audits = st.fixed_dictionaries(
    {},
    optional={
        "passphrase": texts,
        "passphrase_file": texts,
        "previous_passphrase": texts,
        "hosts": st.one_of(values, st.lists(texts, max_size=3)),
        "domain": texts,
        "max_age": values,
        "keep": values,
    },
)
# Right at the top, so that what is below is looked at.
documents = st.one_of(
    values,
    st.fixed_dictionaries(
        {"hosts": st.dictionaries(st.sampled_from(["db1", "db2", "::1"]), values, min_size=1, max_size=2)},
        optional={
            "scanports": values,
            "scan": st.dictionaries(st.sampled_from(["engine", "rate", "timeout", "retries"]), values, max_size=2),
            "interval": values,
            "smtpserver": values,
            "smtppassword": values,
            "smtppassword_file": values,
            "smtptokencommand": texts,
            "smtpusername": values,
            "smtptls": values,
            "smtpcafile": values,
            "alertemail": values,
            "fromemail": values,
            "sendemail": values,
            "remind": values,
            "alertmanager": values,
            "audit": st.one_of(values, audits),
            "reportfile": st.one_of(values, st.sampled_from(["a.html", "/a.html", "\0.html", ".html"])),
            "reportmail": st.one_of(values, st.sampled_from(["7:00", "07:00", "24:00"])),
            "exceptions": st.lists(values, max_size=2),
        },
    ),
)


@settings(max_examples=100, deadline=None)
@given(documents, st.booleans())
def test_any_data_at_all_loads_or_is_told(file: Path, data: object, flow: bool) -> None:  # noqa: FBT001 - drawn
    """Any value may stand under any key: it is a configuration or an error, never a traceback."""
    loads_or_is_told(file, yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True).encode())


@settings(max_examples=60, deadline=None)
@given(st.floats())
def test_no_number_stops_the_check(file: Path, number: float) -> None:
    """Infinities, NaN and huge numbers are durations, rates and ports that are refused."""
    text = yaml.safe_dump({"hosts": {"db1": 22}, "scanports": 22, "interval": number})
    file.write_text(text)
    if math.isfinite(number) and 1 <= number <= 366 * 86400:
        assert load(file, {}).hosts[0].interval == number
    else:
        with pytest.raises(ConfigError, match="expected"):
            load(file, {})
