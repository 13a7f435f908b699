"""What is known of vulnerabilities beyond their hosts: which are exploited (KEV), and how likely others will be (EPSS).

    file or URL ─► app/feeds.py ─► kev.py, epss.py ─► Feeds ─► audit/priority.py

Both are lists that others publish, so what they contain is checked as what hosts send is. Everything here is pure.
"""

from portspec.feeds.epss import Epss
from portspec.feeds.errors import FeedError
from portspec.feeds.kev import Kev, KevEntry
from portspec.feeds.model import MAX_PACKED, NO_FEEDS, FeedName, Feeds, read_feed

__all__ = ["MAX_PACKED", "NO_FEEDS", "Epss", "FeedError", "FeedName", "Feeds", "Kev", "KevEntry", "read_feed"]
