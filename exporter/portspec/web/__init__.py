"""The HTTP server. The only place for aiohttp."""

from portspec.web.address import ListenAddress, ListenerName, parse_listen_address
from portspec.web.gate import Gate
from portspec.web.server import WebServer
from portspec.web.sockets import inherited

__all__ = ["Gate", "ListenAddress", "ListenerName", "WebServer", "inherited", "parse_listen_address"]
