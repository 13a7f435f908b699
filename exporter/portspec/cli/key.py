"""`portspec key`: the key with which a host signs its audits, and the one that signs the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portspec import log
from portspec.audit.envelope import key_of
from portspec.cli.output import write
from portspec.errors import UsageError
from portspec.inventory import audited_hosts, targets
from portspec.names import canonical_one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.config import Config


def key(config: Config, host: str) -> int:
    """Print the key of a host, 64 hexadecimal digits; warn about a host that is not audited."""
    if config.audit is None:
        raise UsageError(f"{config.path}: has no audit block; keys are derived from its passphrase")
    try:
        name = canonical_one(host)
    except ValueError as error:
        raise UsageError(str(error)) from None
    for warning in _warnings(config, name):
        log.warn(warning)
    if not host.isascii():
        log.warn(f"the configuration of its agent must name it {name}")
    write(f"{key_of(name, config.audit.passphrases[0]).hex()}\n")
    return 0


def agent_key(config: Config) -> int:
    """Print what the agent is checked with before root runs it: the file for ssh-keygen -Y verify -f.

    Raises AgentKeyError, and UsageError where nobody knows which file has the key.
    """
    import hashlib
    from importlib.resources import files

    from portspec.audit.agent_key import AgentKey
    from portspec.store import find_state_file

    location = find_state_file(config)
    if not location.is_certain:
        raise UsageError(location.why)
    key = AgentKey.beside(location.path)
    program = files("portspec").joinpath("agent.py").read_bytes()
    write(
        f"# SHA-256 of the agent: {hashlib.sha256(program).hexdigest()}\n"
        f"# fingerprint of the key that signs it: {key.fingerprint}\n"
        f"{key.allowed_signers}\n"
    )
    return 0


def _warnings(config: Config, name: str) -> Iterator[str]:
    """Yield a warning if a host is not audited; sources of discovery are only polled if their hosts are audited."""
    if name in audited_hosts(config, targets(config)):
        return
    if any(source.entry.is_audited for source in config.discovery):
        import asyncio

        from portspec.cli.check import source_warnings
        from portspec.inventory.discovery import Discovery

        discovery = Discovery(config.discovery)
        asyncio.run(discovery.refresh_all())
        if name in audited_hosts(config, targets(config, discovery.hosts)):
            return
        yield from source_warnings(discovery.stats)
    yield (
        f"{name} is not an audited host of {config.path}: its audits are rejected until it is listed in audit.hosts, "
        "or has audit: true under hosts or on its source of discovery"
    )
