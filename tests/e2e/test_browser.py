"""The pages in Chromium, as people use them: with and without JavaScript, by keyboard, in all sizes."""

from __future__ import annotations

import socket
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import expect, sync_playwright

from tests.e2e.exporter import PATIENCE, Exporter, exporter, write
from tests.requirements import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

BAD: Final = "127.62.1.1"
GOOD: Final = tuple(f"127.62.1.{number}" for number in range(2, 40))
WIDTHS: Final = (360, 768, 1280, 2560)
ACCEPT: Final = f"/hosts/{BAD}/accept?what=80&reason=a+test"
PAGES: Final = ("/", "/?kiosk=1", f"/hosts/{BAD}", ACCEPT, "/changes", "/status", "/config", "/hosts/gone")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run Debian's Chromium."""
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(
            executable_path=require("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield one
        one.close()


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """Listen on a port of the host that deviates."""
    with closing(socket.create_server((BAD, 0))) as one:
        yield one


@pytest.fixture(scope="module")
def service(listener: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Run an exporter of one host that deviates and many that do not; each is scanned once."""
    directory = tmp_path_factory.mktemp("browser")
    hosts: dict[str, Any] = {host: {"expect": [], "labels": {"team": "web"}} for host in (BAD, *GOOD)}
    conf = write(directory / "conf.yml", hosts, scanports=[listener.getsockname()[1]], interval="1d")
    with exporter(conf) as one:
        one.wait_until_ready()
        yield one


@contextmanager
def opened(browser: Browser, service: Exporter, **options: Any) -> Iterator[Page]:
    """Open a tab that may ask nobody else, and has nothing to complain of."""
    context = browser.new_context(base_url=f"http://{service.address}", **options)
    context.set_default_timeout(1000 * PATIENCE)
    complaints: list[str] = []
    asked: set[str] = set()
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.add(request.url.split("/")[2]))
    try:
        yield page
        assert complaints == []
        assert asked == {service.address}
    finally:
        context.close()


@pytest.mark.parametrize("scripts", [True, False], ids=["with JavaScript", "without"])
def test_way_from_a_deviation_to_its_end(browser: Browser, scripts: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Filter, open the host that deviates, close a port, scan, accept the other one: it is in spec, and logged."""
    with (
        closing(socket.create_server((BAD, 0))) as listener,
        closing(socket.create_server((BAD, 0))) as other,
    ):
        ports = [one.getsockname()[1] for one in (listener, other)]
        conf = write(tmp_path / "conf.yml", {GOOD[0]: [], BAD: []}, scanports=ports, interval="1d", accept=True)
        with exporter(conf) as service, opened(browser, service, java_script_enabled=scripts) as page:
            service.wait_until_ready()
            page.goto("/")
            page.get_by_label("Verdict").select_option("out_of_spec")
            page.get_by_role("button", name="Filter").click()
            assert "verdict=out_of_spec" in page.url
            expect(page.locator("table.hosts tbody tr")).to_have_count(1)
            page.get_by_role("link", name=BAD).click()
            expect(page.locator("header .verdict")).to_have_text("out of spec")
            expect(page.locator(".strip .unexpected")).to_have_count(2)
            listener.close()
            page.get_by_role("button", name="Scan now").click()
            assert "?asked=" in page.url
            _wait_for(page, ".strip .unexpected", str(ports[1]), renews_itself=scripts)
            page.get_by_role("link", name=f"Accept {ports[1]}").click()
            expect(page.get_by_label("The change of conf.yml")).to_contain_text(str(ports[1]))
            page.get_by_label("Reason").fill("a test")
            page.get_by_role("button", name="Show the change").click()
            expect(page.get_by_label("The command")).to_contain_text(f"{BAD} {ports[1]} --until 1w --reason 'a test'")
            page.get_by_role("button", name="Write this change").click()
            expect(page.locator("header .verdict")).to_have_text("in spec")
            assert '"reason": "a test"' in conf.read_text(encoding="utf-8")
            page.get_by_role("link", name="changes", exact=True).click()
            _wait_for(page, "table tr:has-text('accepted')", "a test, by 127.0.0.1", renews_itself=False)
            expect(page.locator("table tr:has-text('closed')")).to_contain_text(str(ports[0]))
            page.get_by_role("link", name=BAD).first.click()
            expect(page.get_by_role("img")).to_be_visible()


def _wait_for(page: Page, selector: str, text: str, *, renews_itself: bool) -> None:
    """Wait until the one element that a selector finds has a text; a page that does not renew itself is read again."""
    for _ in range(int(PATIENCE)):
        found = page.locator(selector)
        if found.count() == 1 and text in found.inner_text():
            return
        page.wait_for_timeout(1000)
        if not renews_itself:
            page.reload()
    raise AssertionError(page.locator("body").inner_text())


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_window(browser: Browser, service: Exporter, width: int) -> None:
    """Tables scroll for themselves, or are lists where there is no room."""
    with opened(browser, service, viewport={"width": width, "height": 900}) as page:
        for path in PAGES[:-1]:
            page.goto(path)
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width, path


def test_print_has_what_can_be_read(browser: Browser, service: Exporter) -> None:
    """On paper there is nothing to fill in or to click on, and it is no wider than a sheet."""
    with opened(browser, service, viewport={"width": 700, "height": 900}) as page:
        page.emulate_media(media="print")
        for path in PAGES[:-1]:
            page.goto(path)
            for one in page.locator("form, nav, footer a").all():
                expect(one).to_be_hidden()
            expect(page.locator("main")).to_be_visible()
            assert page.evaluate("document.scrollingElement.scrollWidth") <= 700, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, service: Exporter, scheme: str) -> None:
    """Contrast, names, roles and order suit a keyboard and a screen reader, by the rules of axe-core."""
    with opened(browser, service, color_scheme=scheme) as page:
        for path in PAGES[:-1]:
            page.goto(path)
            found = Axe().run(page).response["violations"]
            serious = [
                (item["id"], [node["html"] for node in item["nodes"]])
                for item in found
                if item["impact"] in ("serious", "critical")
            ]
            assert serious == [], path


def test_page_renews_itself_and_keeps_its_place(browser: Browser, service: Exporter) -> None:
    """What has changed is put in place; scroll position and focus stay."""
    with opened(browser, service, viewport={"width": 1280, "height": 400}) as page:
        page.clock.install()
        page.goto("/")
        page.get_by_role("link", name=GOOD[20], exact=True).focus()
        before = page.evaluate("scrollY")
        page.evaluate("document.querySelector('main').append('stale')")
        page.clock.run_for(20_000)
        expect(page.get_by_text("stale")).to_have_count(0)
        assert page.evaluate("scrollY") == before > 0
        expect(page.get_by_role("link", name=GOOD[20], exact=True)).to_be_focused()


def test_page_says_when_the_exporter_is_gone(browser: Browser, service: Exporter) -> None:
    """It stays as it was, with a line that says so, until the exporter answers again."""
    context = browser.new_context(base_url=f"http://{service.address}")
    try:
        page = context.new_page()
        page.clock.install()
        page.goto("/")
        expect(page.get_by_role("status")).to_be_hidden()
        context.set_offline(offline=True)
        page.clock.run_for(20_000)
        expect(page.get_by_role("status")).to_be_visible()
        expect(page.locator("table.hosts tbody tr")).to_have_count(1 + len(GOOD))
        context.set_offline(offline=False)
        page.clock.run_for(20_000)
        expect(page.get_by_role("status")).to_be_hidden()
    finally:
        context.close()


def test_page_of_a_host_that_left_leads_back(browser: Browser, service: Exporter) -> None:
    """The way back is a link."""
    context = browser.new_context(base_url=f"http://{service.address}")
    try:
        page = context.new_page()
        answer = page.goto(PAGES[-1])
        assert answer is not None
        assert answer.status == 404
        page.get_by_role("link", name="Show all hosts").click()
        expect(page.locator("h1")).to_have_text(f"{1 + len(GOOD)} hosts")
    finally:
        context.close()


def test_bookmark_shows_the_same_hosts(browser: Browser, service: Exporter) -> None:
    """The address of the page is its state: filter and order, also after a click on a column."""
    with opened(browser, service) as page:
        page.goto("/?verdict=in_spec")
        page.get_by_role("link", name="Host", exact=True).click()
        shown = page.locator("table.hosts tbody th").all_inner_texts()
        with opened(browser, service) as other:
            other.goto(page.url)
            assert other.locator("table.hosts tbody th").all_inner_texts() == shown
        assert len(shown) == len(GOOD)
