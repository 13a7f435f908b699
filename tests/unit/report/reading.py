"""Reads the page as a browser does, so that tests compare what is seen and not how it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from portspec.report import ReportSettings, write_report
from tests.unit.factories import NOW
from tests.unit.report.fleets import SETTINGS

if TYPE_CHECKING:
    from portspec.state.snapshot import Snapshot

    Attributes = list[tuple[str, str | None]]

_VOID = {"meta", "br"}


@dataclass
class Table:
    """A table: the heading before it, and its rows of cells, whose lines are apart."""

    heading: str
    rows: list[list[str]] = field(default_factory=list)


@dataclass
class Section:
    """A part of the page: what its id is and what it is called, its tables, and its paragraphs."""

    anchor: str
    name: str = ""
    tables: list[Table] = field(default_factory=list)
    paragraphs: list[str] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, list[str]]:
        """The lines of the first table, by label."""
        return {label: text.split("\n") for label, text in self.tables[0].rows}

    def rows(self, heading: str) -> list[list[str]]:
        """Return the rows of the table under a heading, without its head."""
        return next((table.rows[1:] for table in self.tables if table.heading == heading), [])


class Page(HTMLParser):
    """A page: `sections` by anchor, `top` what stands before them, `links` with their texts, and all `tags`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Attributes]] = []
        self.links: list[tuple[str, str]] = []
        self.sections: dict[str, Section] = {}
        self.top = Section("")
        self.title = self.style = self.policy = ""
        self._at = self.top
        self._open: list[str] = []
        self._heading = ""
        self.feed(text)
        self.close()

    @property
    def summary(self) -> dict[str, str]:
        """The lines at the top."""
        return dict(self.top.tables[0].rows) if self.top.tables else {}

    @property
    def pressing(self) -> list[list[str]]:
        """Name and reasons of the machines that need attention."""
        return self.top.tables[1].rows[1:] if len(self.top.tables) > 1 else []

    def named(self, name: str) -> Section:
        """Return the section of a name."""
        return next(section for section in self.sections.values() if section.name == name)

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        """Note a tag."""
        self.tags.append((tag, attrs))
        values = dict(attrs)
        if tag == "section":
            anchor = values["id"] or ""
            assert anchor not in self.sections
            self._at = self.sections[anchor] = Section(anchor)
        elif tag == "table":
            self._at.tables.append(Table(self._heading))
            self._heading = ""
        elif tag == "tr":
            self._at.tables[-1].rows.append([])
        elif tag in ("td", "th"):
            self._at.tables[-1].rows[-1].append("")
        elif tag == "br":
            self._at.tables[-1].rows[-1][-1] += "\n"
        elif tag == "a":
            self.links.append((values["href"] or "", ""))
        elif tag == "p":
            self._at.paragraphs.append("")
        elif tag == "meta" and values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close it, and those whose end need not be written."""
        while self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        """Put text where it belongs."""
        inside = [tag for tag in self._open if tag in ("td", "th", "a", "p", "h3", "h4", "title", "style")]
        if "td" in inside or "th" in inside:
            self._at.tables[-1].rows[-1][-1] += data.replace("\n", "")
        for tag in inside[-1:]:
            if tag == "a":
                self.links[-1] = (self.links[-1][0], self.links[-1][1] + data)
            elif tag == "p":
                self._at.paragraphs[-1] += data
            elif tag == "h3":
                self._at.name += data
            elif tag == "h4":
                self._heading += data
            elif tag == "title":
                self.title += data
            elif tag == "style":
                self.style += data


def page(of: Snapshot, settings: ReportSettings = SETTINGS, now: float = NOW) -> Page:
    """Write the page and read it."""
    return Page(written(of, "html", settings, now))


def written(of: Snapshot, form: str, settings: ReportSettings = SETTINGS, now: float = NOW) -> str:
    """Write a report; it must be possible to encode it."""
    text = "".join(write_report(of, settings, now, form))
    assert text.encode().decode() == text
    return text
