from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from tests.unit.web.test_api import fleet

#: What clears a terminal, sets its title, turns the direction of writing, is not seen; C0 and C1 controls.
NASTY = "\x1b[2J\x1b]0;title\x07\x9b2J\u202e\u2800\x7f\r\n"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/probe?target={}"),
        ("GET", "/probe?target=web1&module={}"),
        ("GET", "/probe?target=web1&debug={}"),
        ("GET", "/probe?{}=1"),
        ("GET", "/api/v1/hosts/{}"),
        ("GET", "/api/v1/hosts?verdict={}"),
        ("GET", "/api/v1/hosts?limit={}"),
        ("GET", "/api/v1/hosts?{}=1"),
        ("GET", "/api/v1/changes?since={}"),
        ("POST", "/api/v1/scan?host={}"),
    ],
)
def test_message_that_quotes_a_request_can_be_shown_on_a_terminal(method: str, path: str) -> None:
    """What a request has in it stands escaped in the answer, which people see with curl."""
    answer = fleet().ask(path.format(quote(NASTY)), method)
    assert 400 <= answer.status < 500
    is_json = answer.headers["Content-Type"].startswith("application/json")
    message = json.loads(answer.text)["error"] if is_json else answer.text.removesuffix("\n")
    assert "\\x1b[2j" in message.lower()
    assert message.isprintable()
    assert "\u2800" not in message
