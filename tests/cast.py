"""A cast of a command in a terminal, as an SVG that moves: the command is typed, and its output appears."""

from __future__ import annotations

import html
import shlex
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from rich.color import ColorType
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.style import Style

CHARACTER: Final = 8.4  # pixels: the width of a character of a monospaced font of 14 pixels
LINE: Final = 20.0  # pixels
MARGIN: Final = 16.0  # pixels
TYPING: Final = 0.05  # seconds for each character of the command
BEAT: Final = 0.12  # seconds between lines of the output
PAUSE: Final = 0.8  # seconds between the command and its output
#: The sixteen colours of a terminal, as they look good on a dark ground.
COLOURS: Final = (
    *("#20242c", "#f07178", "#8bc777", "#e0b35a", "#6fa8dc", "#c490d8", "#63c5c9", "#d4d9e0"),
    *("#6b7280", "#ff8b92", "#a5e08f", "#f5cb78", "#8fc1f0", "#dcaef0", "#86e0e3", "#ffffff"),
)


def cast(command: Sequence[str], run: Callable[[Sequence[str]], str], *, columns: int = 80) -> str:
    """Return the SVG of a command and of what `run` prints of it, in its colours (ANSI), as it stands in the end."""
    typed = f"$ {shlex.join(command)}"
    output = [line.rstrip("\r").rpartition("\r")[2] for line in run(command).split("\n")]
    while output and not output[-1].strip():
        output.pop()
    lines = [Text(typed, style="bold"), *map(Text.from_ansi, output)]
    columns = max(columns, *(line.cell_len for line in lines))
    width, height = columns * CHARACTER + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN
    return "\n".join([*_head(width, height, typed), *_body(lines), "</svg>", ""])


def _head(width: float, height: float, typed: str) -> Iterator[str]:
    seconds = len(typed) * TYPING
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{html.escape(typed)}">'
    )
    yield "<style>"
    yield "text { font: 14px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace }"
    yield "text { white-space: pre; fill: #d4d9e0 }"
    yield ".line { animation: appear 0.01s both }"
    yield f".typed {{ animation: type {seconds:.2f}s steps({len(typed)}) both }}"
    yield "@keyframes appear { from { opacity: 0 } }"
    yield "@keyframes type { from { clip-path: inset(0 100% 0 0) } to { clip-path: inset(0 0 0 0) } }"
    yield "@media (prefers-reduced-motion: reduce) { .line, .typed { animation: none } }"
    yield "</style>"
    yield f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#14171d"/>'


def _body(lines: Sequence[Text]) -> Iterator[str]:
    after = lines[0].cell_len * TYPING + PAUSE
    for number, line in enumerate(lines):
        kind = "line" if number else "typed"
        delay = f' style="animation-delay: {after + number * BEAT:.2f}s"' if number else ""
        spans = "".join(_spans(line))
        yield f'<text class="{kind}" x="{MARGIN:.0f}" y="{MARGIN + (number + 0.75) * LINE:.0f}"{delay}>{spans}</text>'


def _spans(line: Text) -> Iterator[str]:
    """Yield the parts of a line that look alike; each has its length, so that columns stand below each other."""
    edges = sorted({0, len(line), *(edge for span in line.spans for edge in (span.start, span.end))})
    for start, end in pairwise(edges):
        text = line.plain[start:end]
        styles = [span.style for span in line.spans if span.start <= start and end <= span.end]
        look = "".join(_look(style) for style in (line.style, *styles) if not isinstance(style, str))
        bold = ' font-weight="bold"' if line.style == "bold" else ""
        yield f"<tspan{bold}{look}>{html.escape(text, quote=False)}</tspan>"


def _look(style: Style) -> str:
    look = ' font-weight="bold"' if style.bold else ""
    if style.dim:
        look += ' opacity="0.6"'
    colour = style.color
    if colour is not None and colour.type is ColorType.STANDARD and colour.number is not None:
        look += f' fill="{COLOURS[colour.number]}"'
    return look
