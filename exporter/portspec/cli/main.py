"""Run the command of the command line, and turn errors into exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from portspec.cli.arguments import DEFAULT_LISTEN_ADDRESS, command_first, parser
from portspec.errors import ConfigError, OutputError, PortspecError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Sequence
    from types import FrameType

    from portspec.config import Config
    from portspec.config.acceptance import Way

EX_TEMPFAIL = 75  # sysexits(3), EX_TEMPFAIL
EX_SOFTWARE = 70  # sysexits(3), EX_SOFTWARE
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None, *, mask: Collection[int] | None = None) -> int:
    """Run a command; returns its exit code. `serve` is the default.

    `mask`: the signals that were blocked before the caller blocked SIGHUP; None if it did not.
    """
    _open_missing_streams()
    options = _parsed(list(sys.argv[1:] if argv is None else argv))
    if options.command == "serve":
        _handle_signals()
    elif mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        return _run(options)
    except PortspecError as error:
        if isinstance(error, OutputError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter flushes it once more
            if error.is_broken_pipe:
                return EXIT_BROKEN_PIPE
        _report(error, options)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception:  # noqa: BLE001 - a crash must not look like a verdict: 1 and 3 are those of scan
        traceback.print_exc()
        return EX_TEMPFAIL if options.command == "receive" else EX_SOFTWARE


def _parsed(arguments: list[str]) -> argparse.Namespace:
    try:
        ordered = command_first(arguments)
    except UsageError as error:
        print(f"portspec: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    try:
        return parser().parse_args(ordered)
    except SystemExit as error:
        if ordered[:1] == ["receive"] and error.code:
            # a mail must not be lost by a slip in the MTA's configuration: it is kept until that is put right
            raise SystemExit(EX_TEMPFAIL) from None
        raise


def _handle_signals() -> None:
    """Let SIGTERM and SIGINT end the start of the exporter with the same exit code as later.

    By default SIGTERM would do nothing in a container, where the exporter is process 1 (pid_namespaces(7)). SIGHUP
    still waits.
    """
    stopping = {signal.SIGTERM, signal.SIGINT}
    for number in stopping:
        signal.signal(number, _stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """End the process as it is: nothing was begun, and an exception might be lost where it comes up."""
    os._exit(0)


def _open_missing_streams() -> None:
    """Return standard output and error somewhere to go when the caller closed them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for the life of the process


def _run(options: argparse.Namespace) -> int:
    from portspec import log

    is_server = options.command == "serve"
    log.set_up(sys.stdout if is_server else sys.stderr, form=options.log_format, level=options.log_level)
    code: int
    match options.command:
        case "learn":
            code = _learn(options)
        case "accept":
            code = _accept(options)
        case "receive":
            from portspec.cli.receive import receive

            code = receive(options.config)
        case "reload":
            from portspec.cli.reload import reload

            code = reload(os.environ)
        case "maintenance":
            code = _maintenance(options)
        case "healthcheck":
            from portspec.cli.healthcheck import healthcheck

            code = healthcheck(
                options.url, ca_file=options.ca_file, cert_file=options.cert_file, is_insecure=options.insecure
            )
        case "assets":
            from portspec.cli.assets import assets

            code = assets(options.output, replaces=options.force)
        case _:
            code = _run_with(_load(options.config), options)
    return code


def _learn(options: argparse.Namespace) -> int:
    from portspec.cli.learn import learn, learn_from

    if options.source is None:
        if not options.hosts:
            raise UsageError("name the hosts to scan, or a file of nmap with --from")
        ports = "all" if options.ports is None else options.ports
        return learn(options.hosts, ports=ports, ipv6=options.ipv6, shows_progress=_shows_progress(options))
    if options.hosts or options.ports is not None or options.ipv6:
        raise UsageError("--from scans nothing: it excludes HOST, --ports and --ipv6")
    return learn_from(options.source)


def _accept(options: argparse.Namespace) -> int:
    from portspec.cli.accept import accept
    from portspec.config.proposal import Request

    ways: dict[str | None, Way] = {"expect": "expect", "allow": "allow", None: "until"}
    what = tuple(options.what)
    request = Request(options.host, what, ways[options.way], options.until or "", options.reason, options.owner)
    return accept(options.config, request, asks=not options.yes, writes=not options.dry_run)


def _maintenance(options: argparse.Namespace) -> int:
    from portspec.cli.maintenance import Request, maintenance

    request = Request(
        tuple(options.hosts),
        duration=options.duration,
        until=options.until,
        reason=options.reason,
        owner=options.owner,
        ends=options.end,
        lists=options.list,
    )
    return maintenance(request, os.environ)


def _run_with(config: Config, options: argparse.Namespace) -> int:
    code: int
    match options.command:
        case "check":
            from portspec.cli.check import check

            code = check(
                config,
                web_config=options.web_config,
                everything=options.all,
                shows_progress=_shows_progress(options),
            )
        case "scan":
            from portspec.cli.scan import scan

            code = scan(config, options.hosts, form=options.format, shows_progress=_shows_progress(options))
        case "key":
            code = _print_key(config, options)
        case "report":
            code = _report_machines(config, options)
        case "mail-test":
            from portspec.cli.mailtest import mail_test

            code = mail_test(config)
        case _:
            code = _serve(config, options)
    return code


def _print_key(config: Config, options: argparse.Namespace) -> int:
    from portspec.cli.key import agent_key, key

    if (options.host is None) is not options.agent:
        raise UsageError("name a HOST, whose key is printed, or give --agent, but not both")
    return agent_key(config) if options.agent else key(config, options.host)


def _shows_progress(options: argparse.Namespace) -> bool:
    """Return whether standard error may show a progress bar: not if log lines or JSON go there."""
    return options.log_format != "json" and options.log_level not in {"debug", "info"}


def _load(path: str) -> Config:
    from portspec.config import load

    return load(path)


def _serve(config: Config, options: argparse.Namespace) -> int:
    import asyncio

    from portspec import log
    from portspec.app.process import WebOptions, serve
    from portspec.config.fields import check_external_url
    from portspec.inventory import parse_shard

    if options.systemd_socket and options.listen_addresses:
        raise UsageError("--web.systemd-socket and --web.listen-address exclude each other")
    try:
        url = check_external_url(options.external_url) if options.external_url else None  # as Prometheus takes it
    except ValueError as error:
        raise UsageError(f"--web.external-url: {error}") from None
    web = WebOptions(
        listen_addresses=tuple(options.listen_addresses or [DEFAULT_LISTEN_ADDRESS]),
        is_socket_activated=options.systemd_socket,
        config_file=options.web_config,
        external_url=url,
    )
    try:
        asyncio.run(serve(config, parse_shard(options.shard), web))
    except PortspecError:
        raise
    except Exception:  # noqa: BLE001 - the log is where a crash of the exporter is looked for
        log.get("cli").exception("portspec crashed")
        return EX_SOFTWARE
    return 0


def _report_machines(config: Config, options: argparse.Namespace) -> int:
    from portspec.cli.report import raw_report, report

    if options.raw and options.host is None:
        raise UsageError("--raw requires --host")
    if options.day and options.host is None:
        raise UsageError("--day requires --host")
    if options.raw:
        return raw_report(config, output=options.output, host=options.host, day=options.day)
    return report(config, form=options.format, output=options.output, host=options.host, day=options.day)


def _report(error: PortspecError, options: argparse.Namespace) -> None:
    """Log an error if the command logs, otherwise print it as compilers do: file, line, message."""
    if options.command != "serve" and options.log_format != "json":
        print(error, file=sys.stderr)
        return
    from portspec import log

    logger = log.get("cli")
    if isinstance(error, ConfigError):
        for line, problem in zip(error.lines(), error.problems, strict=True):
            fields = {"file": error.path, "line": problem.line, "key": problem.key, "problem": problem.message}
            logger.error(line, **(fields if options.log_format == "json" else {}))
    else:
        logger.error(str(error))
