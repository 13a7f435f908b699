"""URLs that others are made from, by adding to their path."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def base_url(value: object) -> str | None:
    """Give an http or https URL without its final slashes; None if it is none, or has more than host, port and path.

    Neither query nor fragment, for something is added to it, and no credentials, for it is shown.
    """
    try:
        # RFC 3986, 2: neither spaces nor quotes, nor letters beyond ASCII
        parts = urlsplit(value if isinstance(value, str) and re.fullmatch(r"[!#-;=?-~]+", value) else "")
        is_url = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        return None
    if not is_url or "@" in parts.netloc or re.search(r"[?#]", str(value)):
        return None
    return str(value).rstrip("/")


def check_external_url(value: object) -> str:
    """Give the URL at which people reach the pages of the exporter; ValueError if it is none."""
    found = base_url(value)
    if found is None:
        raise ValueError(
            "expected the URL at which people reach this exporter, such as https://portspec.example.org, without "
            "query, fragment and credentials"
        )
    return found


def check_runbook_url(value: object) -> str:
    """Give the URL of a page with a section for each alert; ValueError if it is none."""
    found = base_url(value)
    if found is None:
        raise ValueError(
            "expected the URL of a page with a section for each alert, such as https://wiki.example.org/runbooks, "
            "without query, fragment and credentials"
        )
    return found
