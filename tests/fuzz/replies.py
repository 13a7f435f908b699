"""What a server answers to the agent, which runs as root: only who has the key of the host is believed.

An input is a line with the status, then headers and a body as HTTP has them; @ stands for the right signature.
"""

from __future__ import annotations

import http.client
import io
import json
import re
from functools import cache
from typing import TYPE_CHECKING, Final

from portspec.agent import Fate, HttpSender, Parcel, Settings, printable, sign_answer
from tests.fuzz.harness import Harness, words

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEY: Final = b"k" * 32
_PARCEL: Final = Parcel(b"packed", "db1", "2026-11-22", "00" * 16, None)
_LONGEST_PAUSE: Final = 120.0  # seconds


@cache
def _sender() -> HttpSender:
    return HttpSender(Settings(url="http://portspec.example:10190"), _KEY)


def judge_reply(data: bytes) -> None:
    """Judge an answer; an audit counts as sent or rejected only if the answer is signed, and the text can be shown."""
    line, _, rest = data.partition(b"\n")
    if not re.fullmatch(rb"[1-5][0-9]{2}", line):
        return
    status = int(line)
    head, _, body = rest.partition(b"\n\n")
    signature = sign_answer(_PARCEL.packed, status, body, _KEY).encode()
    signed = head.replace(b"@", signature)
    try:
        headers = http.client.parse_headers(io.BytesIO(signed + b"\n\n"))
    except http.client.HTTPException:  # which send() tells
        return
    attempt = _sender()._judge(_PARCEL, status, headers, body)
    assert printable(attempt.text).isprintable()
    assert 0 <= attempt.pause <= _LONGEST_PAUSE
    if attempt.fate in {Fate.SENT, Fate.REFUSED}:
        assert signature in signed
        reply = json.loads(body.decode("utf-8", "backslashreplace"))
        assert isinstance(reply["detail" if reply.get("error") else "message"], str)
    if attempt.fate is Fate.SENT:
        assert status in {200, 201}


def _replies() -> Iterator[bytes]:
    for status, document in (
        (201, {"message": "accepted"}),
        (200, {"message": "this audit is already archived"}),
        (403, {"error": "signature", "detail": "it is not signed with the key of db1"}),
        (409, {"error": "duplicate", "detail": "db1 has already sent another audit"}),
        (413, {"error": "too_large", "detail": "it is too large"}),
        (503, {"error": "store", "detail": "retry later"}),
    ):
        head = b"Content-Type: application/json\nRetry-After: 60\n"
        for proof in (b"Portspec-Signature: @\n", b"Portspec-Signature: a, @,\n", b""):
            yield b"%d\n%s%s\n%s" % (status, head, proof, json.dumps(document).encode())
    yield b"302\nLocation: http://elsewhere/\x1b[2J\n\n<html>"
    yield b"200\nServer: nginx\n\n<html>\xff\x9b</html>"


_REPLIES: Final = Harness(
    "replies",
    judge_reply,
    _replies,
    (
        *words('Portspec-Signature: @ Retry-After: Location: "detail": "error": {"message":"a"} null [] \\ud800 201'),
        *(b"\n", b"\n\n", b",", b"\xff", b"9" * 10, b"[" * 1000, b"signature", b"roster", b"too_large", b"duplicate"),
    ),
    largest=64 * 1024,  # of which no more is read
)

HARNESSES: Final = (_REPLIES,)
