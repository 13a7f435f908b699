from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from portspec.config import Specification
from portspec.config.yaml_document import MAX_DEPTH, MAX_VALUES
from portspec.inventory.discovery import hosts as groups_module
from portspec.inventory.discovery.hosts import MAX_LABEL_NAME, MAX_LABEL_VALUE, MAX_LABELS, find_hosts, host_of
from portspec.inventory.discovery.targetgroups import ListError, TargetGroup, check_label, read_json, read_yaml
from portspec.names import canonical, check_host
from portspec.ports import ALL_PORTS, NO_PORTS, PortSet
from tests.unit.factories import MODEST
from tests.unit.inventory.discovery.parts import entry, host, names


def group(*targets: object, **labels: object) -> TargetGroup:
    """Make a target group."""
    return TargetGroup(targets, labels)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("web1", "web1"),
        ("web1:9100", "web1"),
        ("WEB1.example.org.:9100", "web1.example.org"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:443", "192.0.2.7"),
        ("[2001:DB8:0::1]:9100", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8:0:0::1", "2001:db8::1"),
        ("192.0.2.0/255.255.255.248", "192.0.2.0/29"),
        ("bücher.example:80", "xn--bcher-kva.example"),
        ("faß.test:80", "xn--fa-hia.test"),
        ("web.1:9100", "web.1"),
    ],
)
def test_a_target_names_a_host_in_its_one_spelling(target: str, name: str) -> None:
    """The port is for Prometheus; what is left is the host."""
    assert host_of(target) == name


@pytest.mark.parametrize(
    "target",
    [
        *("", ".", ":9100", "web1:", "web1:http", "web1:999999", "web1:80:80", "http://web1:9100/metrics"),
        *("web1:9100/metrics", "web1/24", "[web1]:80", "[192.0.2.1]:80", "[2001:db8::1", "[2001:db8::1]80", "[]:80"),
        *("fe80::1%eth0", "[fe80::1%eth0]:80", "192.0.2.256", "224.0.0.1", "10.0.0.0/8", "192.0.2.1/24", "a b"),
        *("2001:db8::1%eth0/128", "0x7f000001", "127.1:80", "2130706433:80", "::ffff:192.0.2.1", "::"),
        *("-web1", "a" * 64, "web1\n", "\ud800", "x" * 1000, None, 7, ["web1"], {}),
    ],
)  # fmt: skip
def test_what_is_no_target_is_told(target: object) -> None:
    """A URL, a wrong name, a zone, a network that is too wide: each is refused by itself."""
    with pytest.raises(ValueError, match=r"\w"):
        host_of(target)


def test_hosts_have_the_specification_of_the_source() -> None:
    """What stands beside the source in conf.yml holds for all hosts that it finds."""
    parts: dict[str, Any] = {"expect": [22], "allow": [443], "scan": [80], "labels": {"team": "web"}}
    answer = find_hosts([group("web1:9100", "web2")], entry(**parts))
    assert answer.hosts == (host("web1", **parts), host("web2", **parts))
    assert answer.hosts[0].ports == PortSet.of([22, 80, 443])
    assert (answer.refused, answer.dropped, answer.complaints) == (0, 0, ())


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("22,80,8000-8100", PortSet(((22, 22), (80, 80), (8000, 8100)))),
        (" 22 80\n443, ", PortSet.of([22, 80, 443])),
        ("all", ALL_PORTS),
        ("", NO_PORTS),
        (" , ", NO_PORTS),
        (None, NO_PORTS),
    ],
)
def test_labels_with_ports_win_over_the_source(text: str | None, ports: PortSet) -> None:
    """A group can say itself what its hosts expect."""
    (found,) = find_hosts([group("web1", __portspec_expect=text)], entry()).hosts
    assert found.specification == Specification(ports, NO_PORTS)
    assert found.ports == ports | PortSet.of([22, 80])


def test_a_group_may_allow_and_scan_ports_of_its_own() -> None:
    """All three keys of ports have a label."""
    labels = {"__portspec_allow": "443", "__portspec_scanports": "1-3"}
    (found,) = find_hosts([group("web1", **labels)], entry(expect=[], scan=[80])).hosts
    assert found.specification == Specification(NO_PORTS, PortSet.of([443]))
    assert found.ports == PortSet.of([1, 2, 3, 443])


@pytest.mark.parametrize("value", ["80a", "0", "22;80", 80, True, ["80"], {}])
def test_a_bad_list_of_ports_costs_its_own_group(value: object) -> None:
    """Hosts whose ports cannot be read are left out rather than held to a wrong specification."""
    answer = find_hosts([group("web1", "web2", __portspec_allow=value), group("db1")], entry())
    assert (names(answer), answer.refused) == (["db1"], 2)
    assert answer.complaints[0].startswith("__portspec_allow: ")


def test_a_group_without_any_port_is_refused() -> None:
    """A host of which nothing is scanned would always be in specification."""
    answer = find_hosts([group("web1", __portspec_scanports="", __portspec_expect="")], entry())
    assert (answer.hosts, answer.refused) == ((), 1)


def test_labels_of_the_group_stand_over_those_of_the_source() -> None:
    """Labels that begin with two underscores are for service discovery itself, and go."""
    answer = find_hosts([group("web1", team="db", rack="7", __meta_x="1")], entry(labels={"team": "web", "a": "b"}))
    assert list(answer.hosts[0].labels.items()) == [("a", "b"), ("rack", "7"), ("team", "db")]
    assert answer.dropped == 0


@pytest.mark.parametrize(
    ("text", "former"),
    [
        ("old1", ("old1",)),
        ("OLD1., 192.0.2.7 2001:DB8::0:1,old1", ("old1", "192.0.2.7", "2001:db8::1")),
        (" , ", ()),
        ("", ()),
        (None, ()),
        (",".join(f"old{number}" for number in range(16)), tuple(f"old{number}" for number in range(16))),
    ],
)
def test_a_group_of_one_host_may_say_what_it_was_called(text: str | None, former: tuple[str, ...]) -> None:
    """Names are separated by commas or spaces; the same host at two ports is one."""
    answer = find_hosts([group("web1:80", "WEB1:443", __portspec_renamed_from=text), group("web2")], entry())
    assert {found.name: found.renamed_from for found in answer.hosts} == {"web1": former, "web2": ()}
    assert (answer.dropped, answer.complaints) == (0, ())


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (("web1",), "old1:9100"),
        (("web1",), "192.0.2.0/30"),
        (("web1",), "-old"),
        (("web1",), 7),
        (("web1",), ",".join(f"old{number}" for number in range(17))),
        (("web1", "web2"), "old1"),
        (("192.0.2.0/31",), "old1"),
    ],
)
def test_former_names_that_make_no_sense_are_dropped_and_told(targets: tuple[str, ...], text: object) -> None:
    """The hosts are scanned all the same."""
    answer = find_hosts([group(*targets, __portspec_renamed_from=text)], entry())
    assert [found.renamed_from for found in answer.hosts] == [()] * len(targets)
    assert (answer.refused, answer.dropped, len(answer.complaints)) == (0, 1, 1)
    assert answer.complaints[0].startswith("__portspec_renamed_from: ")


def test_former_name_of_a_host_that_the_list_had_before_is_ignored() -> None:
    """The first group of a host says what it was called, as it says everything else."""
    drawn = [group("web1"), group("web1", __portspec_renamed_from="old1")]
    assert [found.renamed_from for found in find_hosts(drawn, entry()).hosts] == [()]


@pytest.mark.parametrize(
    "labels", [{"host": "x"}, {"a-b": "x"}, {"": "x"}, {"a": True}, {"a": []}, {"a": "\ud800"}, {"\ud800": "x"}]
)
def test_a_label_that_conf_yml_would_refuse_is_dropped_and_told(labels: dict[str, object]) -> None:
    """The host is kept; the label is what is wrong."""
    answer = find_hosts([TargetGroup(("web1",), {**labels, "rack": "7"})], entry())
    assert dict(answer.hosts[0].labels) == {"rack": "7"}
    assert (answer.dropped, len(answer.complaints)) == (1, 1)


def test_the_first_of_two_that_name_a_host_holds() -> None:
    """A host that stands twice, in whatever spelling, is one host and no fault."""
    answer = find_hosts([group("web1:9100", rack="1"), group("WEB1:80", "web2", rack="2")], entry())
    assert [(found.name, found.labels["rack"]) for found in answer.hosts] == [("web1", "1"), ("web2", "2")]
    assert answer.refused == 0


def test_few_complaints_are_kept_and_all_are_counted() -> None:
    """A list of rubbish neither fills the memory nor the log."""
    answer = find_hosts([group(*[f"web{number}/x" * 40 for number in range(100)])], entry())
    assert (answer.refused, len(answer.complaints)) == (100, groups_module.MAX_COMPLAINTS)
    assert max(map(len, answer.complaints)) <= 200


def test_a_list_has_a_bounded_number_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks count with all their addresses; what goes beyond is refused and what fits is taken."""
    monkeypatch.setattr(groups_module, "MAX_HOSTS", 6)
    answer = find_hosts([group("192.0.2.0/30", "198.51.100.0/30", "web1", "web2", "web3")], entry())
    assert names(answer) == ["192.0.2.0/30", "web1", "web2"]
    assert answer.refused == 2


def test_json_and_yaml_are_read_alike() -> None:
    """Labels are texts, also where they look like numbers, and are spelled as they were written."""
    wanted = (TargetGroup(("web1:9100", "::1"), {"rack": "1.50", "team": "web"}), TargetGroup(()), TargetGroup(()))
    text = '[{"targets": ["web1:9100", "::1"], "labels": {"rack": 1.50, "team": "web"}, "x": 1}, {"targets": []}'
    assert read_json(f'{text}, {{"targets": null, "labels": null}}]'.encode("utf-8-sig")) == wanted
    block = (
        "- targets: &t [web1:9100, '::1']\n  labels: {rack: 1.50, team: web}\n- targets: []\n- targets:\n  labels:\n"
    )
    assert read_yaml(block.encode()) == wanted
    assert read_yaml(b"- targets: &t [web1]\n- targets: *t\n") == (TargetGroup(("web1",)),) * 2
    assert read_json(b"[]") == read_yaml(b"[]") == ()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'"web1"', "is not a list of target groups"),
        (b'{"targets": ["web1"]}', "is not a list of target groups"),
        (b'["web1"]', "number 1, that is not a mapping"),
        (b'[{"targets": ["web1"]}, {"target": ["web1"]}]', 'number 2, with "target" and without targets'),
        (b'[{"targets": "web1"}]', "number 1, whose targets are not a list"),
        (b'[{"targets": [], "labels": ["x"]}]', "number 1, whose labels are not a mapping"),
        (b'[{"targets": ["web1"', "is not valid (JSON|YAML)"),
        (b"\xff[]", "is not UTF-8 text"),
        (b"\x1f\x8b\x08", "is not UTF-8 text"),
        (b"[" * 100_000, "nested more than"),
        (b'{"a":' * 100_000, "nested more than"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested more than"),
        (b"[" + b"1," * (MAX_VALUES + 1) + b"1]", "more than 1,000,000 values"),
    ],
    ids=range(15),
)
@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_what_is_no_list_is_told(read: Any, content: bytes, why: str) -> None:
    """Whatever a file or a server holds, there is one sentence about it, and no list."""
    with pytest.raises(ListError, match=why):
        read(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a: [", "is not valid YAML: .* on line [12]"),
        ("- *x", r"stands for nothing|undefined"),
        ("- {<<: 3}", r"merges \(<<\)"),
        ("- {<<: [{}, 3]}", r"merges \(<<\)"),
        ("- {<<: }", r"merges \(<<\)"),
        ("- &a {<<: &b {<<: *a, x: *b}, targets: web1}", "whose targets are not a list"),
        ("- {[a]: b}", "a key that is not a plain word"),
        ("[]\n---\n3\n", "is not a list of target groups"),
        ("\x01", "a character that YAML does not allow"),
        ('["\\UFFFFFFFF"]', "is not valid YAML"),
        ("&a [*a]", "number 1, that is not a mapping"),
        ("- targets: &t [a,a,a,a,a,a,a,a,a,a]\n- targets: &u [" + "*t," * 10 + "]\n", None),
    ],
)
@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_yaml_holds_no_surprise(
    content: str, why: str | None, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Aliases multiply nothing, and what is no list is told, whichever parser PyYAML has."""
    monkeypatch.setattr("portspec.inventory.discovery.targetgroups._LOADER", getattr(yaml, loader))
    if why is None:
        assert [len(found.targets) for found in read_yaml(content.encode())] == [10, 10]
        return
    with pytest.raises(ListError, match=why):
        read_yaml(content.encode())


@pytest.mark.parametrize(
    "text", ["- {}\n", "- labels: {a: b}\n", "- source: x\n", "# nothing\n", "null\n", "---\n...\n"]
)
def test_a_group_or_a_document_that_holds_nothing_is_empty(text: str) -> None:
    """Generators leave out what is empty: the other groups are taken, and so are the other documents."""
    found = read_yaml(f"{text}---\n- targets: [web1]\n---\n".encode())
    assert [target for each in found for target in each.targets] == ["web1"]
    assert read_json(b'[{"labels": {"a": "b"}}, {}, {"targets": ["web1"]}]')[-1].targets == ("web1",)
    assert read_json(b"null") == ()


def test_merges_bring_in_what_a_mapping_does_not_have_itself() -> None:
    """As in YAML 1.1: of several mappings the first wins, and the mapping's own keys win over all of them."""
    text = """
    - &one {targets: [web1], labels: &x {team: web, site: a}}
    - &two {labels: {team: db}}
    - {targets: [web2], <<: *one}
    - {<<: [*two, *one]}
    - targets: [web3]
      labels: {<<: *x, site: b}
    """
    _, _, *merged = read_yaml(text.encode())
    assert merged == [
        TargetGroup(("web2",), {"team": "web", "site": "a"}),
        TargetGroup(("web1",), {"team": "db"}),
        TargetGroup(("web3",), {"team": "web", "site": "b"}),
    ]


def test_merges_cannot_stand_for_more_values_than_a_list_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a merge copies counts."""
    monkeypatch.setattr("portspec.inventory.discovery.targetgroups.MAX_VALUES", 200)
    content = "- labels: &x {" + ", ".join(f"a{n}: b" for n in range(40)) + "}\n" + "- labels: {<<: *x}\n" * 5
    with pytest.raises(ListError, match="more than"):
        read_yaml(content.encode())


def test_json_is_read_as_go_reads_it() -> None:
    """Keys of a group may be in capitals, and a byte in a label that is not UTF-8 costs that letter only."""
    (found,) = read_json(b'[{"Targets": ["web1"], "Labels": {"Name": "caf\xe9"}}]')
    assert found == TargetGroup(("web1",), {"Name": "caf\ufffd"})
    empty, full = read_json(b'[{"Labels": {"a": "b"}}, {"Targets": ["127.0.0.1"]}]')
    assert (empty.targets, full.targets) == ((), ("127.0.0.1",))


def test_yaml_may_be_utf_16() -> None:
    """A byte order mark tells, as it does to Prometheus."""
    for encoding in ("utf-8-sig", "utf-16"):
        assert read_yaml("- targets: [web1]\n".encode(encoding)) == (TargetGroup(("web1",)),)


def test_a_label_that_is_null_is_none() -> None:
    """A label without a value is no fault, and takes that of the source away."""
    answer = find_hosts(read_yaml(b"- targets: [web1]\n  labels: {team: , rack: 7}\n"), entry(labels={"team": "web"}))
    assert answer.dropped == 0
    assert dict(answer.hosts[0].labels) == {"rack": "7"}


def test_aliases_cannot_stand_for_more_targets_than_a_list_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short file does not become millions of hosts."""
    monkeypatch.setattr("portspec.inventory.discovery.targetgroups.MAX_VALUES", 100)
    content = "- targets: &t [" + "a," * 40 + "]\n" + "- targets: *t\n" * 3
    with pytest.raises(ListError, match="more than"):
        read_yaml(content.encode())


def test_yaml_tags_make_no_objects() -> None:
    """A tag is not obeyed: what stands behind it is text."""
    assert read_yaml(b"- targets: [!!python/name:os.system web1, !!binary web2]\n") == (TargetGroup(("web1", "web2")),)


texts = st.one_of(
    st.text(max_size=30),
    st.from_regex(r"(\[?[0-9a-f:.]{1,20}\]?|[a-zA-Z0-9._-]{1,20})(:[0-9]{1,6})?(/[0-9]{1,3})?", fullmatch=True),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]:9100"),
    st.sampled_from(
        ["192.0.2.0/30", "2001:db8::/126", "a" * 250 + ".b", "ß.example", "\u3002", "xn--", "\u0661.example"]
    ),
)
labels = st.dictionaries(
    st.one_of(
        st.sampled_from(
            ["__portspec_expect", "__portspec_allow", "__portspec_scanports", "__portspec_renamed_from", "host"]
        ),
        st.text(),
    ),
    st.one_of(st.none(), st.booleans(), st.sampled_from(["22,80", "all", "", "ssh", "a, b"]), st.text(max_size=9)),
    max_size=4,
)


@MODEST
@given(texts)
def test_any_text_is_a_host_or_is_refused(text: str) -> None:
    """What comes out is a host that conf.yml would take, in the spelling that stands for all others."""
    try:
        name = host_of(text)
    except ValueError:
        return
    assert check_host(name) == canonical(name) == name


@MODEST
@given(st.lists(st.builds(TargetGroup, st.lists(st.one_of(texts, st.none()), max_size=5).map(tuple), labels)))
def test_any_groups_give_sound_hosts(drawn: list[TargetGroup]) -> None:
    """Whatever a list says, hosts are valid, single, and have ports and labels that can be exposed."""
    answer = find_hosts(drawn, entry())
    assert answer.failure is None
    assert len({found.name for found in answer.hosts}) == len(answer.hosts)
    assert len(answer.hosts) + answer.refused <= sum(len(one.targets) for one in drawn)
    assert bool(answer.complaints) == bool(answer.refused or answer.dropped)
    for found in answer.hosts:
        assert check_host(found.name) == found.name
        assert found.specification.expect <= found.ports
        assert found.specification.allow <= found.ports
        assert all(check_label(name, value) == value for name, value in found.labels.items())


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["targets", "labels", "Targets", "<<", "x"]), inner, max_size=3),
    ),
    max_leaves=12,
)


@MODEST
@given(st.lists(json_values, max_size=3) | json_values, st.integers(0, 200))
def test_any_json_is_groups_or_told(value: object, cut: int) -> None:
    """Any JSON, whole or cut off, gives groups of which hosts can be made, or a ListError."""
    content = json.dumps(value).encode()
    for data in (content, content[:cut]):
        for read in (read_json, read_yaml):
            try:
                found = read(data)
            except ListError:
                continue
            find_hosts(found, entry())


@MODEST
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_groups_or_told(data: bytes) -> None:
    """A file or a server may give anything."""
    for read in (read_json, read_yaml):
        try:
            find_hosts(read(data), entry())
        except ListError as error:
            assert str(error)  # noqa: PT017 - may or may not be raised


@pytest.mark.parametrize("is_audited", [False, True])
def test_hosts_of_a_source_have_to_report_if_it_says_so(is_audited: bool) -> None:  # noqa: FBT001 - a value of the test
    """`audit: true` at a source is about every host that it finds, whatever its group says of ports."""
    source = replace(entry(), is_audited=is_audited)
    found = find_hosts([group("web1"), group("192.0.2.0/30", __portspec_expect="443")], source).hosts
    assert [(item.name, item.is_audited) for item in found] == [("web1", is_audited), ("192.0.2.0/30", is_audited)]


def test_labels_that_are_too_long_or_too_many_are_dropped() -> None:
    """A list cannot make a series that Prometheus refuses: the host is kept, the label is what is wrong."""
    labels = {"a": "x" * MAX_LABEL_VALUE, "b": "ä" * (MAX_LABEL_VALUE // 2 + 1), "c" * (MAX_LABEL_NAME + 1): "x"}
    answer = find_hosts([group("web1", **labels)], entry())
    assert (list(answer.hosts[0].labels), answer.dropped) == (["a"], 2)
    many = {f"label_{number}": "x" for number in range(MAX_LABELS + 5)}
    answer = find_hosts([group("web1", **many)], entry())
    assert (len(answer.hosts[0].labels), answer.dropped) == (MAX_LABELS, 5)
    assert answer.complaints[0] == "a host has more than 24 labels"


def test_labels_of_many_hosts_do_not_multiply_without_bound() -> None:
    """A group has its labels once, and each address of a CIDR has them: what is too much in all is dropped."""
    labels = {f"label_{number}": "x" * MAX_LABEL_VALUE for number in range(MAX_LABELS)}
    answer = find_hosts([group("192.0.2.0/28", "10.1.0.0/16", "web1", **labels)], entry())
    assert [len(host.labels) for host in answer.hosts] == [MAX_LABELS, 0, MAX_LABELS]
    assert answer.dropped == MAX_LABELS
    assert answer.complaints == ("the labels of the hosts are more than 32 MiB together",)
