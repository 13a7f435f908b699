"""What our agent adds to the output of tools that say nothing, or not enough, when all is well.

A second command may tell what the first one looked at: its output follows the line "# portspec: " with that command.
The last line says that all of them ended with 0. Without it the output may be cut, or that of a failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.audit.tools.draft import quote

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.audit.tools.draft import Draft

MARK: Final = "# portspec: "  # agent.py


def proof_of(program: str) -> str:
    """Give the last line of an output that is whole."""
    return f"{MARK}{program} ended with 0"


def split_proof(output: str, proof: str) -> tuple[str, bool]:
    """Give an output without its last line, and whether that is the proof."""
    text = output.rstrip()
    start = len(text) - len(proof)
    is_proven = text.endswith(proof) and (start == 0 or text[start - 1] in "\r\n")
    return (text[:start], True) if is_proven else (output, False)


def read_proven(draft: Draft, proof: str, expected: str, read: Callable[[str], None]) -> None:
    """Have the output without its last line read, and fail where that is not the proof, or where there is nothing."""
    if not draft.run.output.strip():
        draft.no_output(f"{expected}, and the last line {quote(proof)}")
        return
    body, is_proven = split_proof(draft.run.output, proof)
    read(body)
    if not is_proven:
        draft.fail(f"the last line is not {quote(proof)}: the output is cut off, or that of a failure")
    draft.end(clean=(0,), found=(0,))
