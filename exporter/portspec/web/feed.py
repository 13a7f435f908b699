"""The change log as an Atom feed (RFC 4287). Pure.

The id of an entry is a tag URI (RFC 4151) of the number of the change and its time, which stay the same wherever the
exporter is reached. That of the feed is its address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

from portspec.config.rulings import Ruling
from portspec.errors import printable
from portspec.web.spelling import quoted, rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.store import Change

_NAMESPACE: Final = "http://www.w3.org/2005/Atom"


def feed(rows: Sequence[tuple[int, Change]], *, host: str, base: str) -> bytes:
    """Return the feed of some changes with their numbers, the newest first.

    Args:
        rows: Numbers and changes.
        host: The host that they are of, "" for all.
        base: The address of the page of all hosts, which ends in a slash.
    """
    query = f"?{urlencode({'host': host}, errors='replace')}" if host else ""
    root = ET.Element("feed", {"xmlns": _NAMESPACE})
    _add(root, "id", f"{base}changes.atom{query}")
    _add(root, "title", f"portspec: changes of {host}" if host else "portspec: changes")
    _add(root, "updated", rfc3339(rows[0][1].at if rows else 0.0))
    ET.SubElement(root, "link", {"rel": "self", "href": f"{base}changes.atom{query}"})
    ET.SubElement(root, "link", {"rel": "alternate", "type": "text/html", "href": f"{base}changes{query}"})
    ET.SubElement(ET.SubElement(root, "author"), "name").text = "portspec"
    for number, change in rows:
        root.append(_entry(number, change, base))
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _entry(number: int, change: Change, base: str) -> ET.Element:
    at = rfc3339(change.at)
    entry = ET.Element("entry")
    _add(entry, "id", f"tag:portspec,{at[:10]}:change/{number}/{change.at:.3f}")
    _add(entry, "title", f"{change.host}: {change.ports} is {change.after.value}")
    _add(entry, "updated", at)
    ET.SubElement(
        entry, "link", {"rel": "alternate", "type": "text/html", "href": f"{base}hosts/{quoted(change.host)}"}
    )
    _add(entry, "summary", _summary(change))
    return entry


def _summary(change: Change) -> str:
    if isinstance(change.after, Ruling):
        return f"conf.yml has changed: {change.ports} of {change.host} {change.after.value}, {change.note}".rstrip(", ")
    was = change.before.value if change.before else "not looked at"
    return f"Port {change.ports} of {change.address} was {was} and is {change.after.value}."


def _add(parent: ET.Element, name: str, text: str) -> None:
    """Add an element whose text has no character that XML 1.0 forbids."""
    ET.SubElement(parent, name).text = printable(text).encode("utf-8", "replace").decode()
