"""The keys of mail; what is wrong with them, line by line, is in tests/data/conf/mail_*."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from portspec.config import MailConfig
from portspec.config.mail import check_address
from tests.unit.factories import MODEST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.config.conftest import Conf

HOSTS = "hosts: {db1: 22}\nscanports: [22, 80]\n"
NEEDED = f"{HOSTS}smtpserver: smtp.example.org\nalertemail: security@example.org\nfromemail: portspec@example.org\n"
DAY = 86_400.0


def mail(conf: Conf, text: str = "") -> MailConfig:
    """Load the settings of a file that has what is needed, and this."""
    found = conf.load(NEEDED + text).mail
    assert found
    return found


def test_defaults_of_mail(conf: Conf) -> None:
    """A server, a sender and an address are enough; without sendemail nothing is sent."""
    assert mail(conf) == MailConfig(
        mode="off",
        server="smtp.example.org",
        port=587,
        tls="starttls",
        sender="portspec@example.org",
        recipients=("security@example.org",),
        ca_file=None,
        username=None,
        password=None,
        password_file=None,
        token_command=(),
        remind=DAY,
        alertmanager=None,
        fallback_after=300.0,
    )


def test_every_key_of_mail(conf: Conf, tmp_path: Path) -> None:
    """Each key is what it says."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "password").write_text("hunter2\n")
    text = """
sendemail: fallback
smtpserver: 2001:db8::25
smtpport: 2525
smtptls: implicit
smtpcafile: ca.pem
smtpusername: portspec
smtppassword_file: password
alertemail: [a@example.org, b@example.org]
fromemail: portspec@example.org
remind: 12h
alertmanager: https://alerts.example.org:9093/prefix/
fallback_after: 90
"""
    assert conf.load(HOSTS + text).mail == MailConfig(
        mode="fallback",
        server="2001:db8::25",
        port=2525,
        tls="implicit",
        sender="portspec@example.org",
        recipients=("a@example.org", "b@example.org"),
        ca_file=str(tmp_path / "ca.pem"),
        username="portspec",
        password=None,
        password_file=str(tmp_path / "password"),
        remind=43_200.0,
        alertmanager="https://alerts.example.org:9093/prefix",
        fallback_after=90.0,
    )


@pytest.mark.parametrize("key", ["smtpserver", "alertemail", "fromemail"])
def test_settings_that_lack_something_are_none(conf: Conf, key: str) -> None:
    """A file that only has some of the keys, as PortSpec's example, has no mail as long as sendemail is false."""
    text = "".join(line for line in NEEDED.splitlines(keepends=True) if not line.startswith(key))
    assert conf.load(text).mail is None
    assert conf.load(HOSTS).mail is None


@pytest.mark.parametrize(
    ("word", "mode"),
    [
        ("true", "on"),
        ("yes", "on"),
        ("on", "on"),
        ('"True"', "on"),
        ("false", "off"),
        ("no", "off"),
        ('"off"', "off"),
        ("fallback", "fallback"),
        ("Fallback", "fallback"),
    ],
)
def test_sendemail_is_a_flag_or_fallback(conf: Conf, word: str, mode: str) -> None:
    """The words of YAML for true and false, and one more."""
    assert mail(conf, f"sendemail: {word}\nalertmanager: http://127.0.0.1:9093\n").mode == mode


@pytest.mark.parametrize("word", ["maybe", "1", "~", "[true]", "{on: true}", '""'])
def test_sendemail_is_nothing_else(conf: Conf, word: str) -> None:
    """Nobody is left to guess whether mails are sent."""
    assert conf.problems(f"{NEEDED}sendemail: {word}\n") == [
        'conf.yml:6: sendemail: expected true, false or "fallback"'
    ]


@pytest.mark.parametrize(
    ("keys", "tls"),
    [
        ("", "starttls"),
        ("smtpport: 25", "starttls"),
        ("smtpport: 465", "implicit"),
        ('smtpport: "465"', "implicit"),
        ("smtpport: 465\nsmtptls: starttls", "starttls"),
        ("smtpport: 587\nsmtptls: implicit", "implicit"),
        ("smtpport: 465\nsmtptls: none", "none"),
    ],
)
def test_tls_is_that_of_the_port_unless_the_file_says_so(conf: Conf, keys: str, tls: str) -> None:
    """Port 465 has TLS from the first byte (RFC 8314, 3.3), all others STARTTLS."""
    assert mail(conf, f"{keys}\n").tls == tls


@pytest.mark.parametrize("word", ["no", "off", "false", "true", "None", "NONE", "ssl", "0", '""', "[none]"])
def test_tls_is_given_up_by_no_other_word(conf: Conf, word: str) -> None:
    """`none` is the only word for no TLS, not what YAML takes for false."""
    (line,) = conf.problems(f"{NEEDED}smtptls: {word}\n")
    assert line.startswith("conf.yml:6: smtptls: expected")


@pytest.mark.parametrize("secret", ["smtppassword: x", "smtppassword_file: password"])
def test_credentials_need_tls(conf: Conf, tmp_path: Path, secret: str) -> None:
    """With credentials there is no `none`, also on the port that has TLS by default."""
    (tmp_path / "password").write_text("x")
    for port in (587, 465):
        assert conf.problems(f"{NEEDED}smtpport: {port}\nsmtptls: none\nsmtpusername: portspec\n{secret}\n") == [
            'conf.yml:7: smtptls: "none" conflicts with smtpusername: credentials are never sent without TLS'
        ]


def token_command(conf: Conf, value: str) -> tuple[str, ...]:
    """Load a command that prints a token."""
    return mail(conf, f"smtpusername: portspec\nsmtptokencommand: {value}\n").token_command


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        ("bin/token", ()),
        ("[bin/token]", ()),
        ("bin/token -q  --user 'a b'  \"c#d\" # a comment", ("-q", "--user", "a b", "c#d")),
        ("[bin/token, -n, 5, 'a|b; $HOME `x`']", ("-n", "5", "a|b; $HOME `x`")),
        ("bin/token $HOME *", ("$HOME", "*")),
    ],
)
def test_token_command_is_words(conf: Conf, tmp_path: Path, value: str, arguments: tuple[str, ...]) -> None:
    """A text is cut at blanks, quotes hold together; a list is as it is; the program is relative to conf.yml."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "token"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert token_command(conf, value) == (str(program), *arguments)
    assert "arguments" not in repr(mail(conf, f"smtpusername: portspec\nsmtptokencommand: [{program}, arguments]\n"))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("gone/token", 'the program "{}/gone/token" cannot be run: no such file or directory'),
        (
            "token",
            (
                'the program "{}/token" cannot be run: no such file or directory; write the full path, since PATH is '
                "not searched"
            ),
        ),
        ("./plain", 'the program "{}/plain" is not executable: chmod +x {}/plain'),
        ("./directory", 'the program "{}/directory" cannot be run: is a directory'),
        *(
            (
                f'"/bin/echo {rest}"',
                "is run without a shell; put pipes and redirections into a script, and name the script",
            )
            for rest in ("a | head", "a|head", "$(b)", "`b`", "a && b", "a; b", "a > /b")
        ),
        ('"/bin/echo \'a"', "has an unclosed quote; write a list of words"),
        *((value, "expected the path of a program and its arguments") for value in ('""', "[]", '[""]')),
        *((value, "expected a command: a string or a list of words") for value in ("5", "true", "{a: b}")),
        ("[/bin/echo, [a]]", "expected a string (put it in quotes)"),
    ],
)
def test_token_command_that_cannot_be_run(conf: Conf, tmp_path: Path, value: str, why: str) -> None:
    """The error has the line and what to do, when the file is read and not with the first mail."""
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "directory").mkdir()
    assert conf.problems(f"{NEEDED}smtpusername: portspec\nsmtptokencommand: {value}\n") == [
        f"conf.yml:7: smtptokencommand: {why.replace('{}', str(tmp_path))}"
    ]


@pytest.mark.parametrize("text", ["smtppassword:", "smtppassword: ~"])
def test_password_that_is_empty_is_none(conf: Conf, text: str) -> None:
    """A key without a value is no password: nobody is to find out from the server that none was sent."""
    assert conf.problems(f"{NEEDED}smtpusername: portspec\n{text}\n") == [
        "conf.yml:6: smtpusername: requires one of smtppassword, smtppassword_file, smtptokencommand"
    ]


@pytest.mark.parametrize(
    ("username", "password"),
    [('"portspec"', '"correct horse: battery #staple"'), ("0123", "1.10"), ("'ü'", "'ß'"), ("a@b", "'  '")],
)
def test_credentials_are_texts_as_they_are_written(conf: Conf, username: str, password: str) -> None:
    """Numbers keep their spelling, spaces and letters of any kind stay."""
    found = mail(conf, f"smtpusername: {username}\nsmtppassword: {password}\n")
    assert (found.username, found.password) == (username.strip("'\""), password.strip("'\""))


def test_password_is_in_no_representation(conf: Conf) -> None:
    """The settings in a log show no password."""
    assert "hunter2" not in repr(mail(conf, "smtpusername: portspec\nsmtppassword: hunter2\n"))


@pytest.mark.parametrize(
    ("value", "recipients"),
    [
        ("a@example.org", ("a@example.org",)),
        ("[a@example.org, b@example.org]", ("a@example.org", "b@example.org")),
        ("[a@example.org, b@example.org, a@example.org]", ("a@example.org", "b@example.org")),
        ("[Ops@example.org, b@example.org, ops@EXAMPLE.org]", ("Ops@example.org", "b@example.org")),
        ('" a@example.org "', ("a@example.org",)),
    ],
)
def test_each_address_is_listed_once(conf: Conf, value: str, recipients: tuple[str, ...]) -> None:
    """One address or a list, in its order; the same address in another case is the same."""
    found = conf.load(NEEDED.replace("security@example.org", value)).mail
    assert found
    assert found.recipients == recipients


@pytest.mark.parametrize(
    "address",
    [
        "a@b",
        "root@localhost",
        "first.last+tag@sub.example.org",
        "!#$%&'*+/=?^_`{|}~-@example.org",
        "a@[192.0.2.1]",
        "a@[IPv6:2001:db8::1]",
        "a@xn--bcher-kva.example",
        "a@_odd.example",
        f"{'a' * 64}@example.org",
        f"a@{'.'.join(['b' * 63] * 3)}.{'c' * 60}",
    ],
)
def test_address_is_a_mailbox(address: str) -> None:
    """What a server takes as a mailbox (RFC 5321, 4.1.2), without quotes, is an address."""
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a",
        "@example.org",
        "a@",
        "a@@example.org",
        "a@b@example.org",
        "a b@example.org",
        "a@example.org ",
        "a@example..org",
        "a@.example.org",
        "a@example.org.",
        "a@-example.org",
        "a@example-.org",
        ".a@example.org",
        "a.@example.org",
        "a..b@example.org",
        "Ops <a@example.org>",
        "<a@example.org>",
        "a@example.org, b@example.org",
        "a@example.org\nRCPT TO:<evil@example.org>",
        "a@example.org\n",
        "a\r\n@example.org",
        "a\0@example.org",
        '"a b"@example.org',
        "a@[192.0.2.1",
        "a@[\r\n]",
        "ü@example.org",
        "a@bücher.example",
        f"{'a' * 65}@example.org",
        f"a@{'b' * 64}.org",
        f"a@{'.'.join(['b' * 63] * 3)}.{'c' * 61}",
    ],
)
def test_address_is_nothing_else(address: str) -> None:
    """What could be another command, another header or no mailbox is refused."""
    with pytest.raises(ValueError, match="is not an e-mail address"):
        check_address(address)


@MODEST
@given(st.text(max_size=30) | st.emails())
def test_no_address_can_begin_another_line(text: str) -> None:
    """Whatever is taken for an address is printable ASCII without spaces, brackets and quotes."""
    try:
        check_address(text)
    except ValueError:
        return
    assert text.isascii()
    assert text.isprintable()
    assert not set(text.partition("@")[0]) & set(' <>()[]:;,\\"')
    assert not set(text) & set(' <>()"\\,;')


@pytest.mark.parametrize("name", ["smtp.example.org", "localhost", "192.0.2.25", "2001:db8::25", "_smtp.example", "a."])
def test_server_is_a_name_or_an_address(conf: Conf, name: str) -> None:
    """Names, IPv4 and IPv6 addresses stand as they are."""
    found = conf.load(NEEDED.replace("smtp.example.org", f'"{name}"')).mail
    assert found
    assert found.server == name


@pytest.mark.parametrize(
    "name",
    [
        "smtp://mail.example.org",
        "mail.example.org:25",
        "[2001:db8::25]",
        "192.0.2.0/24",
        "a b",
        "fe80::1%eth0",
        "user:hunter2@mail",
        "",
        "x" * 300,
    ],
)
def test_server_is_nothing_else(conf: Conf, name: str) -> None:
    """What has a scheme, a port, a mask or credentials is refused, and not quoted."""
    (line,) = conf.problems(NEEDED.replace("smtp.example.org", f'"{name}"'))
    expected = "the name or address of a mail server, without scheme and port (set the port with smtpport)"
    assert line == f"conf.yml:3: smtpserver: expected {expected}"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ('"0"', 0.0), ("0s", 0.0), ("60", 60.0), ("1m", 60.0), ("24h", DAY), ("366d", 366 * DAY)],
)
def test_remind_is_a_duration_or_0(conf: Conf, value: str, seconds: float) -> None:
    """From a minute to a year, or never."""
    assert mail(conf, f"remind: {value}\n").remind == seconds


@pytest.mark.parametrize("value", ["1", "59.9", "-1", "-60", "367d", ".nan", ".inf", "true"])
def test_remind_is_nothing_else(conf: Conf, value: str) -> None:
    """Reminders each second, or in the past, are a slip."""
    (line,) = conf.problems(f"{NEEDED}remind: {value}\n")
    assert line.startswith("conf.yml:6: remind: expected")


@pytest.mark.parametrize("key", ["external_url", "runbook_url"])
@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://portspec.example.org", "https://portspec.example.org"),
        ("http://scan1:10190/", "http://scan1:10190"),
        ("https://example.org/tools/portspec//", "https://example.org/tools/portspec"),
        ("http://[2001:db8::1]:10190/a%20b", "http://[2001:db8::1]:10190/a%20b"),
        ("${PAGES}/portspec", "https://pages.example.org/portspec"),
    ],
)
def test_urls_of_links(conf: Conf, key: str, url: str, kept: str) -> None:
    """What mails link to is a URL of HTTP or HTTPS, whose final slashes mean nothing; it needs no mail server."""
    config = conf.load(f"hosts: {{db1: []}}\nscanports: [22]\n{key}: '{url}'\n", {"PAGES": "https://pages.example.org"})
    assert getattr(config, key) == kept


def test_urls_of_links_are_not_made_up(conf: Conf) -> None:
    """Without the keys there is no link to the exporter, which cannot know how people reach it."""
    config = conf.load(NEEDED)
    assert (config.external_url, config.runbook_url) == (None, None)


@pytest.mark.parametrize(
    "url",
    [
        "portspec.example.org",
        "//portspec.example.org",
        "ftp://portspec.example.org",
        "javascript:alert(1)",
        "https://",
        "https://user:hunter2@portspec.example.org",
        "https://portspec.example.org/?a=b",
        "https://portspec.example.org/?",
        "https://portspec.example.org/#",
        "https://portspec.example.org/a b",
        'https://portspec.example.org/"x',
        "https://portspec.example.org/<x>",
        "https://bücher.example",
        "https://portspec.example.org:99999",
        "https://[::1",
        "10190",
        "",
    ],
)
def test_urls_of_links_are_nothing_else(conf: Conf, url: str) -> None:
    """What is no URL that a path can be added to is refused with file, line and key; it is not quoted."""
    needed = "hosts: {db1: []}\nscanports: [22]\n"
    what = "at which people reach this exporter, such as https://portspec.example.org"
    assert conf.problems(f"{needed}external_url: '{url}'\n") == [
        f"conf.yml:3: external_url: expected the URL {what}, without query, fragment and credentials"
    ]
    what = "of a page with a section for each alert, such as https://wiki.example.org/runbooks"
    assert conf.problems(f"{needed}runbook_url: '{url}'\n") == [
        f"conf.yml:3: runbook_url: expected the URL {what}, without query, fragment and credentials"
    ]


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://127.0.0.1:9093", "http://127.0.0.1:9093"),
        ("http://127.0.0.1:9093/", "http://127.0.0.1:9093"),
        ("https://alerts.example.org/alertmanager//", "https://alerts.example.org/alertmanager"),
        ("http://[2001:db8::1]:9093", "http://[2001:db8::1]:9093"),
        ("HTTP://localhost", "HTTP://localhost"),
    ],
)
def test_alertmanager_is_a_url(conf: Conf, url: str, kept: str) -> None:
    """HTTP or HTTPS, with or without a path, whose final slash means nothing."""
    assert mail(conf, f"alertmanager: '{url}'\n").alertmanager == kept


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:9093",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "http://",
        "http://:9093",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1:x",
        "http://[::1",
        "http://a b",
        "http://user:hunter2@127.0.0.1",
        "http://bücher.example",
        "http://127.0.0.1/?x=1",
        "http://127.0.0.1/#x",
        "",
        "9093",
    ],
)
def test_alertmanager_is_nothing_else(conf: Conf, url: str) -> None:
    """What cannot be asked, or has a secret, a query or a fragment, is refused, and not quoted."""
    assert conf.problems(f"{NEEDED}alertmanager: '{url}'\n") == [
        "conf.yml:6: alertmanager: expected the URL of an Alertmanager, such as http://127.0.0.1:9093"
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "requires smtpserver and alertemail and fromemail"),
        ({"smtpserver": "smtp.example.org"}, "requires alertemail and fromemail"),
        ({"smtpserver": "smtp.example.org", "fromemail": "a@b", "alertemail": ""}, "requires alertemail"),
        ({"smtpserver": "smtp.example.org", "fromemail": "a@b", "alertemail": "~"}, "requires alertemail"),
        ({"smtpserver": "~", "fromemail": "a@b", "alertemail": "a@b"}, "requires smtpserver"),
    ],
)
@pytest.mark.parametrize("mode", ["true", "fallback"])
def test_sending_needs_a_server_a_sender_and_an_address(
    conf: Conf, keys: dict[str, Any], message: str, mode: str
) -> None:
    """What is missing is told where sending was asked for."""
    text = "".join(f"{key}: {value}\n" for key, value in keys.items())
    told = conf.problems(f"{HOSTS}sendemail: {mode}\nalertmanager: http://127.0.0.1:9093\n{text}")
    assert told[0] == f"conf.yml:3: sendemail: {message}"


def test_stand_in_needs_somebody_to_stand_in_for(conf: Conf) -> None:
    """`fallback` without a URL would never send anything."""
    assert conf.problems(f"{NEEDED}sendemail: fallback\n") == [
        'conf.yml:6: sendemail: "fallback" requires alertmanager, the URL of the Alertmanager that it watches'
    ]


@pytest.mark.parametrize("content", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_authority_is_a_certificate(conf: Conf, tmp_path: Path, content: str) -> None:
    """A file without a certificate in it would be found out at the first mail only."""
    (tmp_path / "ca.pem").write_text(content)
    assert conf.problems(f"{NEEDED}smtpcafile: ca.pem\n") == [
        f'conf.yml:6: smtpcafile: the file "{tmp_path / "ca.pem"}" contains no CA certificate (PEM)'
    ]


def test_authority_is_refused_where_no_certificate_is_looked_at(conf: Conf) -> None:
    """Nobody is to believe that a server is checked which is not."""
    assert conf.problems(f"{NEEDED}smtptls: none\nsmtpcafile: ca.pem\n") == [
        'conf.yml:7: smtpcafile: conflicts with smtptls: "none", which checks no certificate'
    ]
