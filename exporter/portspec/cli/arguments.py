"""The command line and its help."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn, TypeAlias

from portspec import __version__
from portspec.errors import UsageError, printable
from portspec.files import DEFAULT_CONFIG

DEFAULT_LISTEN_ADDRESS = ":10190"
DEFAULT_URL = "http://127.0.0.1:10190"
COMMANDS = (
    "serve",
    "check",
    "scan",
    "learn",
    "accept",
    "maintenance",
    "key",
    "receive",
    "report",
    "mail-test",
    "reload",
    "healthcheck",
    "assets",
)
LOG_FORMATS = ("logfmt", "json")
SCAN_FORMATS = ("table", "json", "nmap-xml")
_HELP, _VERSION = ("-h", "--help", "help"), ("-V", "--version", "version")
_OPTIONS_WITH_VALUE = (
    *("-c", "--config.file", "--log.level", "--log.format", "--web.listen-address", "--web.external-url"),
    *("--web.config.file", "--shard", "--ca-file", "--cert-file"),
    *("--ports", "--from", "--url", "-o", "--output", "--format", "--host", "--day"),
    *("--for", "--until", "--reason", "--owner"),
)

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no other name

EXAMPLES = """\
examples:
  portspec -c conf.yml                      run the exporter; http://localhost:10190/ shows all hosts
  portspec check -c conf.yml                validate the file and estimate the duration of a round
  portspec scan -c conf.yml db1 db2         scan two of its hosts now and print a table
  portspec scan -c conf.yml --json | jq .   the same, as JSON
  portspec learn db3 --ports 1-10000        print a `hosts:` block that makes today's state the specification
  portspec learn --from scan.xml            the same, of a scan that nmap -oX or masscan -oX wrote
  portspec accept db1 8443 --until 1w -c conf.yml --reason migration
                                            write into conf.yml that an open port is right for a week
  portspec maintenance db1 --for 2h --reason upgrade
                                            alert nobody about a host for two hours
  portspec mail-test -c conf.yml            send a test message to every recipient
  portspec key db1 -c conf.yml              print the key with which db1 signs its audits
  portspec key --agent -c conf.yml          print the public key with which /agent.py is checked
  portspec report -c conf.yml -o all.html   write the report of all machines: ports and vulnerable packages
  portspec assets -o portspec-files         write out rules for Prometheus, units, completion, an example conf.yml
"""


def command_first(arguments: list[str]) -> list[str]:
    """Move the command to the front: options may precede it (`portspec -c FILE check`). The default is `serve`.

    `help` and `version` become the options of that name. Raises UsageError for a word that is not a command.
    """
    if arguments[:1] and arguments[0] in _HELP:
        topic = [word for word in arguments[1:2] if not word.startswith("-")]
        if topic and topic[0] not in COMMANDS:
            _refuse(topic[0])
        return [*topic, "--help"]
    if arguments[:1] and arguments[0] in _VERSION:
        return ["--version"]
    for place, word in enumerate(arguments):
        if word.startswith("-") or (place and arguments[place - 1] in _OPTIONS_WITH_VALUE):
            continue
        if word not in COMMANDS:
            _refuse(word)
        return [word, *arguments[:place], *arguments[place + 1 :]]
    return ["serve", *arguments]


def _refuse(word: str) -> NoReturn:
    close = difflib.get_close_matches(word, (*COMMANDS, "help", "version"), 1)
    hint = f'did you mean "{close[0]}"?' if close else "`portspec help` lists the commands"
    raise UsageError(f'there is no command "{printable(word)}"; {hint}')


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands and their options."""
    found = argparse.ArgumentParser(
        prog="portspec",
        description="Check that every host has exactly the open ports that it should have.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("-V", "--version", action="version", version=f"portspec {__version__}")
    commands = found.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    serve = _add_serve(commands)
    _add_checks(commands)
    _add_audits(commands)
    _add_operations(commands)
    found.epilog = f"{_options_of_default(serve)}\n{EXAMPLES}"
    return found


def _options_of_default(serve: argparse.ArgumentParser) -> str:
    """Return the options of `serve` as its help lists them: they need no command before them."""
    listed = serve.format_help().partition("\noptions:\n")[2]
    without_help = listed.partition("exit\n")[2]
    return f"options without a command, and of `serve`:\n{without_help}"


def _add_serve(commands: _Commands) -> argparse.ArgumentParser:
    serve = _command(commands, "serve", "run the exporter (the default command)", level="info")
    serve.add_argument(
        "--web.listen-address",
        dest="listen_addresses",
        metavar="ADDR",
        action="append",
        help='where to serve HTTP, such as "127.0.0.1:10190", or one of metrics, ui and audits alone, such as '
        f'"audits=:10191"; may be repeated (default {DEFAULT_LISTEN_ADDRESS})',
    )
    serve.add_argument(
        "--web.systemd-socket",
        dest="systemd_socket",
        action="store_true",
        help="serve on the sockets of a systemd socket unit instead; FileDescriptorName= takes the same names",
    )
    _add_web_config(serve)
    serve.add_argument(
        "--web.external-url",
        dest="external_url",
        metavar="URL",
        help="the URL at which people reach this exporter, for links in mails (default: external_url of the file)",
    )
    serve.add_argument(
        "--shard",
        metavar="I/N",
        default="0/1",
        help="scan only the hosts of shard I of N, as Prometheus's hashmod numbers them, from 0 (default: all)",
    )
    return serve


def _add_web_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--web.config.file",
        dest="web_config",
        metavar="FILE",
        help="TLS, users and tokens, in the format of Prometheus's exporters (default: plain HTTP, no users)",
    )


def _add_checks(commands: _Commands) -> None:
    check = _command(commands, "check", "validate a configuration; exit 0 if it is valid, else 2", level="error")
    check.add_argument(
        "--all", action="store_true", help="list every host and look up every name, without a time limit"
    )
    _add_web_config(check)
    scan = _command(
        commands,
        "scan",
        "scan once now; exit 0 if in spec, 1 if out of spec, 3 if unknown, 2 for errors of usage or configuration",
        level="error",
    )
    scan.add_argument("hosts", nargs="*", metavar="HOST", help="hosts of the configuration (default: all)")
    form = scan.add_mutually_exclusive_group()
    form.add_argument(
        "--format",
        choices=SCAN_FORMATS,
        default="table",
        help="table, json, or nmap-xml, which ndiff and other programs for nmap -oX read (default %(default)s)",
    )
    form.add_argument(
        "--json", dest="format", action="store_const", const="json", default="table", help="short for --format json"
    )
    learn = _command(
        commands, "learn", "scan, and print a `hosts:` block that makes today's state the specification",
        level="error", with_config=False,
    )  # fmt: skip
    learn.add_argument("hosts", nargs="*", metavar="HOST", help="names or addresses")
    learn.add_argument("--ports", help='ports to scan, such as "22,80,8000-8100" (default: all)')
    learn.add_argument("--ipv6", action="store_true", help="scan the IPv6 addresses of names, too")
    learn.add_argument(
        "--from",
        dest="source",
        metavar="FILE",
        help='scan nothing; take the XML of nmap -oX, masscan -oX or `portspec scan --format nmap-xml`, "-" for '
        "standard input",
    )
    _add_accept(commands)


def _add_accept(commands: _Commands) -> None:
    accept = _command(
        commands,
        "accept",
        "write into the configuration that deviating ports, or vulnerabilities, of a host are right: show the diff, "
        "and ask; exit 0 if it is written, 1 if the answer is no, 2 for errors",
        level="error",
    )
    accept.add_argument("host", metavar="HOST", help="the host, as the configuration calls it")
    accept.add_argument(
        "what",
        nargs="+",
        metavar="PORT|ID",
        help='ports, such as 22, "8000-8100" or ssh, or ids, such as CVE-2026-12345',
    )
    way = accept.add_mutually_exclusive_group(required=True)
    way.add_argument("--expect", dest="way", action="store_const", const="expect", help="the ports have to be open")
    way.add_argument("--allow", dest="way", action="store_const", const="allow", help="the ports may be open or not")
    way.add_argument(
        "--until",
        metavar="WHEN",
        help='make an exception until then: a duration ("1w"), a day ("2027-03-31") or a time ("2027-03-31T18:00:00Z")',
    )
    accept.add_argument("--reason", metavar="TEXT", default="", help="why, for the exception")
    accept.add_argument("--owner", metavar="TEXT", default="", help="who is responsible, for the exception")
    answer = accept.add_mutually_exclusive_group()
    answer.add_argument("-y", "--yes", action="store_true", help="write without asking")
    answer.add_argument("-n", "--dry-run", action="store_true", help="only show the diff")


def _add_audits(commands: _Commands) -> None:
    key = _command(commands, "key", "print the key with which a host signs its audits", level="error")
    key.add_argument("host", nargs="?", metavar="HOST", help="its name or address in conf.yml")
    key.add_argument(
        "--agent",
        action="store_true",
        help="print the public key that signs the agent, for ssh-keygen -Y verify -f, instead of the key of a host",
    )
    _command(
        commands,
        "receive",
        "read a mail with the audit of a host from standard input, for the pipe of an MTA; exit 0 if it is archived, "
        "65 if it is rejected, 75 if the MTA should retry later",
        level="warning",
    )
    report = _command(
        commands, "report", "write the report of all machines: ports, deviations, vulnerable packages", level="error"
    )
    report.add_argument(
        "-o", "--output", metavar="FILE", help="replace this file atomically (default: standard output)"
    )
    report.add_argument(
        "--format", choices=("html", "text", "json"), default="html", help="html, text or json (default %(default)s)"
    )
    report.add_argument("--host", metavar="HOST", help="report on this machine only")
    report.add_argument("--day", metavar="DAY", type=_day, help='use its audit of this day, such as "2027-03-31"')
    report.add_argument("--raw", action="store_true", help="write what the host sent, byte for byte")


def _add_operations(commands: _Commands) -> None:
    _command(
        commands,
        "mail-test",
        "send a test message to every alertemail and print the answers of the server; exit 1 unless it accepts all",
        level="error",
    )
    _command(
        commands,
        "reload",
        "make the exporter of the systemd unit reload its configuration, and wait for the result; exit 0 if it is "
        "valid, else 2",
        level="error", with_config=False,
    )  # fmt: skip
    _add_maintenance(commands)
    health = _command(
        commands, "healthcheck", "ask a running exporter for its health; exit 0 if it is healthy, else 1",
        level="error", with_config=False,
    )  # fmt: skip
    health.add_argument("--url", metavar="URL", default=DEFAULT_URL, help="its URL (default %(default)s)")
    health.add_argument(
        "--ca-file",
        metavar="FILE",
        help="trust this certificate, or this authority (default: those of the system)",
    )
    health.add_argument(
        "--cert-file", metavar="FILE", help="present this client certificate; its key is in the same file"
    )
    health.add_argument("--insecure", action="store_true", help="take any certificate; nothing secret is sent")
    assets = _command(
        commands, "assets", "write out the rules, units, example configuration and other files that come with portspec",
        level="error", with_config=False,
    )  # fmt: skip
    assets.add_argument(
        "-o", "--output", metavar="DIR", help="write them below this directory (default: only list them)"
    )
    assets.add_argument("--force", action="store_true", help="replace files that are there and differ")
    # The next two are for the help and for completion: command_first() makes options of them.
    helped = commands.add_parser("help", help="show this help, or that of a command")
    helped.add_argument("topic", nargs="?", metavar="COMMAND", choices=COMMANDS, help=", ".join(COMMANDS))
    commands.add_parser("version", help="print the version")


def _add_maintenance(commands: _Commands) -> None:
    maintenance = _command(
        commands,
        "maintenance",
        "have the exporter of the systemd unit alert nobody about hosts for a while; exit 0 if it does, else 2",
        level="error", with_config=False,
    )  # fmt: skip
    maintenance.add_argument("hosts", nargs="*", metavar="HOST", help="its name or address in conf.yml")
    what = maintenance.add_mutually_exclusive_group(required=True)
    what.add_argument("--for", dest="duration", metavar="DURATION", help='begin it, for this long, such as "2h"')
    what.add_argument(
        "--until",
        metavar="WHEN",
        help='begin it, until then: a duration ("1w"), a day ("2027-03-31") or a time ("2027-03-31T18:00:00Z")',
    )
    what.add_argument("--end", action="store_true", help="end it now")
    what.add_argument("--list", action="store_true", help="list what lasts and what is to come, of all hosts or these")
    maintenance.add_argument("--reason", metavar="TEXT", default="", help="why")
    maintenance.add_argument("--owner", metavar="TEXT", default="", help="who is responsible")


def _day(text: str) -> str:
    from datetime import date

    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is not a day (expected for example "2027-03-31")') from None


def _command(
    commands: _Commands,
    name: str,
    text: str,
    *,
    level: str,
    with_config: bool = True,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    if with_config:
        command.add_argument(
            "-c",
            "--config.file",
            dest="config",
            metavar="FILE",
            default=DEFAULT_CONFIG,
            help='configuration, "-" for standard input (default %(default)s)',
        )
    command.add_argument(
        "-j", dest="log_format", action="store_const", const="json", help="log in JSON, one object per line"
    )
    command.add_argument(
        "--log.format",
        dest="log_format",
        metavar="FORMAT",
        choices=LOG_FORMATS,
        help="logfmt or json (default: logfmt, with colours on a terminal)",
    )
    command.add_argument(
        "--log.level",
        dest="log_level",
        metavar="LEVEL",
        choices=("debug", "info", "warning", "error"),
        default=level,
        help="debug, info, warning or error (default %(default)s)",
    )
    return command
