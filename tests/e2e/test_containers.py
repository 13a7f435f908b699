"""The images and compose.yml, with a real Docker engine.

One module, since each process that runs tests would start an engine and build the images.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
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
    from collections.abc import Callable, Iterator

    Measured = Callable[[str], None]

CONFINED = ("--read-only", "--cap-drop", "ALL", "--network", "host")
SMALL = 135e6  # bytes beyond the base
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


# --- The images ---


def _conf(directory: Path) -> str:
    """Write a configuration of one host on loopback; return the option that mounts it."""
    file = directory / "conf.yml"
    file.write_text("hosts: {127.0.0.1: {expect: [10190]}}\nscanports: [1-1000, 10190]\ninterval: 60\n")
    file.chmod(0o644)
    return f"--volume={file}:/etc/portspec/portspec.yml:ro"


@contextmanager
def _running(engine: Engine, directory: Path) -> Iterator[str]:
    """Run the image `connect` confined, as an ordinary user; return the name of the container."""
    confined = (*CONFINED, "--security-opt", "no-new-privileges")
    name = engine.succeed("run", "--detach", *confined, _conf(directory), "portspec").strip()
    try:
        yield name
    finally:
        engine.run("rm", "--force", "--volumes", name)


def _scan(engine: Engine, conf: str, image: str, *options: str) -> dict[str, Any]:
    done = engine.run("run", "--rm", *CONFINED, *options, conf, image, "scan", "--json")
    document: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return document


def _metric(engine: Engine, line: str) -> bool:
    try:
        return line in engine.inside("curl", "--silent", "http://127.0.0.1:10190/metrics").splitlines()
    except AssertionError:
        return False  # it does not listen yet


def _serves(engine: Engine, running: str, measured: Measured) -> None:
    """Without a capability, on a read-only file system and not as root, the exporter scans, serves and keeps state."""
    began = time.monotonic()
    until(lambda: _metric(engine, 'port_open{host="127.0.0.1",port="10190"} 1.0'), patience=60.0)
    measured(f"container: first verdict {time.monotonic() - began:.1f} s after the start")
    assert _metric(engine, 'portspec_engine_info{engine="connect"} 1.0')
    assert _metric(engine, "portspec_store_up 1.0")
    assert engine.succeed("exec", running, "id", "-u").strip() == "65532"
    assert engine.run("exec", running, "touch", "/opt/portspec/x").returncode != 0
    assert "portspec.db" in engine.succeed("exec", running, "ls", "/var/lib/portspec")


def _is_healthy(engine: Engine, running: str, _: Measured) -> None:
    """Its HEALTHCHECK exits with 0 at the running exporter, and with 1 where none runs."""
    (command,) = json.loads(
        engine.succeed("image", "inspect", "--format", "[{{json .Config.Healthcheck.Test}}]", "portspec")
    )
    assert command[0] == "CMD"
    until(lambda: engine.run("exec", running, *command[1:]).returncode == 0, patience=60.0)
    alone = engine.run("run", "--rm", "--network", "none", "--entrypoint", command[1], "portspec", *command[2:])
    assert alone.returncode == 1
    assert "unhealthy: " in alone.stdout


def _ends_by_sigterm(engine: Engine, running: str, _: Measured) -> None:
    """`docker stop` ends it by SIGTERM with exit code 0; the log is on standard output."""
    until(lambda: "event=listening" in engine.succeed("logs", running), patience=60.0)
    engine.succeed("stop", "--time", "30", running)
    state = json.loads(engine.succeed("inspect", "--format", "{{json .State}}", running))
    assert state["ExitCode"] == 0  # 137 after SIGKILL
    assert 'event="portspec stopped"' in engine.succeed("logs", running)


def _says_what_to_mount(engine: Engine, _: Path, __: Measured) -> None:
    """Without a mounted configuration the container ends with exit code 2 and the option that mounts one."""
    done = engine.run("run", "--rm", *CONFINED, "portspec")
    assert done.returncode == 2
    assert "-v ./conf.yml:/etc/portspec/portspec.yml:ro" in done.stdout


def _scans_with_syn(engine: Engine, directory: Path, _: Measured) -> None:
    """As an ordinary user, with its one capability from its file, the target `raw` scans with SYN probes."""
    assert _scan(engine, _conf(directory), "portspec:raw", "--cap-add", "NET_RAW")["engine"] == "syn"


def _connects_without_the_capability(engine: Engine, directory: Path, _: Measured) -> None:
    """Where the capability is not granted the same image starts all the same, and connects."""
    assert _scan(engine, _conf(directory), "portspec:raw")["engine"] == "connect"
    assert _scan(engine, _conf(directory), "portspec:raw", "--security-opt", "no-new-privileges")["engine"] == "connect"


def _tells_of_a_volume_that_cannot_be_written(engine: Engine, directory: Path, _: Measured) -> None:
    """With a directory of another user as the volume the exporter serves; log and metric say that no state is kept."""
    (directory / "state").mkdir(mode=0o755)
    volume = f"--volume={directory}/state:/var/lib/portspec"
    name = engine.succeed("run", "--detach", *CONFINED, _conf(directory), volume, "portspec").strip()
    try:
        until(lambda: _metric(engine, "portspec_store_up 0.0"), patience=60.0)
        assert re.search(
            r"level=error .*/var/lib/portspec/portspec\.db.*permission denied", engine.succeed("logs", name)
        )
    finally:
        engine.run("rm", "--force", name)


def _is_small_and_labelled(engine: Engine, _: Path, measured: Measured) -> None:
    """Each image adds little to its base, runs as a numeric user, and names its source and licence."""
    base = engine.size(BASE)
    for image in ("portspec", "portspec:raw"):
        own = engine.size(image) - base
        measured(f"image {image}: {own / 1e6:.0f} MB beyond the base of {base / 1e6:.0f} MB")
        assert own < SMALL
        (found,) = json.loads(engine.succeed("image", "inspect", image))
        assert found["Config"]["User"] == "65532:65532"
        labels = found["Config"]["Labels"]
        assert labels["org.opencontainers.image.licenses"] == "BSD-2-Clause"
        assert labels["org.opencontainers.image.source"].startswith("https://")


@pytest.mark.timeout(900)  # the first one may have to run debootstrap
def test_images(
    engine: Engine, tmp_path: Path, record_property: Callable[[str, object], None], subtests: pytest.Subtests
) -> None:
    """Both targets of the Dockerfile are built, and run as an ordinary user on a read-only file system."""

    def measured(text: str) -> None:
        record_property("measured", text)

    engine.build("connect", "portspec")
    engine.build("raw", "portspec:raw")
    with _running(engine, tmp_path) as running:
        for look in (_serves, _is_healthy, _ends_by_sigterm):
            with subtests.test(look.__doc__):
                look(engine, running, measured)
    for check in (
        _says_what_to_mount,
        _scans_with_syn,
        _connects_without_the_capability,
        _tells_of_a_volume_that_cannot_be_written,
        _is_small_and_labelled,
    ):
        with subtests.test(check.__doc__):
            check(engine, tmp_path, measured)


def test_context_is_what_the_image_is_made_of() -> None:
    """.dockerignore is a list of what is let in, so that no secret beside the repository gets into a layer."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert all(line.startswith("!") for line in lines[1:-1])


_LISTENERS = """
import json, os
from portspec import agent
print(json.dumps(agent.gather_listeners(agent.this_system(), dict(os.environ))[0]))
"""


def _listeners(engine: Engine) -> dict[int, dict[str, Any]]:
    """Return what the agent tells of the TCP sockets of the engine's machine, by port."""
    host = f"DOCKER_HOST={engine.environment['DOCKER_HOST']}"
    found = json.loads(engine.inside("env", host, sys.executable, "-c", _LISTENERS))
    return {item["port"]: item for item in found if item["protocol"] == "tcp"}


def test_agent_names_the_container_that_holds_a_port(engine: Engine) -> None:
    """Whether docker-proxy holds it, or a process in it; once the container has stopped, the port is gone."""
    server = (BASE, "python3", "-m", "http.server")
    published = engine.succeed(
        "run", "--detach", "--name", "grafana-old", "--publish", "8443:80", *server, "80"
    ).strip()
    own = engine.succeed("run", "--detach", "--name", "shop", "--network", "host", *server, "8444").strip()
    try:
        until(lambda: engine.answers("http://127.0.0.1:8443/") and engine.answers("http://127.0.0.1:8444/"))
        found = _listeners(engine)
        names = ("container", "container_name", "image")
        assert tuple(found[8443].get(name) for name in names) == (published, "grafana-old", BASE)
        assert tuple(found[8444].get(name) for name in names) == (own, "shop", BASE)
        assert found[8444]["note"] == "its executable is in another root directory, such as that of a container"
        engine.succeed("rm", "--force", published)
        assert 8443 not in _listeners(engine)
    finally:
        engine.run("rm", "--force", published, own)


# --- compose.yml ---


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
