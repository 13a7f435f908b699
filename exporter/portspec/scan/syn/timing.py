"""How long to wait for an answer, and for how many answers at once. Pure."""

from __future__ import annotations

REPEAT_INTERVAL = 0.35  # seconds between the repeated tries of an address that has answered nothing
MIN_TIMEOUT = 0.1  # seconds, as nmap's --min-rtt-timeout: less makes a short stall look like silence
MAX_TIMEOUT = 5.0

INITIAL_WINDOW = 1024
MAX_WINDOW = 4096
MIN_WINDOW = 16
MAX_IN_FLIGHT = 1 << 18  # to all addresses together
_MIN_SAMPLES = 32  # answers from which a share of late ones means something
MAX_RANDOM_LOSS = 0.35  # share of answers to repeated probes; ten percent lost each way make 0.19


class RetransmissionTimer:
    """The retransmission timer of RFC 6298, section 2, in seconds. `first` is the timeout before the first answer."""

    __slots__ = ("_first", "_least", "_smooth", "_variation")

    def __init__(self, first: float) -> None:
        self._first = first
        self._least = min(MIN_TIMEOUT, first)
        self._smooth: float | None = None
        self._variation = 0.0

    def record(self, sample: float) -> None:
        """Record a round-trip time."""
        if self._smooth is None:
            self._smooth, self._variation = sample, sample / 2
        else:
            self._variation += (abs(self._smooth - sample) - self._variation) / 4
            self._smooth += (sample - self._smooth) / 8

    def wait(self, attempt: int, tries: int = 0) -> float:
        """Return the timeout of the probe after `attempt` silent ones: twice as long each time (5.5).

        It does not exceed the one before the first answer, unless the round-trip times demand that. Before the first
        answer, all of the `tries` that are needed have that timeout but for those between the first and the last: the
        next one need not wait for their answers, which count whenever they arrive. REPEAT_INTERVAL spreads them as
        widely as those of an address that answers.
        """
        if self._smooth is None:
            return min(self._first, REPEAT_INTERVAL) if 0 < attempt < tries - 1 else self._first
        learned = min(MAX_TIMEOUT, max(self._least, self._smooth + 4 * self._variation))
        return min(learned * (1 << attempt), max(learned, self._first))


class ProbeWindow:
    """How many probes to one address may be in flight: fewer when answers get lost, and then more again.

    Random loss is no reason to slow down: the window shrinks only when more than MAX_RANDOM_LOSS of the answers are to
    repeated probes. It grows by one for each probe that is concluded, as in TCP's slow start, and by an eighth of that
    from the size at which loss began.
    """

    __slots__ = ("_first", "_grows_to", "_later", "size")

    def __init__(self) -> None:
        self.size = INITIAL_WINDOW
        self._grows_to = MAX_WINDOW
        self._first = 0
        self._later = 0

    def record(self, *, first: int = 0, later: int = 0, silent: int = 0) -> None:
        """Record answers to first and to repeated probes, and probes that stayed silent."""
        self._first += first
        self._later += later
        answers = self._first + self._later
        if answers >= _MIN_SAMPLES and self._later > MAX_RANDOM_LOSS * answers:
            self.shrink()
        elif answers >= self.size:
            self._first = self._later = 0
        room = first + later + silent
        if self.size < self._grows_to:
            self.size = min(self._grows_to, self.size + room)
        else:  # loss began here: grow slowly
            self._grows_to = self.size = min(MAX_WINDOW, self.size + max(1, room // 8))

    def shrink(self) -> None:
        """Halve the window."""
        self.size = self._grows_to = max(MIN_WINDOW, self.size // 2)
        self._first = self._later = 0
