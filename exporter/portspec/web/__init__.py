"""The HTTP server. The only place for aiohttp and jinja2."""

from portspec.web.server import Listener, WebServer, parse_listen_address

__all__ = ["Listener", "WebServer", "parse_listen_address"]
