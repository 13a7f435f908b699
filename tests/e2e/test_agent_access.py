"""An agent and an exporter that requires TLS, a client certificate, or a token also for audits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import bcrypt
import pytest
import trustme

from tests.e2e.audits import Agent, configure, key
from tests.e2e.exporter import exporter
from tests.e2e.test_front_door import Files

if TYPE_CHECKING:
    from pathlib import Path

HOST: Final = "db1.example.org"
TOKEN: Final = "token-of-db1-0123456789"  # noqa: S105 - of a test
PASSWORD: Final = "correct horse"  # noqa: S105 - the same
CERTIFIED: Final[dict[str, Any]] = {
    "tls": {"client_ca_file": "ca.pem", "client_auth_type": "RequireAndVerifyClientCert"},
    "roles": {HOST: "audit"},
}
TOKENS: Final[dict[str, Any]] = {"tokens": {"db1": {"token": TOKEN, "role": "audit"}}}
USERS: Final[dict[str, Any]] = {
    "basic_auth_users": {"db1": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()},
    "roles": {"db1": "audit"},
}


@pytest.mark.parametrize(
    ("access", "proof", "refusal"),
    [
        (CERTIFIED, {"cert_file": "db1.pem"}, "could not be sent to "),
        (
            TOKENS,
            {"token_file": "db1.token"},
            "was not accepted: this requires a user with a password, or a token (401 ",
        ),
        (
            USERS,
            {"url": "db1:correct%20horse@"},
            "was not accepted: this requires a user with a password, or a token (",
        ),
    ],
    ids=["certificate", "token", "password"],
)
def test_agent_shows_who_it_is(tmp_path: Path, access: Any, proof: dict[str, str], refusal: str) -> None:
    """Without what the exporter requires the audit waits, with the reason told; with it the audit is accepted."""
    files = Files.make(tmp_path, anonymous=[], **access)
    client = files.authority.issue_cert(HOST)
    client.private_key_and_cert_chain_pem.write_to_path(files.path("db1.pem"))
    (tmp_path / "db1.token").write_text(f"{TOKEN}\n", encoding="ascii")
    for name in ("db1.pem", "db1.token"):
        (tmp_path / name).chmod(0o600)
    conf = configure(tmp_path / "conf.yml", [HOST])
    agent = Agent(tmp_path / "db1", HOST, key(conf, HOST))
    with exporter(conf, "--web.config.file", files.path("web.yml")) as service:
        plain = {"url": f"https://{service.address}", "ca_file": files.path("ca.pem")}
        agent.configure(**plain)
        done = agent.send()
        assert (done.code, len(agent.waiting())) == (75, 1), done
        assert refusal in done.errors
        shown = {name: files.path(value) for name, value in proof.items() if name != "url"}
        agent.configure(**plain | shown | {"url": f"https://{proof.get('url', '')}{service.address}"})
        done = agent.send("--flush", "--now")
        assert (done.code, done.errors, agent.waiting()) == (0, "", []), done


def test_agent_believes_no_exporter_with_the_wrong_authority(tmp_path: Path) -> None:
    """With TLS of another authority nothing is sent, though the audit would be signed in any case."""
    files = Files.make(tmp_path)
    trustme.CA().cert_pem.write_to_path(files.path("other.pem"))
    conf = configure(tmp_path / "conf.yml", [HOST])
    agent = Agent(tmp_path / "db1", HOST, key(conf, HOST))
    with exporter(conf, "--web.config.file", files.path("web.yml")) as service:
        agent.configure(url=f"https://{service.address}", ca_file=files.path("other.pem"))
        done = agent.send()
    assert (done.code, len(agent.waiting())) == (75, 1)
    assert "the certificate is not trusted: " in done.errors
