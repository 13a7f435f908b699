"""The program that prints an access token: real ones, that do all that a program can do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final

import pytest

from portspec.notify import DeliveryError
from portspec.notify import DeliveryErrorReason as Reason
from portspec.notify.authentication import MAX_OUTPUT, access_token
from tests.unit.app.exporter import until
from tests.unit.scan.loopback import PATIENCE

TOKEN: Final = "eyJ0eXAiOiJKV1QiLCJub25jZSI6.eyJhdWQiOiJodHRwczovL291.dGxvb2-k_Lm9mZmljZS5jb20="  # noqa: S105 - nobody's
NO_TOKEN: Final = "did not print an access token (RFC 6750) alone; extract it from JSON with jq -r"  # noqa: S105 - an error
SHORT: Final = 0.3  # seconds for a program that hangs


def token_of(*command: str, patience: float = PATIENCE) -> str:
    """Give what a command prints."""
    return asyncio.run(access_token(command, patience))


def shell(script: str) -> tuple[str, ...]:
    """Make a command of a line of shell."""
    return ("/bin/sh", "-c", script)


def living(group: int) -> list[str]:
    """Name the processes of a group that run; one that has ended and is not waited for does not."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group, *_ = entry.read_text(encoding="utf-8").rpartition(")")[2].split()
            if state not in "ZX" and int(its_group) == group:
                found.append(entry.parent.name)
    return found


@pytest.mark.parametrize("output", ["%s", "%s\\n", "\\n  %s \\r\\n\\n"])
def test_token_is_what_it_prints(output: str) -> None:
    """Blanks and empty lines around it are none of it, nor is what goes to standard error."""
    assert token_of(*shell(f"printf 'a warning\\n' >&2; printf '{output}' {TOKEN}")) == TOKEN


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 1", "failed (exit status 1)"),
        ("echo; echo no refresh token >&2; echo more >&2; exit 3", "failed (exit status 3): no refresh token"),
        (f"echo {TOKEN}; echo had {TOKEN} here >&2; exit 1", "failed (exit status 1): had … here"),
        (f"echo 'refused: {TOKEN}' >&2; exit 1", "failed (exit status 1): refused: …"),
        ("printf '\\033[31mred' >&2; exit 1", "failed (exit status 1): \\x1b[31mred"),
        ("kill -9 $$", "failed (killed by SIGKILL)"),
        ("kill -TERM $$", "failed (killed by SIGTERM)"),
        ("true", "printed nothing, expected an access token"),
        ("echo not logged in >&2", "printed nothing, expected an access token: not logged in"),
        (f"echo {TOKEN}; echo {TOKEN}", "printed 2 lines, expected one line with an access token"),
        ("echo '{\"access_token\": \"x\"}'", NO_TOKEN),
        ("printf 'a\\001b'", NO_TOKEN),
        ("printf '\\377\\376'", NO_TOKEN),
    ],
)  # fmt: skip
def test_what_is_no_token_is_told(script: str, why: str) -> None:
    """The error has the first line of standard error, and never what may be a token."""
    with pytest.raises(DeliveryError) as caught:
        token_of(*shell(script))
    assert (caught.value.reason, caught.value.detail) == (Reason.TOKEN, f"smtptokencommand /bin/sh {why}")
    assert not caught.value.is_of_mail


def test_program_that_is_gone(tmp_path: Path) -> None:
    """One that was there when conf.yml was read, or may not be run any more, is told by its path."""
    path = tmp_path / "token"
    for why in ("no such file or directory", "permission denied"):
        with pytest.raises(DeliveryError) as caught:
            token_of(str(path))
        assert caught.value.detail == f"smtptokencommand {path} cannot be run: {why}"
        path.write_text("#!/bin/sh\n", encoding="utf-8")


@pytest.mark.parametrize(
    "script",
    [
        "exec sleep 1000",
        "exec >&- 2>&-; exec sleep 1000",
        "sleep 1000 & exit 0",
        "trap '' TERM HUP INT; while :; do sleep 1; done",
    ],
)
def test_program_that_hangs_is_ended(tmp_path: Path, script: str) -> None:
    """It and all that it has started end when its time is over, whether it has closed its output or not."""
    note = tmp_path / "number"
    with pytest.raises(DeliveryError) as caught:
        token_of(*shell(f"echo $$ > {note}; {script}"), patience=SHORT)
    assert caught.value.detail == f"smtptokencommand /bin/sh timed out after {SHORT:g} s"
    number = int(note.read_text(encoding="utf-8"))
    asyncio.run(until(lambda: not living(number)))


@pytest.mark.parametrize("script", ["exec yes", f"head -c {MAX_OUTPUT + 1} /dev/zero"])
def test_output_without_end_is_not_kept(script: str) -> None:
    """More than a token can be is the end of it."""
    with pytest.raises(DeliveryError, match="printed more than 65,536 bytes, expected only an access token"):
        token_of(*shell(script))


def test_megabytes_of_errors_do_not_stop_it() -> None:
    """Standard error is read to its end, and of it the beginning is kept."""
    assert token_of(*shell(f"head -c 3000000 /dev/zero >&2; echo {TOKEN}")) == TOKEN


def test_cancelled_wait_ends_the_program(tmp_path: Path) -> None:
    """Who does not wait any more leaves no program, and does not wait for its end."""
    note = tmp_path / "number"

    async def scenario() -> None:
        task = asyncio.create_task(access_token(shell(f"echo $$ > {note}; exec sleep 1000"), PATIENCE))
        await until(lambda: note.exists() and note.read_text(encoding="utf-8").strip())
        number = int(note.read_text(encoding="utf-8"))
        assert living(number)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not living(number))

    before = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - before < PATIENCE


def test_no_shell_and_no_input() -> None:
    """Words reach the program as they are; its standard input is empty, and its directory is /."""
    assert token_of("/bin/echo", "a.$HOME;|b"[:2] + "b") == "a.b"
    assert token_of(*shell('test -z "$(cat)" && test "$PWD" = / && echo right')) == "right"
    with pytest.raises(DeliveryError, match="did not print an access token"):
        token_of("/bin/echo", "$HOME")
