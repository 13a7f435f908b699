"""http_sd: a URL that answers with target groups."""

from __future__ import annotations

import asyncio
import base64
import math
import ssl
import zlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from portspec import client, files
from portspec.config.yaml_document import MAX_BYTES
from portspec.errors import NoThreadError
from portspec.inventory.discovery.hosts import Answer, find_hosts
from portspec.inventory.discovery.targetgroups import ListError, read_json
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.config.model import HttpSource

MAX_REDIRECTS = 5
MAX_SECRET_BYTES = 65_536  # bytes of a file that holds one
_CHUNK = 65_536  # bytes
_ANY_HEADER = zlib.MAX_WBITS | 32  # gzip or zlib, whichever the header says
_RAW_DEFLATE = -zlib.MAX_WBITS  # deflate without a header, which some servers send under that name
_ENCODINGS = {"gzip": _ANY_HEADER, "x-gzip": _ANY_HEADER, "deflate": _ANY_HEADER}  # RFC 9110, 8.4.1


class HttpClient:
    """Asks one URL, each time over a new connection: once a minute there is nothing to gain from an old one.

    No failure quotes the URL's query, a secret, or what the server wrote.
    """

    poll = math.inf

    def __init__(self, source: HttpSource, *, max_bytes: int = MAX_BYTES) -> None:
        self._source = source
        self._max_bytes = max_bytes
        parts = urlsplit(source.url)
        self._place = f"{parts.scheme}://{parts.netloc}{parts.path}"  # the query may hold a secret

    async def ask(self) -> Mapping[str, Answer]:
        """Ask the URL; there is one answer."""
        return {self._place: await self._answer()}

    async def is_changed(self) -> bool:
        """Return False: this source cannot signal changes."""
        return False

    async def _answer(self) -> Answer:
        source = self._source
        try:
            async with asyncio.timeout(source.timeout):
                body, schemes = await self._fetch()
                return await in_daemon_thread(lambda: self._read(body, schemes))
        except TimeoutError:
            why = f"no complete answer within {source.timeout:g} s"
        except (ListError, ContentEncodingError) as error:
            why = f"the answer {error}"
        except _InvalidAnswerError as error:
            why = str(error)
        except (*client.FAILURES, NoThreadError) as error:
            why = _why(error)
        return Answer(failure=why)

    def _read(self, body: bytes, schemes: tuple[str, ...]) -> Answer:
        """Build hosts from an answer; blocks."""
        body = unpack(body, schemes, self._max_bytes)
        if len(body) > self._max_bytes:
            raise self._too_large()
        return find_hosts(read_json(body), self._source.entry)

    async def _fetch(self) -> tuple[bytes, tuple[str, ...]]:
        authorization, trust = await in_daemon_thread(self._prepare)
        # Not compressed: a list is small, and what some servers compress all the same is unpacked up to the limit.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if authorization:
            headers["Authorization"] = authorization
        async with (
            client.open_session(trust) as session,
            session.get(self._source.url, headers=headers, max_redirects=MAX_REDIRECTS) as response,
        ):
            return await self._body(response), check_encodings(response.headers.get("Content-Encoding", ""))

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """Read an answer piece by piece, and no further than the limit."""
        if response.status != 200:  # noqa: PLR2004 - OK
            raise _InvalidAnswerError(f"the server answers {response.status}")
        body = bytearray()
        if (response.content_length or 0) <= self._max_bytes:
            async for chunk in response.content.iter_chunked(_CHUNK):
                body += chunk
                if len(body) > self._max_bytes:
                    break
            else:
                return bytes(body)
        raise self._too_large()

    def _too_large(self) -> _InvalidAnswerError:
        return _InvalidAnswerError(f"the answer is larger than {self._max_bytes // 2**20} MiB")

    def _prepare(self) -> tuple[str | None, ssl.SSLContext | bool]:
        """Read the files that may have changed since; this blocks."""
        source = self._source
        trust: ssl.SSLContext | bool = True
        if source.ca_file:
            try:
                files.require_regular(source.ca_file)
                trust = ssl.create_default_context(cafile=source.ca_file)
            except OSError as error:  # ssl.SSLError is one, of words that help nobody
                why = "" if isinstance(error, ssl.SSLError) else f": {_why(error)}"
                raise _InvalidAnswerError(f"ca_file cannot be read as certificates in PEM{why}") from None
        token = _secret(source.bearer_token, source.bearer_token_file, "bearer_token")
        if token is not None:
            return f"Bearer {token}", trust
        if source.username is None:
            return None, trust
        password = _secret(source.password, source.password_file, "password")
        pair = f"{source.username}:{password or ''}".encode()  # RFC 7617, with UTF-8
        return f"Basic {base64.b64encode(pair).decode()}", trust


class _InvalidAnswerError(Exception):
    """What the server gave, or what was to be sent, is not what it has to be; the message is for people."""


def _secret(value: str | None, file: str | None, key: str) -> str | None:
    if file is not None:
        try:
            value = files.read_regular(file, MAX_SECRET_BYTES).decode().strip("\r\n")
        except OSError as error:
            raise _InvalidAnswerError(f"{key}_file cannot be read: {_why(error)}") from None
        except UnicodeError:
            raise _InvalidAnswerError(f"{key}_file cannot be read: it is not a text file") from None
    if value is not None and key == "bearer_token" and not (value.isascii() and value.isprintable()):
        raise _InvalidAnswerError("bearer_token has characters that no HTTP header can carry")
    return value


def _why(error: Exception) -> str:
    """Return what went wrong, without anything that may be secret."""
    match error:
        case aiohttp.TooManyRedirects():
            return f"more than {MAX_REDIRECTS} redirects"
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return f"{client.why(error)} (ca_file names other authorities than the system's)"
        case aiohttp.ClientPayloadError():
            return "the answer is truncated"
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | aiohttp.RedirectClientError():
            return "the URL, or the one that it redirects to, is not valid"
        case _:
            return client.why(error)


class ContentEncodingError(Exception):
    """What cannot be unpacked; the message says why."""


def check_encodings(header: str) -> tuple[str, ...]:
    """Return the schemes of a Content-Encoding in the order of their application. Raises ContentEncodingError."""
    schemes = tuple(word for part in header.split(",") if (word := part.strip().lower()) not in {"", "identity"})
    if any(scheme not in _ENCODINGS for scheme in schemes) or len(schemes) > 1:
        raise ContentEncodingError("has an unsupported compression (supported: gzip, deflate)")
    return schemes


def unpack(data: bytes, schemes: tuple[str, ...], max_bytes: int) -> bytes:
    """Unpack an answer; return at most `max_bytes`, and one byte more if there is more. Raises ContentEncodingError."""
    for scheme in schemes:
        try:
            data = _inflate(data, _ENCODINGS[scheme], max_bytes + 1)
        except zlib.error:
            if scheme != "deflate":
                raise ContentEncodingError(f"is not {scheme}, as its header says") from None
            try:
                data = _inflate(data, _RAW_DEFLATE, max_bytes + 1)
            except zlib.error:
                raise ContentEncodingError("is not deflate, as its header says") from None
    return data


def _inflate(data: bytes, window: int, most: int) -> bytes:
    """Unpack one stream or, as gzip has it, several, one behind the other."""
    found = bytearray()
    while data and len(found) < most:
        stream = zlib.decompressobj(window)
        found += stream.decompress(data, most - len(found))
        if not stream.eof and len(found) < most:
            raise ContentEncodingError("is truncated")
        data = stream.unused_data.lstrip(b"\0")  # gzip(1) ignores zeros behind a stream, too
    return bytes(found)
