"""What a mail says, before it is text or HTML: both are made from this, and so say the same."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Where the runbooks are unless conf.yml names another place.
RUNBOOKS: Final = "https://github.com/portspec/portspec/blob/main/docs/runbooks.md"


class Tone(enum.Enum):
    """How bad the news is."""

    BAD = "bad"
    UNKNOWN = "unknown"
    GOOD = "good"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing, and what there is to say of it."""

    text: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """Things of one kind under a title."""

    title: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """A mail: its subject, then what is read from top to bottom. Every text is printable and one line.

    `links` and `facts` are labels with a URL or a text.
    """

    subject: str
    tone: Tone
    headline: str
    paragraphs: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    advice: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Links:
    """Where the exporter's pages are for those who read mails (None if conf.yml does not say), and the runbooks."""

    external_url: str | None = None
    runbook_url: str = RUNBOOKS

    def host(self, host: str) -> list[tuple[str, str]]:
        """Give the link to a host: its row on the page of all hosts."""
        if self.external_url is None:
            return []
        return [("Host", f"{self.external_url}/#{quote(host, safe=':', errors='replace')}")]

    def hosts(self) -> list[tuple[str, str]]:
        """Give the link to the page of all hosts."""
        return [("All hosts", f"{self.external_url}/")] if self.external_url else []

    def runbooks(self, sections: Iterable[str]) -> list[tuple[str, str]]:
        """Give the links to sections of the runbooks, each once; they bear the names of alerts."""
        return [("Runbook", f"{self.runbook_url}#{name.lower()}") for name in dict.fromkeys(sections)]


NO_LINKS: Final = Links()


def plain(content: Content) -> str:
    """Write a mail as text: short lines that a telephone wraps well."""
    advice = ("What to do: " + " ".join(content.advice),) if content.advice else ()
    blocks = [
        (content.headline,),
        *((paragraph,) for paragraph in content.paragraphs),
        *(_lines(section) for section in content.sections),
        advice,
        tuple(f"{label}: {url}" for label, url in content.links),
        tuple(f"{label}: {text}" for label, text in content.facts),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _lines(section: Section) -> tuple[str, ...]:
    lines = [section.title]
    for item in section.items:
        lines += [f"- {item.text}", *(f"  {detail}" for detail in item.details)]
    return tuple(lines)
