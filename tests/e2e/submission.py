"""A Postfix that takes mail as those of providers do: inside TLS, with AUTH LOGIN alone, and with a right EHLO."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import trustme

from tests.e2e.audits import run
from tests.e2e.mailhost import DOMAIN
from tests.e2e.postfix import PostfixHost

LOGIN: Final = "portspec"
PASSWORD: Final = "correct-horse-battery"  # noqa: S105 - of a server that lives for seconds
MAILBOX: Final = f"root@{DOMAIN}"
REFUSED: Final = "refused.example.org"  # as an EHLO

# What is wrong with an EHLO is told at RCPT, as is Postfix's default (smtpd_delay_reject).
_SETTINGS: Final = """\
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_chain_files = {directory}/etc/server.pem
smtpd_tls_received_header = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
smtpd_sasl_local_domain = {domain}
smtpd_sasl_authenticated_header = yes
cyrus_sasl_config_path = {directory}/etc/sasl
smtpd_helo_required = yes
smtpd_helo_restrictions = reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname, {refusal}
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"""
_REFUSAL: Final = "check_helo_access inline:{{ {name}=REJECT }}"
_SASL: Final = """\
pwcheck_method: auxprop
auxprop_plugin: sasldb
mech_list: LOGIN
sasldb_path: {directory}/sasldb2
"""


class SubmissionHost(PostfixHost):
    """One with such a Postfix; mail to MAILBOX ends in a mailbox there. It refuses a client that is called REFUSED."""

    programs = (*PostfixHost.programs, "saslpasswd2", "unshare", "hostname")
    package = "postfix sasl2-bin libsasl2-modules"

    def lacking(self) -> str | None:
        """Say what is not installed; None if nothing is."""
        has_login = any(Path("/usr/lib").glob("**/sasl2/liblogin.so*"))
        return super().lacking() or (None if has_login else f"SASL's LOGIN is not installed (Debian: {self.package})")

    def start(self) -> None:
        """Make a certificate and an account, and start it."""
        etc = self.directory / "etc"
        self.authority = etc / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(etc / "server.pem")
        (etc / "sasl").mkdir()  # Debian's Postfix looks there whatever its settings say
        (etc / "sasl" / "smtpd.conf").write_text(_SASL.format(directory=self.directory), encoding="utf-8")
        accounts = self.directory / "sasldb2"
        add = self.inside("saslpasswd2", "-c", "-p", "-f", str(accounts), "-u", DOMAIN, LOGIN)
        done = run(*add, stdin=PASSWORD.encode())
        assert done.code == 0, done.errors
        shutil.chown(accounts, "postfix")
        super().start()

    def settings(self) -> str:
        """Return what main.cf has otherwise than that of mere mail hosts."""
        return _SETTINGS.format(directory=self.directory, domain=DOMAIN, refusal=_REFUSAL.format(name=REFUSED))

    def take_all_names(self) -> None:
        """Refuse no client for its name any more."""
        done = run(*self.inside("postconf", "-c", self.environment["MAIL_CONFIG"], "-e", "smtpd_helo_restrictions="))
        assert done.code == 0, done.errors
        self.reload()
