from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.e2e.docker import BASE, ROOT, Engine
from tests.e2e.exporter import until
from tests.e2e.smtp import PASSWORD, USER, MailServer
from tests.requirements import require

if TYPE_CHECKING:
    from collections.abc import Iterator

MAIL: Final = "198.18.99.1"  # addresses of the machine on which the containers run, in its own network namespace
HOST: Final = "198.18.99.2"
PATIENCE: Final = 180.0
SERVICES: Final = ("portspec", "prometheus", "alertmanager")
URLS: Final = {
    "portspec": "http://127.0.0.1:10190/-/healthy",
    "prometheus": "http://127.0.0.1:9090/-/healthy",
    "alertmanager": "http://127.0.0.1:9093/-/healthy",
}
#: As the images of the Prometheus project are made, of Debian's programs.
IMAGES: Final = {
    "prometheus": """\
FROM {base}-bare
COPY prometheus /bin/prometheus
RUN mkdir /prometheus && chown 65534:65534 /prometheus
WORKDIR /prometheus
USER 65534
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
""",
    "alertmanager": """\
FROM {base}-bare
COPY prometheus-alertmanager /bin/alertmanager
COPY *.tmpl /usr/share/prometheus/alertmanager/
RUN mkdir /alertmanager && chown 65534:65534 /alertmanager
WORKDIR /alertmanager
USER 65534
ENTRYPOINT ["/bin/alertmanager"]
CMD ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"]
""",
}
_PROGRAMS: Final = ("docker-compose", "prometheus", "prometheus-alertmanager")
_TEMPLATES: Final = Path("/usr/share/prometheus/alertmanager")  # Debian has them outside of the program
#: What is in each: programs, and files of Debian's packages.
_FILES: Final = {
    "prometheus": ["/usr/bin/prometheus"],
    "alertmanager": ["/usr/bin/prometheus-alertmanager", *map(str, _TEMPLATES.glob("*.tmpl"))],
}
_LISTENER: Final = (
    "import socket, sys, time; s = socket.create_server((sys.argv[1], 6379)); print(flush=True); time.sleep(1e6)"
)


@pytest.fixture(scope="module")
def services(engine: Engine) -> Engine:
    """Make the images that compose.yml names of Debian's packages, and addresses for a mail server and a host."""
    for program in _PROGRAMS:
        require(program)
    engine.build("connect", "portspec")
    for name, text in IMAGES.items():
        engine.build_of(text.format(base=BASE), f"test-{name}", _FILES[name])
    for address in (MAIL, HOST):
        engine.inside("ip", "address", "add", f"{address}/32", "dev", "lo")
    return engine


def _project(directory: Path, server: MailServer) -> None:
    """Copy what a user has in the clone, and edit the three files that a user edits; what waits, waits less."""
    for name in ("compose.yml", "alert_rules", "deploy", "grafana"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, directory / name)
        else:
            shutil.copy(source, directory / name)
    conf = {"hosts": {HOST: {"labels": {"team": "db"}}}, "scanports": [6379], "interval": 2}
    _write(directory / "conf.yml", conf)
    _edit(directory / "alert_rules" / "alertmanager.yml", lambda found: _send_to(found, server))
    shutil.copy(server.authority, directory / "alert_rules" / "templates" / "ca.pem")
    (directory / "password").write_text(PASSWORD, encoding="utf-8")
    (directory / "password").chmod(0o644)  # Alertmanager is another user there
    prometheus = directory / "deploy" / "compose" / "prometheus.yml"
    _edit(prometheus, lambda found: found["global"].update(scrape_interval="2s", evaluation_interval="1s"))
    images = "".join(f"{name.upper()}_IMAGE=test-{name}\n" for name in IMAGES)
    (directory / ".env").write_text(f"{images}SMTP_PASSWORD_FILE=./password\n", encoding="utf-8")


def _send_to(found: dict[str, Any], server: MailServer) -> None:
    found["global"] |= {"smtp_smarthost": f"{MAIL}:{server.port}", "smtp_auth_username": USER}
    found["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    for receiver in found["receivers"]:
        for mail in receiver.get("email_configs", ()):
            mail["tls_config"] = {"ca_file": "/etc/alertmanager/templates/ca.pem"}


def _edit(path: Path, change: Any) -> None:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(found)
    _write(path, found)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
    path.chmod(0o644)


@contextmanager
def _listening(services: Engine) -> Iterator[None]:
    """Open the port of the host, as a process that ends with the block."""
    process = services.popen([sys.executable, "-c", _LISTENER, HOST], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it listens
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.timeout(900)
def test_deviation_becomes_a_mail_and_ends_as_one(services: Engine, tmp_path: Path) -> None:
    """`docker-compose up` starts what compose.yml has; a port that opens becomes a mail, and so does its end."""

    def compose(*arguments: str) -> str:
        return services.succeed(*arguments, program="docker-compose", cwd=project)

    def subjects() -> list[str]:
        return [str(mail.message["Subject"]) for mail in server.mails()]

    project = tmp_path / "project"
    project.mkdir()
    with MailServer(tmp_path / "mails", services.popen, address=MAIL) as server:
        _project(project, server)
        try:
            compose("up", "--detach", *SERVICES)
            for url in URLS.values():
                until(lambda url=url: services.answers(url), patience=PATIENCE)  # type: ignore[misc]
            with _listening(services):
                until(
                    lambda: any("6379 (redis) open, not expected" in subject for subject in subjects()),
                    patience=PATIENCE,
                )
            until(lambda: any("6379 (redis) no longer" in subject for subject in subjects()), patience=PATIENCE)
        except AssertionError:
            print(subjects(), compose("logs", "--tail", "20"))  # noqa: T201 - why it failed
            raise
        finally:
            compose("down", "--volumes")


def test_every_variable_is_in_the_example_with_its_default() -> None:
    """deploy/compose/env.example has each variable of compose.yml, with the default that it has there."""
    named = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", (ROOT / "compose.yml").read_text(encoding="utf-8")))
    example = (ROOT / "deploy" / "compose" / "env.example").read_text(encoding="utf-8")
    assert dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE)) == named
