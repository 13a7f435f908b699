"""`portspec reload`: make the exporter of the systemd unit reload its configuration, and print the result."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Final

from portspec.cli.control import FAILURES, ask, no_answer, socket_path
from portspec.cli.output import write
from portspec.errors import PortspecError

if TYPE_CHECKING:
    from collections.abc import Mapping

_RELOAD: Final = ("POST", "/-/reload")


def reload(environment: Mapping[str, str]) -> int:
    """Request a reload. Raises PortspecError if no exporter answers, or the configuration is invalid."""
    path = socket_path(environment)
    try:
        status, text = ask(path, *_RELOAD)
    except FAILURES as error:
        instead = "`portspec reload` works with the systemd unit only; send SIGHUP to any other exporter"
        raise no_answer(path, error, instead) from None
    if status != http.client.OK:
        raise PortspecError(text.rstrip("\n"))
    write(text)
    return 0


def reload_if_running(environment: Mapping[str, str], *, is_automatic: bool) -> tuple[bool, str]:
    """Have the exporter of the systemd unit reload, if there is one.

    `is_automatic` tells whether an exporter looks for changes of conf.yml by itself. Returns whether nothing failed,
    and the lines that tell what came of it.
    """
    try:
        status, text = ask(socket_path(environment), *_RELOAD)
    except FAILURES:
        if is_automatic:
            return True, "a running exporter takes it up within half a minute.\n"
        return True, "send SIGHUP to a running exporter, so that it takes it up.\n"
    return status == http.client.OK, f"the exporter of the systemd unit says: {text}"
