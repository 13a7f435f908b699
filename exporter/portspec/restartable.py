"""A thread that somebody else can start again after it has ended unexpectedly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portspec.daemonthread import DaemonThread
from portspec.errors import NoThreadError

if TYPE_CHECKING:
    from collections.abc import Callable


class RestartableThread:
    """A daemon thread that runs `work`, which returns when the thread is to end.

    Whatever `work` raises instead, also SystemExit or MemoryError, ends the thread unexpectedly. Then `on_death` is
    called in it, with the error. The public methods are called by the owner and by the supervisor.
    """

    def __init__(self, name: str, work: Callable[[], None], on_death: Callable[[BaseException], None]) -> None:
        self._name = name
        self._work = work
        self._on_death = on_death
        self._thread: DaemonThread | None = None
        self.death: BaseException | None = None  # what ended the thread unexpectedly, until restart()

    @property
    def was_started(self) -> bool:
        """Whether start() was called."""
        return self._thread is not None

    def start(self) -> None:
        """Start the thread. Raises NoThreadError if the system does not allow another one."""
        thread = DaemonThread(self._run, self._name)
        thread.start()
        self._thread = thread

    def restart(self) -> None:
        """Start the thread again if it has ended unexpectedly; raises NoThreadError, and may be called again then."""
        if self.death is None:
            return
        self.join()  # it tells its owner first
        death, self.death = self.death, None
        try:
            self.start()
        except NoThreadError:
            self.death = death
            raise

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, at most `timeout` seconds."""
        if self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - the supervisor logs it, and restarts the thread
            self.death = error
            self._on_death(error)
