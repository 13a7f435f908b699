"""An exporter with TLS, users and tokens, as curl, a browser and Prometheus see it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import bcrypt
import pytest
import trustme
from cryptography import x509

from tests.e2e.exporter import PATIENCE, Exporter, exporter, prometheus, until, write
from tests.requirements import forbidden, require

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PASSWORD: Final = "correct horse"  # noqa: S105 - of a test
TOKEN: Final = "token-of-the-dashboard-0123456789"  # noqa: S105 - the same
HOSTS: Final[dict[str, list[int]]] = {"127.0.0.1": []}


@dataclass(frozen=True, slots=True)
class Files:
    """Certificates of an authority, and a web configuration file that names them."""

    directory: Path
    authority: trustme.CA

    @classmethod
    def make(cls, directory: Path, **keys: Any) -> Files:
        """Write all files; `keys` are added to the web configuration file."""
        found = cls(directory, trustme.CA())
        found.authority.cert_pem.write_to_path(found.path("ca.pem"))
        found.issue_server("localhost", "127.0.0.1")
        client = found.authority.issue_cert("prometheus@monitoring.example", common_name="prometheus")
        client.private_key_and_cert_chain_pem.write_to_path(found.path("client.pem"))
        found.configure(**keys)
        return found

    def path(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.directory / name)

    def issue_server(self, *names: str) -> int:
        """Write a new certificate of the server; returns its serial number."""
        cert = self.authority.issue_cert(*names)
        cert.private_key_pem.write_to_path(self.path("server.key"))
        cert.cert_chain_pems[0].write_to_path(self.path("server.crt"))
        return x509.load_pem_x509_certificate(cert.cert_chain_pems[0].bytes()).serial_number

    def configure(self, **keys: Any) -> None:
        """Write the web configuration file."""
        tls = {"cert_file": "server.crt", "key_file": "server.key"} | keys.pop("tls", {})
        document = {"tls_server_config": tls} | keys
        (self.directory / "web.yml").write_text(json.dumps(document), encoding="utf-8")

    @contextlib.contextmanager
    def exporter(self) -> Iterator[Exporter]:
        """Run an exporter with the web configuration file."""
        conf = write(self.directory / "conf.yml", HOSTS, scanports=["1"])
        with exporter(conf, "--web.config.file", self.path("web.yml")) as running:
            yield running


@pytest.fixture(scope="module")
def hashed() -> str:
    """Return the bcrypt hash of PASSWORD."""
    return bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode()


def curl(url: str, *arguments: str) -> tuple[int, str]:
    """Return curl's exit code, and the status of the answer ("000" without one)."""
    command = [require("curl"), "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-m", str(PATIENCE), *arguments, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_curl_with_and_without_password_and_token(tmp_path: Path, hashed: str) -> None:
    """Over TLS the right password or token is let in, everything else is 401; plain HTTP gets nothing."""
    files = Files.make(
        tmp_path, basic_auth_users={"alice": hashed}, tokens={"dashboard": {"token": TOKEN, "role": "read"}}
    )
    ca = ("--cacert", files.path("ca.pem"))
    with files.exporter() as running:
        url = f"https://{running.address}/metrics"
        assert curl(url)[0] == 60  # the certificate is of no authority that curl knows (curl(1), EXIT CODES)
        assert curl(url, *ca) == (0, "401")
        assert curl(url, *ca, "-u", f"alice:{PASSWORD}") == (0, "200")
        assert curl(url, *ca, "-u", "alice:wrong") == (0, "401")
        assert curl(url, *ca, "-u", f"bob:{PASSWORD}") == (0, "401")
        assert curl(url, *ca, "-H", f"Authorization: Bearer {TOKEN}") == (0, "200")
        assert curl(url, *ca, "-H", f"Authorization: Bearer {TOKEN[:-1]}") == (0, "401")
        assert curl(f"https://{running.address}/-/healthy", *ca) == (0, "200")
        assert curl(f"http://{running.address}/metrics")[1] == "000"
        reload = f"https://{running.address}/-/reload"
        assert curl(reload, *ca, "-X", "POST", "-u", f"alice:{PASSWORD}") == (0, "200")
        assert curl(reload, *ca, "-X", "POST", "-H", f"Authorization: Bearer {TOKEN}") == (0, "403")


def test_curl_with_and_without_client_certificate(tmp_path: Path) -> None:
    """Without a certificate of the authority there is no connection; with one of a wrong name, nothing but 403."""
    tls = {
        "client_ca_file": "ca.pem",
        "client_auth_type": "RequireAndVerifyClientCert",
        "client_allowed_sans": ["prometheus@monitoring.example"],
    }
    files = Files.make(tmp_path, tls=tls)
    files.authority.issue_cert("other.example").private_key_and_cert_chain_pem.write_to_path(files.path("other.pem"))
    trustme.CA().issue_cert("prometheus@monitoring.example").private_key_and_cert_chain_pem.write_to_path(
        files.path("stranger.pem")
    )
    ca = ("--cacert", files.path("ca.pem"))
    with files.exporter() as running:
        url = f"https://{running.address}/metrics"
        assert curl(url, *ca)[1] == "000"
        assert curl(url, *ca, "--cert", files.path("stranger.pem"))[1] == "000"
        assert curl(url, *ca, "--cert", files.path("client.pem")) == (0, "200")
        assert curl(url, *ca, "--cert", files.path("other.pem")) == (0, "403")


def test_renewed_certificate_is_used_while_a_download_runs(tmp_path: Path, hashed: str) -> None:
    """A new certificate is that of the next connection; one that is open goes on, in the middle of an answer."""
    files = Files.make(tmp_path, basic_auth_users={"alice": hashed})
    context = ssl.create_default_context(cafile=files.path("ca.pem"))
    with files.exporter() as running:
        host, port = running.address.split(":")

        def connect() -> ssl.SSLSocket:
            return context.wrap_socket(socket.create_connection((host, int(port)), PATIENCE), server_hostname=host)

        def serial(connection: ssl.SSLSocket) -> int:
            return int(str((connection.getpeercert() or {})["serialNumber"]), 16)

        with connect() as download:
            first = serial(download)
            download.sendall(b"GET /agent.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            begun = download.recv(1)
            renewed = files.issue_server("localhost", "127.0.0.1")
            assert renewed != first
            with connect() as second:
                assert serial(second) == renewed
            rest = b"".join(iter(lambda: download.recv(65536), b""))
            body = (begun + rest).partition(b"\r\n\r\n")[2]
            assert body.rstrip().endswith(b"sys.exit(main())")


def test_certificate_that_cannot_be_read_is_told_and_the_exporter_goes_on(tmp_path: Path) -> None:
    """A key that is none is an error in the log after a while, and 500; once it is mended all is answered again."""
    files = Files.make(tmp_path)
    ca = ("--cacert", files.path("ca.pem"))
    with files.exporter() as running:
        url = f"https://{running.address}/metrics"
        assert curl(url, *ca) == (0, "200")
        (tmp_path / "server.key").write_text("nonsense\n", encoding="utf-8")
        until(lambda: curl(url, *ca) == (0, "500"))  # with the certificate of before
        assert "server.key" in running.log.read_text(encoding="utf-8")
        files.issue_server("localhost", "127.0.0.1")
        assert curl(url, *ca) == (0, "200")


def test_prometheus_scrapes_with_certificate_and_password(tmp_path: Path, hashed: str) -> None:
    """A real Prometheus with a client certificate and a password has the verdicts; without the password it has none."""
    tls = {"client_ca_file": "ca.pem", "client_auth_type": "RequireAndVerifyClientCert"}
    files = Files.make(tmp_path, tls=tls, basic_auth_users={"prometheus": hashed}, roles={"prometheus": "read"})
    with files.exporter() as running:

        def job(name: str, **more: Any) -> dict[str, Any]:
            return {
                "job_name": name,
                "scheme": "https",
                "tls_config": {
                    "ca_file": files.path("ca.pem"),
                    "cert_file": files.path("client.pem"),
                    "key_file": files.path("client.pem"),
                },
                "static_configs": [{"targets": [running.address]}],
                **more,
            }

        with_password = job("portspec", basic_auth={"username": "prometheus", "password": PASSWORD})
        configuration = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [with_password, job("without")],
        }
        with prometheus(tmp_path / "prometheus", configuration) as scraping:

            def ups() -> dict[str, float]:
                return {labels["job"]: value for labels, value in scraping.query("up")}

            until(lambda: ups() == {"portspec": 1.0, "without": 0.0})
            until(lambda: {labels["job"] for labels, _ in scraping.query("port_out_of_spec")} == {"portspec"})


BROWSER: Final = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]


def browse(
    url: str,
    directory: Path,
    *arguments: str,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return what Chromium makes of a page."""
    profile = f"--user-data-dir={directory / 'chromium'}"
    command = [*prefix, require("chromium"), *BROWSER, profile, *arguments, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * PATIENCE, env=environment)
    return done.stdout


def test_browser_with_and_without_password(tmp_path: Path, hashed: str) -> None:
    """A browser shows the page of all hosts to who has the password, and nothing of it without."""
    files = Files.make(tmp_path, basic_auth_users={"alice": hashed})
    with files.exporter() as running:
        running_url = f"{running.address}/"
        quick = "--ignore-certificate-errors"
        assert "127.0.0.1" not in browse(f"https://{running_url}", tmp_path, quick).replace(running_url, "")
        user = urllib.parse.quote(f"alice:{PASSWORD}", safe=":")
        assert "127.0.0.1" in browse(f"https://{user}@{running_url}", tmp_path, quick)
        assert browse(f"https://{running_url}", tmp_path) == ""  # it shows a warning, and nothing of the page


#: Runs a program that sees a directory as /etc/chromium/policies: "sh -c BELOW_POLICIES sh DIRECTORY PROGRAM …".
BELOW_POLICIES: Final = 'mount --bind "$1" /etc/chromium/policies && shift && exec "$@"'


def home_of_browser(files: Files, name: str, *, has_certificate: bool) -> Path:
    """Make a home directory in which a browser knows the authority, and has the client certificate or not."""
    home = files.directory / name
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    to = ("-d", f"sql:{database}")
    pem, packed = files.path("client.pem"), files.path("client.p12")
    commands = [
        ("certutil", "-N", "--empty-password", *to),
        ("certutil", "-A", "-n", "authority", "-t", "C,,", "-i", files.path("ca.pem"), *to),
    ]
    if has_certificate:
        commands += [
            ("openssl", "pkcs12", "-export", "-in", pem, "-out", packed, "-passout", "pass:", "-name", "me"),
            ("pk12util", "-i", packed, "-W", "", *to),
        ]
    for program, *arguments in commands:
        subprocess.run([require(program), *arguments], check=True, capture_output=True)
    return home


def test_browser_with_and_without_client_certificate(tmp_path: Path) -> None:
    """A browser that holds a certificate of the authority shows the page, one without sees nothing of it."""
    if os.geteuid():
        forbidden("a policy of Chromium, which is to choose the certificate, is mounted")
    files = Files.make(tmp_path, tls={"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.pem"})
    policies = tmp_path / "policies" / "managed"
    policies.mkdir(parents=True)
    choice = json.dumps({"AutoSelectCertificateForUrls": ['{"pattern": "*", "filter": {}}']})
    (policies / "choice.json").write_text(choice, encoding="ascii")
    Path("/etc/chromium/policies").mkdir(exist_ok=True)
    prefix = ["unshare", "--mount", "sh", "-c", BELOW_POLICIES, "sh", str(policies.parent)]
    with files.exporter() as running:

        def shown(*, has_certificate: bool) -> str:
            home = home_of_browser(files, f"home{has_certificate}", has_certificate=has_certificate)
            environment = {**os.environ, "HOME": str(home)}
            page = browse(f"https://{running.address}/", home, prefix=prefix, environment=environment)
            return page.replace(running.address, "")

        assert "127.0.0.1" not in shown(has_certificate=False)
        assert "127.0.0.1" in shown(has_certificate=True)


def test_health_check_over_tls(tmp_path: Path) -> None:
    """`portspec healthcheck` takes the authority of the certificate, or any certificate if told so, and has its own."""
    files = Files.make(tmp_path, tls={"client_ca_file": "ca.pem", "client_auth_type": "RequireAndVerifyClientCert"})
    own = ("--cert-file", files.path("client.pem"))
    with files.exporter() as running:
        url = ("--url", f"https://{running.address}")

        def check(*arguments: str) -> tuple[int, str]:
            command = [sys.executable, "-m", "portspec", "healthcheck", *url, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout + done.stderr

        assert check(*own, "--ca-file", files.path("ca.pem"))[0] == 0
        assert check(*own, "--insecure")[0] == 0
        assert check("--insecure")[0] == 1
        code, text = check()
        assert code == 1
        assert "certificate verify failed" in text
        assert check("--ca-file", files.path("server.key")) == (
            2,
            f"--ca-file: {files.path('server.key')}: no certificate in PEM format\n",
        )
        assert check("--cert-file", files.path("ca.pem")) == (
            2,
            f"--cert-file: {files.path('ca.pem')}: no certificate with its key in PEM format\n",
        )
