"""How long to wait for an answer, and how many to wait for at once. Pure."""

from __future__ import annotations

LEAST_WAIT = 0.1  # seconds, as nmap's --min-rtt-timeout: less makes a moment's stall look like silence
MOST_WAIT = 5.0

FIRST_WINDOW = 1024
MAX_WINDOW = 4096
LEAST_WINDOW = 16
MAX_IN_FLIGHT = 1 << 18  # to all addresses together
_EPOCH = 32  # answers from which a share of late ones means something
TOO_MANY = 0.35  # of the answers were to repeated probes: ten percent lost each way make 0.19


class RoundTrip:
    """The retransmission timer of RFC 6298, section 2; all in seconds. `first` is the wait before the first answer."""

    __slots__ = ("_first", "_least", "_smooth", "_variation")

    def __init__(self, first: float) -> None:
        self._first = first
        self._least = min(LEAST_WAIT, first)
        self._smooth: float | None = None
        self._variation = 0.0

    def measured(self, sample: float) -> None:
        """Learn from the time between a probe and its answer."""
        if self._smooth is None:
            self._smooth, self._variation = sample, sample / 2
        else:
            self._variation += (abs(self._smooth - sample) - self._variation) / 4
            self._smooth += (sample - self._smooth) / 8

    def wait(self, attempt: int) -> float:
        """Give how long to wait for an answer to the probe after so many in vain: each time twice as long (5.5).

        Never longer than the wait before the first answer, unless the answers themselves take that long.
        """
        if self._smooth is None:
            return self._first
        learned = min(MOST_WAIT, max(self._least, self._smooth + 4 * self._variation))
        return min(learned * (1 << attempt), max(learned, self._first))


class Window:
    """How many probes of an address may be waited for at once: less where answers get lost, and then more again.

    Random loss is no reason to slow down, so that only a large share of answers that needed a repeated probe is.
    """

    __slots__ = ("_first", "_grows_to", "_later", "size")

    def __init__(self) -> None:
        self.size = FIRST_WINDOW
        self._grows_to = MAX_WINDOW
        self._first = 0
        self._later = 0

    def concluded(self, *, first: int = 0, later: int = 0, silent: int = 0) -> None:
        """Note so many answers to first and to repeated probes, and so many probes that stayed silent."""
        self._first += first
        self._later += later
        answers = self._first + self._later
        if answers >= _EPOCH and self._later > TOO_MANY * answers:
            self.shrink()
        elif answers >= self.size:
            self._first = self._later = 0
        room = first + later + silent
        if self.size < self._grows_to:
            self.size = min(self._grows_to, self.size + room)
        else:  # where loss began: carefully
            self._grows_to = self.size = min(MAX_WINDOW, self.size + max(1, room // 8))

    def shrink(self) -> None:
        """Halve the window: more than chance was lost."""
        self.size = self._grows_to = max(LEAST_WINDOW, self.size // 2)
        self._first = self._later = 0
