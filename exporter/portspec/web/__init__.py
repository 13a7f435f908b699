"""The HTTP server. The only place for aiohttp."""

from portspec.web.server import Listener, WebServer, parse_listen_address

__all__ = ["Listener", "WebServer", "parse_listen_address"]
