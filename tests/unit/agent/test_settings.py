from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec import agent
from portspec.agent import KEYS, Settings, SettingsError, gather_settings, read_settings
from portspec.names import canonical_one
from tests.requirements import NEEDS_ROOT

EXAMPLE = Path(__file__).parents[3] / "deploy" / "agent" / "portspec-send.conf"


def gathered(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: str) -> Settings:
    """Return the settings of a file with this text, under an environment and flags."""
    path = tmp_path / "send.conf"
    path.write_text(text, encoding="utf-8")
    return gather_settings(str(path), environ or {}, flags)


def test_every_key_is_read(tmp_path: Path) -> None:
    """A file that sets each key gives settings with each of the values."""
    text = """
        # a comment
        url = https://portspec.example.org:10190/under/
        ca_file = /etc/ca.pem
        cert_file = /etc/db1.pem
        cert_key_file = /etc/db1.key
        token_file = /etc/token
        mail_to = portspec@example.org
        mail_from = root
        sendmail = /usr/lib/sendmail
        host = DB1.Example.ORG.
        key_file = /etc/key
        tool = trivy
        scope = applications
        command = trivy rootfs --skip-dirs '/srv/a b' /
        timeout = 90s
        max_output = 500kB
        spool = /var/spool/x
        retries = 0
        pause = 1m
    """
    assert gathered(tmp_path, text) == Settings(
        url="https://portspec.example.org:10190/under",
        ca_file="/etc/ca.pem",
        cert_file="/etc/db1.pem",
        cert_key_file="/etc/db1.key",
        token_file="/etc/token",  # noqa: S106 - a path
        mail_to="portspec@example.org",
        mail_from="root",
        sendmail="/usr/lib/sendmail",
        host="db1.example.org",
        key_file="/etc/key",
        tool="trivy",
        scope="applications",
        command=("trivy", "rootfs", "--skip-dirs", "/srv/a b", "/"),
        timeout=90,
        max_output=500_000,
        spool="/var/spool/x",
        retries=0,
        pause=60,
    )


def test_defaults_are_those_of_the_example(tmp_path: Path) -> None:
    """The shipped example shows every key, and what it has commented out as a default is the default."""
    text = EXAMPLE.read_text(encoding="utf-8")
    lines = [line.lstrip("#") for line in text.splitlines() if line.lstrip("#")[:1].islower()]
    shown = read_settings("\n".join(lines), "example")
    assert list(shown) == list(KEYS)
    path = tmp_path / "portspec-send.conf"
    path.write_text(text, encoding="utf-8")
    found = gather_settings(str(path), {}, {})
    assert found.url == "http://portspec.example.org:10190"
    same = {"sendmail", "tool", "timeout", "max_output", "spool", "retries", "pause"}
    assert {name: getattr(found, name) for name in same} == {name: shown[name] for name in same}
    assert found.key_file == str(tmp_path / "portspec-send.key")


def test_environment_stands_over_the_file_and_flags_over_both(tmp_path: Path) -> None:
    """Of three values for a key that of the flag counts, of two that of the environment."""
    environ = {"PORTSPEC_SEND_HOST": "b.example", "PORTSPEC_SEND_TIMEOUT": "2m", "PORTSPEC": "x", "HOME": "/"}
    found = gathered(tmp_path, "host = a.example\ntimeout = 1m\nretries = 1\n", environ, host="c.example")
    assert (found.host, found.timeout, found.retries) == ("c.example", 120, 1)


def test_empty_flag_takes_a_transport_away(tmp_path: Path) -> None:
    """An empty value unsets what the file sets, so that the other transport can be tried."""
    found = gathered(tmp_path, "url = http://a.example\n", {}, url="", mail_to="b@c.example")
    assert (found.url, found.mail_to) == ("", "b@c.example")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("url = https://a\nurl = https://b\n", "FILE:2: url is already set on line 1"),
        ("\n# x\nulr = https://a\n", f'FILE:3: "ulr" is not a key, expected one of {", ".join(KEYS)}'),
        ("url https://a\n", 'FILE:1: "url https://a" is not a setting, expected key = value'),
        ("url = ftp://a\n", 'FILE:1: url is "ftp://a", expected for example http://portspec.example.org:10190'),
        ("url = https://a:b\n", "FILE:1: url is "),
        ("url = https://a?b\n", "FILE:1: url is "),
        ("url = https://a b\n", "FILE:1: url is "),
        ("url = https://\n", "FILE:1: url is "),
        ("url = https://[::1\n", "FILE:1: url is "),
        ("mail_to = a@b, c@d\n", 'FILE:1: mail_to is "a@b, c@d", expected one mail address'),
        ("mail_from = -oQ/tmp\n", 'FILE:1: mail_from is "-oQ/tmp", expected one mail address'),
        ("host = a b\n", 'FILE:1: host is "a b", expected a name of letters, digits, - and _, or an address'),
        ("host = fe80::1%eth0\n", "FILE:1: host is "),
        ("host = 10.0.0\n", "FILE:1: host is "),
        ("host =\n", 'FILE:1: host is "", expected'),
        ("spool = audits\n", 'FILE:1: spool is "audits", expected a path that begins with /'),
        ("tool = nessus\n", 'FILE:1: tool is "nessus", expected auto, pkg-audit, portaudit, debsecan, '),
        ("command = a 'b\n", "expected a command line as a shell would read it (no closing quotation)"),
        ("command = lynis audit\n", "command requires tool, which names the format of its output: pkg-audit, "),
        ("command = trivy \0\n", "FILE:1: command: expected a string without NUL"),
        ("timeout = soon\n", 'FILE:1: timeout is "soon", expected a time such as 90s, 30m or 2h, from 1s to 24h'),
        ("timeout = 25h\n", "FILE:1: timeout is "),
        ("max_output = 10 GB\n", 'FILE:1: max_output is "10 GB", expected a size such as 500kB or 10MB'),
        ("max_output = 999\n", "FILE:1: max_output is "),
        (
            "url = http://a\nca_file = /a\n",
            "ca_file has no effect with http://: set url to one that begins with https://",
        ),
        ("url = http://a\ncert_file = /a\n", "cert_file has no effect with http://"),
        ("url = https://a\ncert_key_file = /a\n", "cert_key_file requires cert_file"),
        ("url = https://b@a\ntoken_file = /a\n", "set either token_file or a user in url, not both"),
        ("token_file = token\n", 'FILE:1: token_file is "token", expected a path that begins with /'),
        ("retries = -1\n", 'FILE:1: retries is "-1", expected a number from 0 to 10'),
        ("pause = 2h\n", 'FILE:1: pause is "2h", expected a time such as 5s, from 0s to 1h'),
    ],
)
def test_wrong_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    """What is wrong in the file is told with file, line, key, value and what was expected."""
    with pytest.raises(SettingsError) as error:
        gathered(tmp_path, text)
    assert message.replace("FILE", str(tmp_path / "send.conf")) in str(error.value)


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({"PORTSPEC_SEND_TOOL": "x"}, {}, 'PORTSPEC_SEND_TOOL: tool is "x", expected auto, '),
        ({"PORTSPEC_SEND_ULR": "x"}, {}, 'PORTSPEC_SEND_ULR: "ulr" is not a key, expected one of url, '),
        ({}, {"key_file": "x"}, '--key-file: key_file is "x", expected a path that begins with /'),
    ],
)
def test_wrong_value_elsewhere_is_named(
    tmp_path: Path, environ: dict[str, str], flags: dict[str, str], message: str
) -> None:
    """What is wrong in the environment or the flags is told with the variable or the flag."""
    with pytest.raises(SettingsError) as error:
        gathered(tmp_path, "", environ, **flags)
    assert str(error.value).startswith(message)


def test_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    """A settings file that cannot be read, or is not UTF-8, is an error that names it."""
    missing, wrong = tmp_path / "missing", tmp_path / "wrong"
    wrong.write_bytes(b"host = \xff\n")
    for environ, config, message in (
        ({}, str(missing), f"{missing}: no such file or directory"),
        ({"PORTSPEC_SEND_CONFIG": str(missing)}, None, f"{missing}: no such file or directory"),
        ({}, str(wrong), f"{wrong}: is not UTF-8"),
    ):
        with pytest.raises(SettingsError) as error:
            gather_settings(config, environ, {})
        assert str(error.value) == message


def test_command_of_a_known_tool_names_its_format(tmp_path: Path) -> None:
    """A given command that begins with an audit tool needs no tool, wherever that is installed."""
    assert gathered(tmp_path, "command = /opt/bin/grype dir:/srv --output json").tool == "grype"


def test_sender_is_the_user_at_the_host(tmp_path: Path) -> None:
    """The mail's sender is the user at the host's name, or the user alone where the host is an address."""
    user = agent.name_of_user(os.geteuid())
    assert gathered(tmp_path, "host = db1.example.org").mail_from == f"{user}@db1.example.org"
    assert gathered(tmp_path, "host = 192.0.2.1").mail_from == user
    assert gathered(tmp_path, "host = 2001:DB8:0::1").mail_from == user


def test_host_is_the_machine_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a host the machine's name is taken, in lower case, and one that is no host name is an error."""
    monkeypatch.setattr(socket, "gethostname", lambda: "DB1.example.org.")
    assert gathered(tmp_path, "").host == "db1.example.org"
    monkeypatch.setattr(socket, "gethostname", lambda: "my laptop")
    with pytest.raises(
        SettingsError, match='host: the name of this machine, "my laptop", is not a valid host name: set host'
    ):
        gathered(tmp_path, "")


NAMES = st.one_of(
    st.from_regex(r"[A-Za-z0-9_ßü.-]{1,30}", fullmatch=True),
    st.from_regex(r"(0?[xX]?[0-9a-f]{1,3}[.-]?){1,5}", fullmatch=True),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded.upper()),
    st.text(max_size=20),
)


@settings(max_examples=200, deadline=None)
@given(NAMES)
def test_host_is_spelled_as_portspec_spells_it(text: str) -> None:
    """A host has the spelling by which its key is derived, in ASCII; what is no host's name there is none here."""
    try:
        form: str | None = canonical_one(text)
    except ValueError:
        form = None
    try:
        own: str | None = KEYS["host"].parse(text)
    except ValueError:
        own = None
    if form is None and is_address(own):
        return  # one that portspec does not scan, and makes no key for
    assert own == (form if text.isascii() else None)


def is_address(text: str | None) -> bool:
    """Return whether a text is an address."""
    try:
        return text is not None and bool(ipaddress.ip_address(text))
    except ValueError:
        return False


@pytest.mark.parametrize("host", ["faß.test", "fa\u1e9e.test", "ΒΌΛΟΣ.example", "bücher.example", "１.２.３.４"])  # noqa: RUF001
def test_host_with_other_letters_is_asked_for_in_ascii(tmp_path: Path, host: str) -> None:
    """An international name is not guessed: Python's own codec takes faß for fass, which is somebody else."""
    with pytest.raises(SettingsError, match="expected ASCII; write another name in its xn-- form"):
        gathered(tmp_path, f"host = {host}")


def test_host_may_be_an_international_name_in_ascii(tmp_path: Path) -> None:
    """The xn-- form of a name is what portspec derives its key from."""
    assert gathered(tmp_path, "host = XN--fa-hia.test.").host == canonical_one("faß.test")


@pytest.mark.parametrize("host", ["0x7f000001", "127.1", "010.0.0.1", "2130706433", "1", "10.0.0.256", "1.2.3.4."])
def test_host_is_no_address_spelled_otherwise(tmp_path: Path, host: str) -> None:
    """What only looks like an address is refused, also where an old Python would take it for one."""
    with pytest.raises(SettingsError, match="; an IPv4 address is four numbers from 0 to 255 without leading zeros"):
        gathered(tmp_path, f"host = {host}")


as_root = pytest.mark.skipif(os.geteuid() != 0, reason=f"{NEEDS_ROOT}only root can give files away")
STRANGER = 12345


def refusal(path: Path) -> str | None:
    """Return why a settings file is refused."""
    try:
        gather_settings(str(path), {}, {})
    except SettingsError as error:
        return str(error)
    return None


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    """Return a settings file that names a command."""
    path = tmp_path / "etc" / "send.conf"
    path.parent.mkdir()
    path.write_text("command = trivy rootfs /\n", encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("mode", "is_refused"), [(0o600, False), (0o644, False), (0o666, True), (0o602, True)])
def test_settings_that_others_may_change_are_refused(own_file: Path, mode: int, *, is_refused: bool) -> None:
    """What runs here, perhaps as root, is not for everybody to decide."""
    own_file.chmod(mode)
    told = f"{own_file}: is writable by other users: chmod go-w {own_file}"
    assert refusal(own_file) == (told if is_refused else None)


def test_pipe_that_nobody_writes_to_is_not_waited_for(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO in the place of the settings or of the key is an error with its name."""
    monkeypatch.setattr(agent, "_SHORT", 0.1)
    own_file.unlink()
    os.mkfifo(own_file, 0o600)
    assert refusal(own_file) == f"{own_file}: timed out after 0.1 s"
    with pytest.raises(SettingsError, match="timed out after"):
        agent.read_key(str(own_file))


@as_root
def test_root_s_settings_are_not_for_a_group(own_file: Path) -> None:
    """As root a file that its group may change is refused, too."""
    own_file.chmod(0o660)
    assert refusal(own_file) == f"{own_file}: is writable by other users: chmod go-w {own_file}"


def test_no_settings_at_all_are_those_of_dev_null() -> None:
    """Anybody may write to /dev/null, and nothing comes of it."""
    assert gather_settings("/dev/null", {"PORTSPEC_SEND_HOST": "web1"}, {}).host == "web1"


@as_root
def test_settings_of_another_user_are_refused(own_file: Path) -> None:
    """Whatever their mode, their owner may change them."""
    os.chown(own_file, STRANGER, STRANGER)
    assert refusal(own_file) == f"{own_file}: is owned by {STRANGER}, who can change it: chown it"


@pytest.mark.parametrize(("mode", "is_refused"), [(0o755, False), (0o777, True), (0o1777, False)])
def test_settings_in_a_directory_of_others_are_refused(own_file: Path, mode: int, *, is_refused: bool) -> None:
    """Who may write to a directory may put another file in the place of this one, unless its sticky bit is set."""
    own_file.parent.chmod(mode)
    told = f"{own_file}: can be replaced by other users, who can write to {own_file.parent}"
    assert refusal(own_file) == (told if is_refused else None)


@as_root
def test_settings_behind_a_link_are_judged_where_they_are(own_file: Path, tmp_path: Path) -> None:
    """A link in a directory of root's own leads to what another user may replace: refused."""
    link = tmp_path / "link.conf"
    link.symlink_to(own_file)
    os.chown(own_file.parent, STRANGER, STRANGER)
    assert refusal(link) == f"{link}: can be replaced by other users, who can write to {own_file.parent}"


FILES = ("ca_file", "cert_file", "cert_key_file", "token_file", "key_file")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("mode", "owner", "why"),
    [
        (0o666, None, "is writable by other users: chmod go-w"),
        (0o600, STRANGER, "is owned by 12345, who can change it"),
    ],
    ids=["mode", "owner"],
)
def test_file_that_others_may_change_is_refused(
    tmp_path: Path, name: str, mode: int, owner: int | None, why: str
) -> None:
    """A file that decides who is believed, or who this host is, belongs to the host: another's is refused."""
    if owner is not None and os.geteuid() != 0:
        pytest.skip(f"{NEEDS_ROOT}only root can give files away")
    files = {each: tmp_path / f"its-{each}" for each in FILES}
    made = trustme.CA()
    client = made.issue_cert("db1")
    made.cert_pem.write_to_path(str(files["ca_file"]))
    client.cert_chain_pems[0].write_to_path(str(files["cert_file"]))
    client.private_key_pem.write_to_path(str(files["cert_key_file"]))
    files["token_file"].write_text("a-token\n", encoding="ascii")
    files["key_file"].write_text("0a" * 32, encoding="ascii")
    for path in files.values():
        path.chmod(0o600)
    lines = [f"{each} = {path}\n" for each, path in files.items()]
    found = gathered(tmp_path, "".join(["url = https://p.example.org\nhost = db1\n", *lines]))
    agent.HttpSender(found, agent.read_key(found.key_file))
    files[name].chmod(mode)
    if owner is not None:
        os.chown(files[name], owner, owner)
    with pytest.raises(SettingsError, match=f"{files[name]}: {why}"):
        agent.HttpSender(found, agent.read_key(found.key_file))


def test_secret_that_others_may_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key or a token that others may read is used, with a warning that says what they can do with it."""
    key, token = tmp_path / "key", tmp_path / "token"
    key.write_text("0a" * 32, encoding="ascii")
    token.write_text("a-token\n", encoding="ascii")
    for path in (key, token):
        path.chmod(0o644)
    assert (agent.read_key(str(key)), agent.read_token(str(token))) == (b"\n" * 32, "a-token")
    assert capsys.readouterr().err.splitlines() == [
        f"portspec-send: {key} is readable by other users, who can send audits as this host: chmod 600 {key}",
        f"portspec-send: {token} is readable by other users, who can use the token: chmod 600 {token}",
    ]


@pytest.mark.parametrize("text", ["", "two words", "a\r\nHost: b", "ü"])
def test_token_that_is_none_is_an_error(tmp_path: Path, text: str) -> None:
    """What could not stand in the header is told with the file, and nothing of it is shown."""
    (tmp_path / "token").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"^token_file: .*/token: expected one token of letters, digits and"):
        agent.read_token(str(tmp_path / "token"))


def test_certificate_that_is_none_is_an_error(tmp_path: Path) -> None:
    """A certificate that is missing or has no key, or whose key needs a passphrase, is an error of the settings."""
    client = trustme.CA().issue_cert("db1")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "no-key.pem"))
    locked = serialization.load_pem_private_key(client.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a passphrase"),
    )
    pair = Settings(url="https://a", cert_file=f"{tmp_path}/no-key.pem", cert_key_file=f"{tmp_path}/missing.key")
    with pytest.raises(SettingsError, match=f"^cert_key_file: {tmp_path}/missing.key: no such file"):
        agent.make_tls_context(pair)
    (tmp_path / "locked.pem").write_bytes(locked + client.cert_chain_pems[0].bytes())
    for name, why in (
        ("missing.pem", "no such file"),
        ("no-key.pem", ""),
        ("locked.pem", "its key has a passphrase; "),
    ):
        with pytest.raises(SettingsError, match=f"^cert_file: {tmp_path / name}: {why}"):
            agent.make_tls_context(Settings(url="https://a", cert_file=str(tmp_path / name)))
