"""The web config file: what is read from it, and each fault with its line."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import ssl
import string
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from portspec.access.load import load_web_config
from portspec.access.model import ClientAuth, Permission, RateLimit, Role, WebConfig
from portspec.access.tls import server_context
from portspec.config.trust import complaints
from portspec.errors import ConfigError
from tests.requirements import require
from tests.unit.access.conftest import TOKEN
from tests.unit.factories import MODEST

DATA = Path(__file__).parents[2] / "data" / "web"
GOOD = sorted(file.stem for file in (DATA / "good").glob("*.yml"))
BAD = sorted(file.stem for file in (DATA / "bad").glob("*.yml"))
#: Files that promtool of Prometheus 2.42 judges alike; the others have keys of portspec and of later toolkits, or
#: what exporter-toolkit lets pass and portspec refuses.
COMMON = [("good", name) for name in GOOD if not name.startswith("own_")]
COMMON += [("bad", name) for name in BAD if not name.startswith("own_")]


def usable(file: Path) -> WebConfig:
    """Load a file and what it names, as the exporter does."""
    config = load_web_config(file, {})
    if config.tls:
        server_context(config.tls)
    return config


def copied(place: Path, kind: str, name: str) -> Path:
    """Copy a file of the data beside the certificates."""
    return Path(shutil.copy(DATA / kind / f"{name}.yml", place / "web.yml"))


def written(place: Path, text: str) -> Path:
    """Write a web config file."""
    file = place / "web.yml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_loads(place: Path, name: str) -> None:
    """Every key of exporter-toolkit and of portspec is known."""
    usable(copied(place, "good", name))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_answered_with_exactly_the_expected_lines(place: Path, name: str) -> None:
    """Each fault has one line that says where it is, what is wrong and what to write instead."""
    file = copied(place, "bad", name)
    with pytest.raises(ConfigError) as caught:
        usable(file)
    said = str(caught.value).replace(f"{place}/", "")
    assert said.split("\n") == (DATA / "bad" / f"{name}.expected").read_text(encoding="utf-8").splitlines()


def test_every_bad_file_has_its_expected_lines() -> None:
    """No file of expected lines is left behind when its configuration goes."""
    assert BAD
    assert sorted(file.stem for file in (DATA / "bad").glob("*.expected")) == BAD


@pytest.mark.parametrize(("kind", "name"), COMMON)
def test_promtool_agrees(place: Path, kind: str, name: str) -> None:
    """On the common part of the format, `promtool check web-config` says the same of each file."""
    file = copied(place, kind, name)
    done = subprocess.run([require("promtool"), "check", "web-config", file], capture_output=True, check=False)
    assert (done.returncode == 0) is (kind == "good"), done.stderr.decode()


def test_all_keys_arrive(place: Path) -> None:
    """The configuration has what the file says, with paths relative to the file."""
    config = usable(copied(place, "good", "own_everything"))
    assert config.tls is not None
    assert (config.tls.certificate.path, config.tls.key.path) == (str(place / "server.crt"), str(place / "server.key"))
    assert config.tls.client_auth is ClientAuth.IF_GIVEN
    assert (config.tls.min_version, config.tls.max_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert list(config.users) == ["alice"]
    assert config.rate_limit == RateLimit(1.0, 50)
    assert config.roles == {"alice": Role.READ, "prometheus.example.org": Role.READ, "admin@example.org": Role.ACT}
    assert [(token.name, token.role) for token in config.tokens] == [("ci", Role.PROBE), ("robot", Role.AUDIT)]
    assert config.anonymous == {Permission.READ, Permission.AUDIT}
    assert config.trusted_proxies == tuple(map(ipaddress.ip_network, ("127.0.0.1", "::1", "10.0.0.0/8")))
    assert config.user_header == "X-Remote-User"
    assert config.allowed_hosts == {"portspec.example.org", "*.svc.cluster.local", "xn--bcher-kva.example"}
    names = ("web.yml", "server.crt", "server.key", "ca.crt", "robot.token")
    assert config.files == tuple(str(place / name) for name in names)


def test_defaults_are_those_without_a_file(place: Path) -> None:
    """An empty file changes nothing."""
    config = load_web_config(written(place, ""))
    assert config.anonymous == WebConfig.default().anonymous == {Permission.READ, Permission.PROBE, Permission.AUDIT}
    assert not config.has_users
    assert not config.tls


@pytest.mark.parametrize(
    "text",
    [
        "basic_auth_users: {alice: $2b$04$GbO7Jmpmt93gy9xGTTqrzugozyrKHuwEEYmB.AJ1SegYe4UZyhdEm}\n",
        "tokens: {robot: {token_file: robot.token, role: read}}\n",
        "trusted_proxies: [192.0.2.1]\nuser_header: X-Remote-User\n",
    ],
)
def test_whoever_can_authenticate_has_to(place: Path, text: str) -> None:
    """With users, tokens or a header for the user, nobody else may do anything but send audits, which are signed."""
    assert load_web_config(written(place, text)).anonymous == {Permission.AUDIT}


def test_secrets_are_not_shown(place: Path) -> None:
    """Neither messages nor the representation of the configuration quote hashes, keys and tokens."""
    secret = "correct_horse_battery_staple_"  # noqa: S105 - of nobody
    text = f"basic_auth_users: {{alice: {secret}}}\ntokens: {{ci: {{token: '{secret} !', role: read}}}}\n"
    with pytest.raises(ConfigError) as caught:
        load_web_config(written(place, text))
    assert secret not in str(caught.value)
    key = (place / "server.key").read_text()
    inline = {"cert": (place / "server.crt").read_text(), "key": key}
    keys = {"tls_server_config": inline, "tokens": {"robot": {"token_file": "robot.token", "role": "read"}}}
    config = usable(written(place, yaml.safe_dump(keys)))
    assert TOKEN not in repr(config)
    assert key.splitlines()[1] not in repr(config)


def test_warnings_say_what_has_no_effect_or_is_weak(place: Path) -> None:
    """What is accepted and not served, or opens more than many expect, is told."""
    suite = "TLS_AES_128_GCM_SHA256"
    tls = f"tls_server_config: {{cert_file: server.crt, key_file: server.key, cipher_suites: [{suite}]}}\n"
    users = "basic_auth_users: {alice: $2b$15$GbO7Jmpmt93gy9xGTTqrzugozyrKHuwEEYmB.AJ1SegYe4UZyhdEm}\n"
    http = "http_server_config: {http2: true}\n"
    file = written(place, f"{tls}{users}{http}roles: {{alcie: read}}\nanonymous: [act]\ntrusted_proxies: ['::/0']\n")
    assert load_web_config(file).warnings == (
        f"tls_server_config.cipher_suites: {suite} is of TLS 1.3, whose cipher suites are always all offered",
        "http_server_config.http2: portspec serves HTTP/1.1 only",
        "basic_auth_users.alice: each try of a password at cost 15 takes seconds",
        "trusted_proxies: ::/0 trusts every client to name its address and user",
        "anonymous: everybody who reaches the port may start scans and reload the configuration",
        "roles.alcie: there is no user of that name in basic_auth_users",
    )
    (warning,) = load_web_config(written(place, users.replace("$15$", "$10$"))).warnings
    assert warning.startswith("passwords and tokens cross the network unencrypted; set tls_server_config")


def test_variables_of_the_environment_are_replaced(place: Path) -> None:
    """${NAME} serves for secrets, as in conf.yml."""
    text = "tokens: {ci: {token: '${TOKEN}', role: read}}\n"
    (token,) = load_web_config(written(place, text), {"TOKEN": TOKEN}).tokens
    (same,) = load_web_config(written(place, "tokens: {ci: {token_file: robot.token, role: read}}\n"), {}).tokens
    assert token.digest == same.digest


def test_files_that_others_can_change_are_told(place: Path) -> None:
    """The web config file, keys and tokens that everybody can read, and what everybody can write, are complained of."""
    file = copied(place, "good", "own_everything")
    for path in place.iterdir():
        path.chmod(0o644)
    (place / "server.key").chmod(0o600)
    (place / "ca.crt").chmod(0o646)
    found = [complaint.replace(f"{place}/", "") for complaint in complaints(load_web_config(file))]
    assert found == [
        "web.yml contains a secret and is readable by every user: chmod o-r web.yml",
        "ca.crt is writable by every user: chmod o-w ca.crt",
        "robot.token contains a secret and is readable by every user: chmod o-r robot.token",
    ]


def test_no_such_file(tmp_path: Path) -> None:
    """The message names the option."""
    with pytest.raises(ConfigError, match=r"web\.yml: no such file; name the configuration file with --web\.config"):
        load_web_config(tmp_path / "web.yml")
    with pytest.raises(ConfigError, match="cannot be the web config file"):
        load_web_config("-")


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(string.printable, max_size=20),
    st.sampled_from(["server.crt", "server.key", "ca.crt", "read", "act", "RequireAndVerifyClientCert", "1s", "TLS13"]),
)
KEYS = sorted(
    {
        *("cert", "cert_file", "key", "key_file", "client_ca", "client_ca_file", "client_auth_type", "token"),
        *("client_allowed_sans", "min_version", "max_version", "cipher_suites", "curve_preferences", "token_file"),
        *("http2", "headers", "X-Frame-Options", "interval", "burst", "alice", "role"),
    }
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text()), inner, max_size=4)
    ),
    max_leaves=10,
)
TOP = [
    *("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit", "roles", "tokens", "anonymous"),
    *("trusted_proxies", "user_header", "allowed_hosts"),
]


@pytest.fixture(scope="module")
def file(certificates: Path) -> Path:
    """Return one web config file that every example overwrites."""
    return certificates / "any.yml"


@MODEST
@given(st.dictionaries(st.sampled_from(TOP), values))
def test_any_values_load_or_are_a_config_error(file: Path, content: dict[str, object]) -> None:
    """No value raises anything but ConfigError, from the loader or from OpenSSL."""
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with contextlib.suppress(ConfigError):
        usable(file)


@MODEST
@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_a_config_error(file: Path, content: bytes) -> None:
    """No bytes raise anything but ConfigError."""
    file.write_bytes(content)
    with contextlib.suppress(ConfigError):
        usable(file)
