"""Lists of exploited and of likely exploited vulnerabilities, as others publish them."""

from __future__ import annotations

import random
import tracemalloc
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.feeds import MAX_PACKED, NO_FEEDS, FeedError, FeedName, Feeds, KevEntry, read_feed
from portspec.feeds.cve import number_of
from portspec.feeds.epss import read_epss
from portspec.feeds.kev import read_kev
from tests.unit.feeds.lists import EPSS_HEAD, epss, kev, packed

LOG4J, OTHER = "CVE-2021-44228", "CVE-2026-12347"
SCORES = [(LOG4J, 0.94358), (OTHER, 0.00043), ("CVE-1999-0001", 1.0)]
CVES = st.builds("CVE-{}-{:04}".format, st.integers(1990, 2099), st.integers(0, 10**9))


@pytest.mark.parametrize("pack", [bytes, packed])
def test_lists_are_looked_up_by_any_name(pack: type[bytes]) -> None:
    """Compressed or not; of several scores the highest counts."""
    feeds = NO_FEEDS
    for name, data in ((FeedName.KEV, kev(LOG4J, OTHER)), (FeedName.EPSS, epss(SCORES))):
        feeds = feeds.having(read_feed(name, pack(data)))
    assert feeds.exploited(["GHSA-x", LOG4J]) == KevEntry(date(2026, 1, 2), is_ransomware=False)
    assert feeds.exploited([OTHER]) == KevEntry(date(2026, 1, 2), is_ransomware=True)
    assert feeds.exploited(["GHSA-x", "CVE-2021-4422"]) is None
    assert feeds.score([OTHER, "GHSA-x", LOG4J]) == pytest.approx(0.94358)
    assert feeds.score(["CVE-2021-44229", "nothing", ""]) is None
    assert [len(found) for name in FeedName if (found := feeds.known(name))] == [2, 3]


@pytest.mark.parametrize("score", [0.01, 0.1, 0.7, 0.9, 0.95])
def test_score_is_not_less_than_its_own_number(score: float) -> None:
    """So that a rule with this threshold holds."""
    assert (read_epss(epss([(LOG4J, score)])).score(LOG4J) or 0.0) >= score


def test_list_that_is_not_known_tells_nothing() -> None:
    """As one that is not configured."""
    assert (NO_FEEDS.exploited([LOG4J]), NO_FEEDS.score([LOG4J]), bool(NO_FEEDS)) == (None, None, False)
    kept = Feeds(read_kev(kev(LOG4J)), read_epss(epss(SCORES)))
    assert kept.only([FeedName.KEV]) == Feeds(kept.kev)
    assert kept.only(FeedName) is kept


@given(st.dictionaries(CVES, st.floats(0, 1), min_size=1, max_size=50), st.randoms(), CVES)
def test_each_score_is_that_of_its_row(scores: dict[str, float], order: random.Random, other: str) -> None:
    """In whatever order the rows are; of a CVE that is not in the list there is none."""
    rows = list(scores.items())
    order.shuffle(rows)
    found = read_epss(epss(rows))
    for cve, score in scores.items():
        assert found.score(cve) == pytest.approx(score, abs=1e-5)
    if other not in scores:
        assert found.score(other) is None


@given(st.lists(CVES, unique=True))
def test_no_two_cves_have_the_same_number(cves: list[str]) -> None:
    """And what is no CVE has none."""
    assert len({number_of(cve) for cve in cves}) == len(cves)
    assert all(number_of(cve.lower()) is None for cve in cves)


HTML = b"<!DOCTYPE html>\n<html><title>Sign in</title></html>"
WHOLE_KEV, WHOLE_EPSS = kev(LOG4J, OTHER), epss(SCORES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HTML, "is HTML or XML; is the URL or path that of a page about it?"),
        (b"\n  " + HTML, "is HTML or XML"),
        (b"", "is not CISA's catalogue of exploited vulnerabilities in JSON"),
        (b"[]", "is not CISA's catalogue"),
        (WHOLE_KEV[:-1], "is not CISA's catalogue"),
        (packed(WHOLE_KEV)[:-20], "is cut off: its gzip data does not end"),
        (b"\x1f\x8b" + bytes(100), "is damaged"),
        (kev(LOG4J, count=2), "has 1 entries, and by its own count 2"),
        (kev(), "has 0 entries"),
        (kev("CVE-2021-1"), "has no CVE in cveID of entry 1"),
        (kev(LOG4J, "GHSA-aaaa"), "has no CVE in cveID of entry 2"),
        (kev(LOG4J).replace(b'"2026-01-02"', b'"soon"'), "has no date in dateAdded of entry 1"),
        (kev(LOG4J, at="yesterday"), "is not CISA's catalogue"),
        (kev(LOG4J, at="2026-11-27T15:00:11"), "has a dateReleased without a time zone"),
        (b'{"a":' * 100_000, "is not CISA's catalogue"),
        (packed(b" " * (65 << 20)), "is larger than 64 MiB when it is unpacked"),
        (packed(b" " * (5 << 20)), "is larger than 4 MiB when it is unpacked"),
        (bytes(MAX_PACKED + 1), "is larger than 16 MiB"),
    ],
)
def test_catalogue_that_cannot_be_used_is_refused(data: bytes, message: str) -> None:
    """With what is wrong, and where."""
    with pytest.raises(FeedError, match=message):
        read_feed(FeedName.KEV, data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HTML, "is HTML or XML"),
        (b"", "is not one of EPSS: it does not begin with #model_version"),
        (WHOLE_KEV, "is not one of EPSS"),
        (WHOLE_EPSS.split(b"\n", 1)[1], "is not one of EPSS"),
        (epss(SCORES, at="2026-13-01T00:00:00Z"), "has no time in score_date"),
        (epss(SCORES, at="2026-11-28T00:00:00"), "has a score_date without a time zone"),
        (WHOLE_EPSS.replace(b"cve,epss", b"epss,cve"), "has other columns than cve,epss,percentile"),
        (WHOLE_EPSS[:-1], "is cut off: its last line does not end"),
        (packed(WHOLE_EPSS)[:-9], "is cut off: its gzip data does not end"),
        (EPSS_HEAD.format(at="2026-11-28T12:00:00Z").encode(), "has no rows"),
        (EPSS_HEAD.format(at="2026-11-28T12:00:00Z").encode()[:-1], "is cut off"),
        (WHOLE_EPSS + b"CVE-2026-1,1\n", "in line 6"),
        (epss([(LOG4J, 1.5)]), "has no CVE with a score from 0 to 1 in line 3"),
        (epss([(LOG4J, float("nan"))]), "in line 3"),
        (WHOLE_EPSS + b"CVE-2026-1234\n", "in line 6"),
        (WHOLE_EPSS + b"\xff\xfe,0.5,0.5\n", "in line 6"),
        (WHOLE_EPSS + b"CVE-2026-1234,0.5" + b"," * 1_000_000 + b"\n", "in line 6"),
        (EPSS_HEAD.format(at="2026-11-28T12:00:00Z").encode()[:-1] + b"," * 1_000_000 + b"\n", "has no rows"),
        (epss([*SCORES, SCORES[0]]), "has a CVE twice, in lines 3 and 6"),
    ],
)
def test_scores_that_cannot_be_used_are_refused(data: bytes, message: str) -> None:
    """With what is wrong, and where."""
    with pytest.raises(FeedError, match=message):
        read_feed(FeedName.EPSS, data)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.sampled_from(FeedName))
def test_any_bytes_are_a_list_or_are_refused(data: bytes, name: FeedName) -> None:
    """No other error."""
    with pytest.raises(FeedError):
        read_feed(name, data)


@given(st.data(), st.sampled_from(FeedName))
def test_list_with_a_piece_missing_is_another_list_or_is_refused(data: st.DataObject, name: FeedName) -> None:
    """Wherever an answer breaks off, what is left is not taken for the whole."""
    whole = WHOLE_KEV if name is FeedName.KEV else packed(WHOLE_EPSS)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FeedError):
        read_feed(name, whole[:cut])


def test_lists_of_their_real_size_take_little_memory() -> None:
    """Both together less than 40 MB while they are read, and 7 MB afterwards."""
    rng = random.Random(1)  # noqa: S311 - no secret
    cves = [f"CVE-{year}-{number:04}" for year in range(1999, 2027) for number in range(1, 12_000)]
    scores = packed(epss((cve, rng.random()) for cve in cves))
    catalogue = kev(*rng.sample(cves, 1500))
    tracemalloc.start()
    try:
        feeds = NO_FEEDS.having(read_feed(FeedName.EPSS, scores)).having(read_feed(FeedName.KEV, catalogue))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert feeds.epss
    assert len(feeds.epss) == len(cves) > 300_000
    assert kept < 7_000_000
    assert most < 40_000_000
