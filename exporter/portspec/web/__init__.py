"""The HTTP server. The only place for aiohttp."""

from portspec.web.server import ListenAddress, WebServer, parse_listen_address

__all__ = ["ListenAddress", "WebServer", "parse_listen_address"]
