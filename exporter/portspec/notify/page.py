"""A mail as HTML: the words of the text, in the calm style of the pages. Pure.

Styles stand at each element, since many clients drop a <style>. There is no colour of text or background, so that a
dark page stays readable: what is bad is told by the words and, for those who see it, by a bar beside them.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from portspec.notify.content import Tone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.notify.content import Content, Section

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


def page(content: Content) -> str:
    """Write a mail as HTML."""
    return "\n".join(_page(content)) + "\n"


def _page(content: Content) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">\n<meta name="supported-color-schemes" content="light dark">'
    yield f'</head>\n<body style="{_BODY}">'
    yield f'<p style="{_HEADLINE.format(bar=_BARS[content.tone])}">{escape(content.headline)}</p>'
    for paragraph in content.paragraphs:
        yield f'<p style="{_PARAGRAPH}">{escape(paragraph)}</p>'
    for section in content.sections:
        yield from _section(section)
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


def _section(section: Section) -> Iterator[str]:
    yield f'<h2 style="{_TITLE}">{escape(section.title)}</h2>\n<ul style="{_LIST}">'
    for item in section.items:
        details = "".join(f'<div style="{_DETAIL}">{escape(detail)}</div>' for detail in item.details)
        yield f'<li style="{_ITEM}">{escape(item.text)}{details}</li>'
    yield "</ul>"
