from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec import agent
from portspec.audit.admission import AdmissionPolicy, RejectedError, admit
from portspec.audit.agent_key import AgentKey
from portspec.audit.envelope import key_of, pack
from tests.unit.audit.test_admission import HOST, NOW, payload
from tests.unit.cli.run import PROGRAM, call, run

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Configure

WORDS: Final = "correct horse battery staple"
AUDIT: Final[dict[str, Any]] = {"passphrase": WORDS, "hosts": [HOST]}


def test_key_of_a_host_is_printed(configure: Configure) -> None:
    """The key is one line of 64 hexadecimal digits, as the agent's file takes it, and nothing else."""
    done = run("key", HOST, "-c", configure({"127.0.0.1": []}, audit=AUDIT))
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{key_of(HOST, WORDS).hex()}\n"
    assert len(done.out) == 65


def test_audit_signed_with_the_printed_key_is_accepted(configure: Configure) -> None:
    """What the command prints is what reports are checked by."""
    done = call("-c", configure({"127.0.0.1": []}, audit=AUDIT), "key", HOST)
    packed = pack(payload(), bytes.fromhex(done.out))
    assert admit(packed, AdmissionPolicy({HOST}, (WORDS,)), NOW)
    with pytest.raises(RejectedError, match="is not signed with the key"):
        admit(packed, AdmissionPolicy({HOST}, ("another passphrase",)), NOW)


@pytest.mark.parametrize("name", [HOST.upper(), f"{HOST}.", f"{HOST.title()}."])
def test_spelling_of_a_host_makes_no_other_key(configure: Configure, name: str) -> None:
    """Case and a final dot make no difference, here as in a report."""
    done = call("key", name, "-c", configure({"127.0.0.1": []}, audit=AUDIT))
    assert (done.code, done.err, done.out) == (0, "", f"{key_of(HOST, WORDS).hex()}\n")


def test_key_of_an_address_is_that_of_its_short_form(configure: Configure) -> None:
    """An IPv6 address has one key in all of its spellings."""
    conf = configure({"2001:db8::7": {"audit": True}}, audit={"passphrase": WORDS})
    done = call("key", "2001:DB8:0:0::7", "-c", conf)
    assert (done.code, done.err, done.out) == (0, "", f"{key_of('2001:db8::7', WORDS).hex()}\n")


def test_key_of_an_international_name_is_that_of_its_ascii_form(configure: Configure) -> None:
    """IDNA 2008 gives the form, which the settings of the agent need, and which is told."""
    conf = configure({"127.0.0.1": []}, audit=AUDIT | {"hosts": ["faß.test", "fass.test"]})
    done = call("key", "faß.test", "-c", conf)
    assert (done.code, done.out) == (0, f"{key_of('xn--fa-hia.test', WORDS).hex()}\n")
    assert done.err == "warning: the configuration of its agent must name it xn--fa-hia.test\n"


def test_each_host_has_a_key_of_its_own(configure: Configure) -> None:
    """A host that is broken into has no other one's key."""
    conf = configure({"127.0.0.1": []}, audit=AUDIT | {"hosts": ["db1", "db2"]})
    first, second = call("key", "db1", "-c", conf).out, call("key", "db2", "-c", conf).out
    assert first != second
    assert {len(first), len(second)} == {65}


def test_key_is_of_the_present_passphrase(configure: Configure, tmp_path: Path) -> None:
    """During a change-over it is the new key that is given to a host; the passphrase may lie in a file."""
    (tmp_path / "passphrase").write_text(f"{WORDS}\n", encoding="utf-8")
    audit = {"passphrase_file": "passphrase", "previous_passphrase": "tuna mayonnaise sandwich", "hosts": [HOST]}
    assert call("key", HOST, "-c", configure({"127.0.0.1": []}, audit=audit)).out == f"{key_of(HOST, WORDS).hex()}\n"


def test_host_that_is_not_on_the_roster_is_warned_of(configure: Configure) -> None:
    """The key is printed all the same, so that a host can be made ready before conf.yml is."""
    conf = configure({"127.0.0.1": []}, audit=AUDIT)
    done = call("key", "DB1.example.org", "-c", conf)
    assert (done.code, done.out) == (0, f"{key_of('db1.example.org', WORDS).hex()}\n")
    assert done.err == (
        f"warning: db1.example.org is not an audited host of {conf}: its audits are rejected until it is listed in "
        "audit.hosts, or has audit: true under hosts or on its source of discovery\n"
    )


def test_address_of_a_network_is_on_the_roster(configure: Configure) -> None:
    """Each address of a CIDR with `audit: true` has its key, and is not warned of."""
    conf = configure({"192.0.2.0/30": {"audit": True}}, audit={"passphrase": WORDS})
    assert call("key", "192.0.2.3", "-c", conf).err == ""
    assert "is not an audited host" in call("key", "192.0.2.4", "-c", conf).err


def test_discovered_host_is_on_the_roster(configure: Configure, tmp_path: Path) -> None:
    """A host that a source with `audit: true` finds is not warned of; one that another source finds is."""
    (tmp_path / "a.json").write_text('[{"targets": ["db1:9100"]}]', encoding="utf-8")
    (tmp_path / "b.json").write_text('[{"targets": ["db2:9100"]}]', encoding="utf-8")
    sources = [{"files": ["a.json"], "audit": True}, {"files": ["b.json"]}]
    conf = configure({"127.0.0.1": []}, audit={"passphrase": WORDS}, discovery={"file_sd": sources})
    assert call("key", "db1", "-c", conf).err == ""
    assert "warning: db2 is not an audited host" in call("key", "db2", "-c", conf).err


def test_source_that_cannot_be_asked_is_warned_of(configure: Configure) -> None:
    """Where a source that may name the host fails, that is told, too."""
    sources = [{"files": ["nowhere.json"], "audit": True}]
    conf = configure({"127.0.0.1": []}, audit=AUDIT, discovery={"file_sd": sources})
    done = call("key", "db1", "-c", conf)
    first, second = done.err.splitlines()
    assert (done.code, len(done.out)) == (0, 65)
    assert first.startswith("warning: discovery.file_sd[0] failed and returned 0 hosts: ")
    assert second.startswith("warning: db1 is not an audited host")
    assert call("key", HOST, "-c", conf).err == ""  # nobody is asked who need not be


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("192.0.2.0/24", '"192.0.2.0/24" is a CIDR; name one host'),
        ("db1:22", '"db1:22" has a port; name the host alone: "db1"'),
        ("0x7f000001", '"0x7f000001" is not an IPv4 address (four numbers from 0 to 255 without leading zeros)'),
        ("2001:db8::1%eth0/128", '"2001:db8::1%eth0/128" has a zone (%…); portspec scans addresses without one'),
        ("https://db1", '"https://db1" is not a host (write the host without port and scheme)'),
        ("192.0.2.256", '"192.0.2.256" is not an IPv4 address (four numbers from 0 to 255 without leading zeros)'),
    ],
)
def test_what_is_no_host_has_no_key(configure: Configure, name: str, why: str) -> None:
    """A slip is exit 2 and one line, and no key that nobody can use."""
    done = call("key", name, "-c", configure({"127.0.0.1": []}, audit=AUDIT))
    assert (done.code, done.out, done.err) == (2, "", f"{why}\n")


def test_no_key_without_a_passphrase(configure: Configure) -> None:
    """A file without the block has nothing that keys could be made from."""
    conf = configure({"127.0.0.1": []})
    done = call("key", "127.0.0.1", "-c", conf)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"{conf}: has no audit block; keys are derived from its passphrase\n"


def test_passphrase_comes_from_the_environment(configure: Configure) -> None:
    """${NAME} keeps it out of the file, and no message has it where something else is wrong."""
    conf = configure({"127.0.0.1": []}, audit=AUDIT | {"passphrase": "${WORDS}"})
    done = call("key", HOST, "-c", conf, extra={"WORDS": f"{WORDS}\n"})
    assert (done.code, done.err, done.out) == (0, "", f"{key_of(HOST, WORDS).hex()}\n")
    short = call("key", HOST, "-c", conf, extra={"WORDS": "fifteen letters"})
    assert (short.code, short.out) == (2, "")
    assert "audit.passphrase: expected at least 16 characters" in short.err
    assert "fifteen" not in short.err


def test_public_key_of_the_agent_is_printed(configure: Configure, tmp_path: Path) -> None:
    """The result is the file that ssh-keygen -Y verify takes, with the hash of the agent in a comment."""
    conf = configure({"127.0.0.1": []}, audit=AUDIT, state="portspec.db")
    made = AgentKey.beside(str(tmp_path / "portspec.db"))
    made.make()
    done = run("key", "--agent", "-c", conf)
    assert (done.code, done.err) == (0, "")
    digest = hashlib.sha256(Path(agent.__file__).read_bytes()).hexdigest()
    assert done.out.splitlines() == [
        f"# SHA-256 of the agent: {digest}",
        f"# fingerprint of the key that signs it: {made.fingerprint}",
        made.allowed_signers,
    ]


def test_public_key_that_nobody_has_made_is_told(configure: Configure, tmp_path: Path) -> None:
    """The command makes no key: it would be one of the wrong user, or in the wrong place."""
    conf = configure({"127.0.0.1": []}, audit=AUDIT)
    done = call("key", "--agent", "-c", conf)
    assert (done.code, done.out) == (2, "")
    assert "no state file of this configuration was found" in done.err
    conf = configure({"127.0.0.1": []}, audit=AUDIT, state="portspec.db")
    done = call("key", "--agent", "-c", conf)
    hint = "there is no key that signs the agent; an exporter with an audit block makes it when it starts"
    assert (done.code, done.out, done.err) == (2, "", f"{tmp_path}/agent-signing.key: {hint}\n")


@pytest.mark.parametrize("words", [(), (HOST, "--agent")])
def test_key_is_of_a_host_or_of_the_agent(configure: Configure, words: tuple[str, ...]) -> None:
    """Neither or both is an error of usage."""
    done = call("key", *words, "-c", configure({"127.0.0.1": []}, audit=AUDIT))
    told = "name a HOST, whose key is printed, or give --agent, but not both\n"
    assert (done.code, done.out, done.err) == (2, "", told)


def test_key_that_cannot_be_written_is_an_error(configure: Configure) -> None:
    """A full disk is exit 2, and no empty file without a word."""
    conf = configure({"127.0.0.1": []}, audit=AUDIT)
    shell = ["sh", "-c", 'exec "$@" > /dev/full', "sh"]
    done = run("key", HOST, "-c", conf, program=[*shell, *PROGRAM])
    assert (done.code, done.out) == (2, "")
    assert done.err == "cannot write the result: no space left on device\n"
