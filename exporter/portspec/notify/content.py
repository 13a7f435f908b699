"""The content of a mail, and its two renderings with the same words: plain text and HTML. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The URL of the runbooks, unless conf.yml sets another one.
RUNBOOKS: Final = "https://github.com/portspec/portspec/blob/main/docs/runbooks.md"


class Tone(enum.Enum):
    """How bad the event is."""

    BAD = "bad"
    UNKNOWN = "unknown"
    GOOD = "good"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Item:
    """An item of a list, with details."""

    text: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A list with a title."""

    title: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a mail, in the order in which it is read. Each text is printable and a single line.

    `links` and `facts` are pairs of a label and a URL or a text.
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
    """The URLs of the exporter, as recipients reach it (None if conf.yml does not set it), and of the runbooks."""

    external_url: str | None = None
    runbook_url: str = RUNBOOKS

    def host(self, host: str) -> list[tuple[str, str]]:
        """Return the link to the page of a host."""
        if self.external_url is None:
            return []
        return [("Host", f"{self.external_url}/hosts/{quote(host, safe=':', errors='replace')}")]

    def hosts(self) -> list[tuple[str, str]]:
        """Return the link to the page of all hosts."""
        return [("All hosts", f"{self.external_url}/")] if self.external_url else []

    def runbooks(self, sections: Iterable[str]) -> list[tuple[str, str]]:
        """Return the links to sections of the runbooks, without duplicates. Sections are named after alerts."""
        return [("Runbook", f"{self.runbook_url}#{name.lower()}") for name in dict.fromkeys(sections)]


NO_LINKS: Final = Links()


def plain_text(content: Content) -> str:
    """Return the content as plain text, in short lines that a phone wraps well."""
    advice = ("What to do: " + " ".join(content.advice),) if content.advice else ()
    blocks = [
        (content.headline,),
        *((paragraph,) for paragraph in content.paragraphs),
        *(_text_lines(section) for section in content.sections),
        advice,
        tuple(f"{label}: {url}" for label, url in content.links),
        tuple(f"{label}: {text}" for label, text in content.facts),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _text_lines(section: Section) -> tuple[str, ...]:
    lines = [section.title]
    for item in section.items:
        lines += [f"- {item.text}", *(f"  {detail}" for detail in item.details)]
    return tuple(lines)


# Styles are attributes of each element, since many clients drop <style>. No text or background colour is set, so that
# a dark page stays readable; the coloured bar repeats what the words say.
_BARS: Final = {Tone.BAD: "#d32f2f", Tone.UNKNOWN: "#f9a825", Tone.GOOD: "#43a047", Tone.NEUTRAL: "#888888"}
_BODY: Final = (
    "color-scheme:light dark;font:16px/1.45 system-ui,-apple-system,sans-serif;"
    "margin:0 auto;max-width:40rem;padding:16px;overflow-wrap:anywhere"
)
_HEADLINE: Final = "font-size:18px;font-weight:600;margin:0 0 16px;padding-left:12px;border-left:4px solid {bar}"
_TITLE: Final = "font-size:16px;font-weight:600;margin:20px 0 4px"
_LIST: Final = "margin:0;padding:0;list-style:none"
_ITEM: Final = "padding:6px 0;border-top:1px solid #88888855"
_DETAIL: Final = "font-size:14px;opacity:.75"
_PARAGRAPH: Final = "margin:0 0 12px"
_ADVICE: Final = "margin:20px 0 12px;padding:10px 12px;border:1px solid #88888888;border-radius:6px"
_FACTS: Final = "margin:20px 0 0;padding-top:10px;border-top:1px solid #88888855;font-size:14px"


def html_page(content: Content) -> str:
    """Return the content as an HTML page."""
    return "\n".join(_html_lines(content)) + "\n"


def _html_lines(content: Content) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">\n<meta name="supported-color-schemes" content="light dark">'
    yield f'</head>\n<body style="{_BODY}">'
    yield f'<p style="{_HEADLINE.format(bar=_BARS[content.tone])}">{escape(content.headline)}</p>'
    for paragraph in content.paragraphs:
        yield f'<p style="{_PARAGRAPH}">{escape(paragraph)}</p>'
    for section in content.sections:
        yield from _html_section(section)
    if content.advice:
        yield f'<p style="{_ADVICE}"><strong>What to do:</strong> {escape(" ".join(content.advice))}</p>'
    for label, url in content.links:
        yield f'<p style="{_PARAGRAPH}">{escape(label)}: <a href="{escape(url)}">{escape(url)}</a></p>'
    if content.facts:
        yield f'<div style="{_FACTS}">'
        for label, text in content.facts:
            yield f"<div><strong>{escape(label)}:</strong> {escape(text)}</div>"
        yield "</div>"
    yield "</body>\n</html>"


def _html_section(section: Section) -> Iterator[str]:
    yield f'<h2 style="{_TITLE}">{escape(section.title)}</h2>\n<ul style="{_LIST}">'
    for item in section.items:
        details = "".join(f'<div style="{_DETAIL}">{escape(detail)}</div>' for detail in item.details)
        yield f'<li style="{_ITEM}">{escape(item.text)}{details}</li>'
    yield "</ul>"
