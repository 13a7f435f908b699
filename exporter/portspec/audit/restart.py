"""What a host runs in another version than the one that is installed: processes that listen, and its kernel. Pure.

An upgrade replaces files, and a process that runs goes on with the old ones until it is restarted. The audit tool reads
the versions of packages, so it no longer sees the vulnerability that the process still has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portspec.audit.payload import Kernel, ListeningSocket


MAX_FILES: Final = 3  # of a process that are named in a line


@dataclass(frozen=True, slots=True)
class StaleProcess:
    """A process that listens and runs files of which another version is present; `files` are their paths."""

    process: str | None
    user: str | None
    details: str
    files: tuple[str, ...]

    @property
    def spelled(self) -> str:
        """What runs, and which files, as "nginx (www) [nginx.service] runs a replaced version of /lib/x.so"."""
        named = f"{self.process or 'unknown process'}{f' ({self.user})' if self.user else ''}"
        details = f" [{self.details}]" if self.details else ""
        more = f" and {len(self.files) - MAX_FILES:,} more" if len(self.files) > MAX_FILES else ""
        return f"{named}{details} runs a replaced version of {', '.join(self.files[:MAX_FILES])}{more}"


@dataclass(frozen=True, slots=True)
class RestartNeeds:
    """What has to be restarted.

    `processes` is None if the agent saw of no process which files it runs, and `is_complete` tells whether it saw that
    of all. `kernel` is None if the agent does not see which kernels are installed.
    """

    processes: tuple[StaleProcess, ...] | None
    is_complete: bool
    kernel: Kernel | None

    def __bool__(self) -> bool:
        return bool(self.processes or (self.kernel and self.kernel.newer))

    @property
    def lines(self) -> Iterator[str]:
        """A line for each process, and one for the kernel."""
        for item in self.processes or ():
            yield item.spelled
        if self.kernel and self.kernel.newer:
            yield f"kernel {self.kernel.running} runs, {self.kernel.newer} is installed"


def restart_needs(listeners: Sequence[ListeningSocket] | None, kernel: Kernel | None) -> RestartNeeds:
    """Return what the listeners of an audit tell, each process once; None is what the agent could not gather."""
    found = listeners or ()
    stale = {
        StaleProcess(item.process, item.user, item.details, item.replaced): None for item in found if item.replaced
    }
    seen = [item.libraries is not None or bool(item.replaced) for item in found]
    is_known = listeners is not None and (any(seen) or not seen)
    return RestartNeeds(tuple(stale) if is_known else None, listeners is not None and all(seen), kernel)
