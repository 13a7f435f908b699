"""What a harness is: bytes in, a call, and what must hold of the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LARGE: Final = 256 * 1024  # bytes of an input that nothing limits to a few kB: enough to tell linear from quadratic
CORPUS: Final = Path(__file__).with_name("corpus")


@dataclass(frozen=True, slots=True)
class Limit:
    """How much a call may cost: so much, and so much more for each byte of its input."""

    fixed: int
    per_byte: int

    def of(self, size: int) -> int:
        """Return the limit for an input of `size` bytes."""
        return self.fixed + self.per_byte * size


@dataclass(frozen=True, slots=True)
class Harness:
    """One entrance for what strangers send.

    `run` takes any bytes. It returns if what must hold of them holds, and raises otherwise. `seeds` gives inputs that
    the code accepts, `tokens` are words of their language. An input has at most `longest` bytes. `calls` limits the
    function calls of a run, those of C functions included, and `memory` its peak in bytes (`effort.py`).
    `examples` is how many changed inputs `make test` tries: fewer of one that takes milliseconds. `make fuzz` also
    repeats parts of inputs up to `largest` bytes, and asks for no more than linear time.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    tokens: tuple[bytes, ...] = ()
    longest: int = 4096
    calls: Limit = Limit(20_000, 100)
    memory: Limit = Limit(2 << 20, 200)
    examples: int = 200
    largest: int = 8192

    def corpus(self) -> list[bytes]:
        """Return the inputs that fuzzing has found and that are kept, sorted by name."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]

    def inputs(self) -> list[bytes]:
        """Return all seeds that are not too long, and the corpus."""
        return [*(seed for seed in self.seeds() if len(seed) <= self.longest), *self.corpus()]


def first_line(data: bytes) -> tuple[list[str], bytes]:
    """Split an input into the words of its first line, which choose what is called, and the rest."""
    head, _, rest = data.partition(b"\n")
    return head.decode("ascii", "replace").split(), rest


def text_of(data: bytes) -> str:
    """Decode an input to any text: other bytes than UTF-8 become halves of surrogate pairs, as JSON can spell them."""
    return data.decode("utf-8", "surrogateescape")


def words(text: str) -> tuple[bytes, ...]:
    """Return the words of a text as tokens."""
    return tuple(word.encode() for word in text.split())


def assert_line(text: str, longest: int) -> None:
    """Assert that a text is one line that can be logged: printable, and of a limited length."""
    assert text.isprintable(), text
    assert len(text) <= longest, len(text)
