"""How portspec asks others over HTTP: a new connection each time, no proxy, and no look-up that holds up the end."""

from __future__ import annotations

import os
import socket
import ssl

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from portspec import __version__
from portspec.threads import in_daemon_thread

USER_AGENT = f"portspec/{__version__}"
FAILURES = (aiohttp.ClientError, OSError, ValueError)  # what a question may raise beside NoThreadError; for why()


def open_session(trust: ssl.SSLContext | bool = True) -> aiohttp.ClientSession:  # noqa: FBT001, FBT002 - as aiohttp has it
    """Make a session for one question. It has no limits of time: the caller sets one, of all of it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=_Resolver(), use_dns_cache=False, ssl=trust, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        headers={"User-Agent": USER_AGENT},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # no proxy, no password from ~/.netrc
    )


async def ask_status(url: str) -> int:
    """Ask a URL and give the status of its answer, whose body is not read. No redirect is followed.

    Raises one of FAILURES, or NoThreadError.
    """
    async with open_session() as session, session.get(url, allow_redirects=False) as response:
        response.close()
        return response.status


def why(error: Exception) -> str:  # noqa: PLR0911 - one line for each kind
    """Say what went wrong, without a word that may be secret."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return "the server's certificate is not trusted"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, socket.gaierror):
            return f"the name of the server does not resolve ({(error.os_error.strerror or 'no address').lower()})"
        case aiohttp.ClientSSLError():
            return "no TLS connection can be made"
        case aiohttp.ServerDisconnectedError():
            return "the server hangs up without an answer"
        case aiohttp.ClientConnectorError():  # its text has addresses and Python's own words
            number = error.os_error.errno
            reason = os.strerror(number).lower() if number else "no address answers"
            return f"no connection to {error.host} port {error.port}: {reason}"
        case OSError() if error.strerror:
            return error.strerror.lower()
        case _:
            return f"not an answer in HTTP ({type(error).__name__})"


class _Resolver(AbstractResolver):
    """getaddrinfo(3) in a daemon thread: aiohttp's own would hold up the end of the program."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look a name up; OSError if there is no address."""
        found = await in_daemon_thread(lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""
