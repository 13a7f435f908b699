"""Load the web config file: read, validate, and build the WebConfig."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from portspec import files
from portspec.access import tls_block
from portspec.access.block import Block
from portspec.access.headers import headers, rate_limit
from portspec.access.model import ALLOW_ALL_HOSTS, Pem, Permission, Role, TlsConfig, Token, WebConfig
from portspec.config.yaml_document import read
from portspec.errors import STANDARD_INPUT, ConfigError, Problem, shorten
from portspec.names import canonical_one

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.access.model import Network

OPTION: Final = "--web.config.file"
MIN_TOKEN: Final = 16  # characters
MAX_TOKEN: Final = 4096
EXPENSIVE_COST: Final = 14  # above: more than a second of a processor for each password that is tried
KEYS: Final = (
    "tls_server_config",
    "http_server_config",
    "basic_auth_users",
    "rate_limit",
    "roles",
    "tokens",
    "anonymous",
    "trusted_proxies",
    "user_header",
    "allowed_hosts",
)
_ROLES: Final = {role.value: role for role in Role}
_PERMISSIONS: Final = {permission.value: permission for permission in Permission}
# The versions that Go's bcrypt and Python's both take. The 53 characters are 22 of salt and 31 of hash.
_HASH: Final = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1
_HEADER: Final = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2, without the _ that proxies drop
_HINT: Final = "`openssl rand -base64 24` generates one"


def load_web_config(path: str | os.PathLike[str], environment: Mapping[str, str] = os.environ) -> WebConfig:
    """Read and check a web config file, and the files of its tokens; those of certificates are for tls.py.

    `environment` serves ${NAME}. Raises ConfigError, which holds every problem of the file with its line.
    """
    if str(path) == STANDARD_INPUT:
        raise ConfigError(STANDARD_INPUT, [Problem(0, "", f"cannot be the web config file; name a file with {OPTION}")])
    file = Path(path)
    source = read(file, environment, option=OPTION, may_be_empty=True)
    root = Block(source, (), source.value, KEYS)
    warnings: list[str] = []
    tls = tls_block.tls_config(root.block("tls_server_config", tls_block.KEYS), file.parent, warnings)
    http = root.block("http_server_config", ("http2", "headers"))
    http2 = http.flag("http2", default=True)
    if http2 and "http2" in http:
        warnings.append("http_server_config.http2: portspec serves HTTP/1.1 only")
    users = _users(root.block("basic_auth_users"), warnings)
    tokens, token_files = _tokens(root.block("tokens"), file.parent)
    trusted_proxies = _trusted_proxies(root, warnings)
    user_header = _user_header(root, has_proxies=bool(trusted_proxies) or "trusted_proxies" in root)
    roles = _roles(root.block("roles"))
    has_users = bool(users or tokens or user_header)
    config = WebConfig(
        path=str(path),
        tls=tls,
        http2=http2,
        headers=headers(http.block("headers")),
        users=users,
        tokens=tokens,
        roles=roles,
        anonymous=_anonymous(root, warnings, has_users=has_users),
        rate_limit=rate_limit(root.block("rate_limit", ("interval", "burst"))),
        trusted_proxies=trusted_proxies,
        user_header=user_header,
        allowed_hosts=_allowed_hosts(root),
        files=(str(path), *_pem_files(tls), *token_files),
        trusted=_trusted(str(path), tls, token_files, root),
    )
    if source.problems:
        raise ConfigError(str(path), source.problems)
    return _with_warnings(config, warnings)


def _with_warnings(config: WebConfig, warnings: list[str]) -> WebConfig:
    if not config.tls and not config.trusted_proxies and (config.users or config.tokens):
        warnings.append(
            "passwords and tokens cross the network unencrypted; set tls_server_config, or trusted_proxies if a proxy "
            "with TLS is in front"
        )
    if not (config.tls and config.tls.client_ca) and not config.user_header:
        warnings.extend(
            f"roles.{name}: there is no user of that name in basic_auth_users"
            for name in config.roles
            if name not in config.users
        )
    return replace(config, warnings=tuple(warnings))


def _users(block: Block, warnings: list[str]) -> Mapping[str, str]:
    users: dict[str, str] = {}
    for name in block.keys:
        secret = block.text(name)
        found = _HASH.fullmatch(secret) if secret else None
        if found is None or secret is None:
            message = "expected a password hashed with bcrypt, such as `htpasswd -nBC 10 NAME` prints after the colon"
            block.problem(name, message)
        elif not name or ":" in name:
            block.problem(name, "a user name is not empty and has no colon (RFC 7617)")
        else:
            users[name] = secret
            if int(found[1]) > EXPENSIVE_COST:
                warnings.append(f"basic_auth_users.{name}: each try of a password at cost {found[1]} takes seconds")
    return MappingProxyType(users)


def _tokens(block: Block, directory: Path) -> tuple[tuple[Token, ...], tuple[str, ...]]:
    """Return the tokens, and the files that some are in."""
    found: list[Token] = []
    paths: list[str] = []
    names: dict[bytes, str] = {}
    for name in block.keys:
        item = block.block(name, ("token", "token_file", "role"))
        if "role" not in item:
            item.problem(None, f"requires a role ({', '.join(_ROLES)})")
        role = item.choice("role", _ROLES, Role.READ)
        if ("token" in item) == ("token_file" in item):
            item.problem(None, f"requires either token or token_file ({_HINT})")
            continue
        if file := item.text("token_file"):
            paths.append(str(directory / file))
        token = _token(item, paths[-1]) if file else _strong(item, "token", item.text("token"), "")
        if token is None:
            continue
        digest = hashlib.sha256(token.encode()).digest()
        if other := names.get(digest):
            item.problem(None, f'has the same token as "{shorten(other)}"')
        names[digest] = name
        found.append(Token(name, digest, role))
    return tuple(found), tuple(paths)


def _token(item: Block, path: str) -> str | None:
    try:
        data = files.read_regular(path, MAX_TOKEN + 1)
    except (OSError, ValueError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "not a path"
        item.problem("token_file", f'the file "{path}" cannot be read: {why}')
        return None
    return _strong(item, "token_file", data.decode("utf-8-sig", "replace"), f'the file "{path}": ')


def _strong(item: Block, key: str, token: str | None, where: str) -> str | None:
    """Return a token without surrounding blanks; None, after a problem that does not quote it, if it is not valid."""
    token = (token or "").strip()
    if len(token) < MIN_TOKEN:
        item.problem(key, f"{where}expected at least {MIN_TOKEN} characters ({_HINT})")
    elif len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
        item.problem(key, f"{where}expected letters, digits and -._~+/ (RFC 6750); {_HINT}")
    else:
        return token
    return None


def _roles(block: Block) -> Mapping[str, Role]:
    for name in block.keys:
        if name not in block:
            block.problem(name, f"expected a role ({', '.join(_ROLES)})")
    return MappingProxyType({name: block.choice(name, _ROLES, Role.READ) for name in block.keys})


def _anonymous(root: Block, warnings: list[str], *, has_users: bool) -> frozenset[Permission]:
    words = root.texts("anonymous")
    if words is None:
        return frozenset({Permission.AUDIT}) if has_users else WebConfig.default().anonymous
    found = frozenset(root.choose("anonymous", word, _PERMISSIONS, Permission.AUDIT, place) for place, word in words)
    if Permission.ACT in found:
        warnings.append("anonymous: everybody who reaches the port may start scans and reload the configuration")
    return found


def _trusted_proxies(root: Block, warnings: list[str]) -> tuple[Network, ...]:
    found: list[Network] = []
    for place, text in root.texts("trusted_proxies") or ():
        try:
            network = ipaddress.ip_network(text.strip())
        except ValueError:
            message = f'"{shorten(text)}" is not an address or a CIDR, such as "192.0.2.1" or "2001:db8::/64"'
            root.problem("trusted_proxies", message, place)
            continue
        if network.prefixlen == 0:
            warnings.append(f"trusted_proxies: {network} trusts every client to name its address and user")
        found.append(network)
    return tuple(found)


def _user_header(root: Block, *, has_proxies: bool) -> str | None:
    name = root.text("user_header")
    if name is None:
        return None
    if not _HEADER.fullmatch(name) or name.lower() in {"authorization", "host", "cookie", "forwarded"}:
        root.problem("user_header", f'"{shorten(name)}" is not a header for a name, such as X-Remote-User')
    if not has_proxies:
        root.problem("user_header", "requires trusted_proxies, which may set it")
    return name


def _allowed_hosts(root: Block) -> frozenset[str]:
    found: list[str] = []
    for place, text in root.texts("allowed_hosts") or ():
        if text == ALLOW_ALL_HOSTS:
            found.append(text)
            continue
        prefix = "*." if text.startswith("*.") else ""
        try:
            found.append(prefix + canonical_one(text.removeprefix(prefix)))
        except ValueError:
            message = "is not the name of a host without port and scheme, nor *.example.org for all names below it"
            root.problem("allowed_hosts", f'"{shorten(text)}" {message}', place)
    return frozenset(found)


def _pem_files(tls: TlsConfig | None) -> tuple[str, ...]:
    pems: tuple[Pem | None, ...] = (tls.certificate, tls.key, tls.client_ca) if tls else ()
    return tuple(pem.path for pem in pems if pem and pem.path)


def _trusted(
    path: str, tls: TlsConfig | None, token_files: tuple[str, ...], root: Block
) -> tuple[tuple[str, bool], ...]:
    """Return the files whose content decides, and of each whether it holds a secret, as config/trust.py takes it."""
    tokens = root.block("tokens")
    has_token = any("token" in tokens.block(name) for name in tokens.keys)
    has_key = bool(tls and tls.key.text)
    key_file = tls.key.path if tls else None
    return (
        (path, has_token or has_key or "basic_auth_users" in root),  # hashes can be guessed at
        *((file, file == key_file) for file in _pem_files(tls)),
        *((file, True) for file in token_files),
    )
