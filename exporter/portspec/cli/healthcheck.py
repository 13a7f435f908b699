"""`portspec healthcheck`: ask a running exporter for its health, for the health check of a container without curl."""

from __future__ import annotations

import http.client
import ssl
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from portspec.cli.arguments import DEFAULT_URL
from portspec.cli.output import write
from portspec.errors import PortspecError, UsageError, printable
from portspec.names import address_of, query_name

PATH: Final = "/-/healthy"
TIMEOUT: Final = 10.0  # seconds for the connection, and for the answer


def healthcheck(
    url: str, *, ca_file: str | None = None, cert_file: str | None = None, is_insecure: bool = False
) -> int:
    """Return 0 if the exporter at `url` says that it is healthy, else 1.

    Raises UsageError for what is no URL, and for a file that holds no certificate.
    """
    try:
        answer = _ask(url, _trust(ca_file, cert_file, is_insecure=is_insecure))
    except UsageError:
        raise
    except PortspecError as error:
        write(f"unhealthy: {error}\n")
        return 1
    write(answer)
    return 0


def _trust(ca_file: str | None, cert_file: str | None, *, is_insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one, for a file that holds no certificate
        why = "no certificate in PEM format" if isinstance(error, ssl.SSLError) else (error.strerror or "").lower()
        raise UsageError(f"--ca-file: {printable(ca_file or '')}: {why}") from None
    if cert_file:
        try:
            context.load_cert_chain(cert_file, password="")  # and not a question for the password
        except OSError as error:
            is_tls = isinstance(error, ssl.SSLError)
            why = "no certificate with its key in PEM format" if is_tls else (error.strerror or "").lower()
            raise UsageError(f"--cert-file: {printable(cert_file)}: {why}") from None
    if is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _ask(url: str, trust: ssl.SSLContext) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname
        if host and address_of(host) is None:
            host = query_name(host)
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f'--url: expected a URL such as "{DEFAULT_URL}", found "{printable(url)}"')
    connection = (
        http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=trust)
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    )
    try:
        with closing(connection):
            connection.request("GET", f"{parts.path.rstrip('/')}{PATH}")
            response = connection.getresponse()
            text = response.read(1000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        raise PortspecError(f"{url} does not answer: {why}") from None
    if response.status != http.client.OK:
        raise PortspecError(f"{url}{PATH} answers {response.status}")
    return text
