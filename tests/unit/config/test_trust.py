"""Files that others may change, and secrets that others may read, are told of."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from portspec.config import load, trust
from tests.requirements import NEEDS_ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from portspec.config import Config

STRANGER, SERVICE = 12345, 999
SECRET = "a passphrase of the tests"  # noqa: S105 - of nobody

as_root = pytest.mark.skipif(os.geteuid() != 0, reason=f"{NEEDS_ROOT}only root can give files away")


def configure(
    tmp_path: Path, *, mode: int = 0o600, environment: Mapping[str, str] | None = None, **keys: Any
) -> Config:
    """Write a conf.yml with a mode, and load it."""
    path = tmp_path / "conf.yml"
    path.write_text(json.dumps({"hosts": {"192.0.2.1": []}, "scanports": [22], **keys}), encoding="utf-8")
    path.chmod(mode)
    return load(path, environment or {})


def complaints(config: Config, *, for_others: bool = False, state_file: str = "/nowhere/portspec.db") -> list[str]:
    """Return the complaints about a configuration, of an exporter that has no state file yet."""
    return trust.complaints(config, state_file, for_others=for_others)


def secret_file(tmp_path: Path, name: str, mode: int) -> str:
    """Write a file that holds a secret."""
    path = tmp_path / name
    path.write_text(SECRET, encoding="utf-8")
    path.chmod(mode)
    return name


def own(tmp_path: Path, found: list[str]) -> list[str]:
    """Return the complaints without the directory of the test in them."""
    return [item.replace(f"{tmp_path}/", "") for item in found]


@pytest.mark.parametrize(
    ("mode", "found"),
    [
        (0o600, []),
        (0o640, []),
        (0o644, []),
        (0o666, ["conf.yml is writable by every user: chmod o-w conf.yml"]),
        (0o602, ["conf.yml is writable by every user: chmod o-w conf.yml"]),
    ],
)
def test_configuration_that_everybody_may_change(tmp_path: Path, mode: int, found: list[str]) -> None:
    """Without a secret in it everybody may read it; nobody else may change it."""
    assert own(tmp_path, complaints(configure(tmp_path, mode=mode))) == found


@as_root
def test_configuration_that_a_group_may_change(tmp_path: Path) -> None:
    """A group is others, too."""
    assert own(tmp_path, complaints(configure(tmp_path, mode=0o660))) == [
        "conf.yml is writable by its group: chmod g-w conf.yml"
    ]


_MAIL = {"smtpserver": "mx.example.org", "alertemail": "a@example.org", "fromemail": "b@example.org"}


@pytest.mark.parametrize(
    "keys",
    [
        {"audit": {"passphrase": SECRET}},
        {"audit": {"passphrase": "another passphrase", "previous_passphrase": SECRET}},
        {**_MAIL, "smtpusername": "a", "smtppassword": SECRET},
        {"discovery": {"http_sd": [{"url": "http://127.0.0.1/", "username": "a", "password": SECRET}]}},
        {"discovery": {"http_sd": [{"url": "http://127.0.0.1/", "bearer_token": SECRET}]}},
    ],
    ids=["passphrase", "previous", "smtp", "password", "token"],
)
def test_secret_in_a_configuration_that_everybody_may_read(tmp_path: Path, keys: dict[str, Any]) -> None:
    """With any secret in it conf.yml is not for everybody; no complaint quotes the secret."""
    assert complaints(configure(tmp_path, mode=0o640, **keys)) == []
    found = complaints(configure(tmp_path, mode=0o644, **keys))
    assert own(tmp_path, found) == ["conf.yml contains a secret and is readable by every user: chmod o-r conf.yml"]


def test_secret_of_the_environment_is_not_in_the_file(tmp_path: Path) -> None:
    """`${NAME}` is no secret, so that everybody may read it."""
    config = configure(tmp_path, mode=0o644, environment={"PHRASE": SECRET}, audit={"passphrase": "${PHRASE}"})
    assert complaints(config) == []


@pytest.mark.parametrize("name", ["kev", "epss"])
def test_list_that_others_can_change(tmp_path: Path, name: str) -> None:
    """Whoever can change it decides what is urgent; a URL has no owner."""
    (tmp_path / "list").touch()
    (tmp_path / "list").chmod(0o646)
    told = ["list is writable by every user: chmod o-w list"]
    assert own(tmp_path, complaints(configure(tmp_path, feeds={name: "list"}))) == told
    assert own(tmp_path, complaints(configure(tmp_path, feeds={name: "https://example.org/list"}))) == []


@pytest.mark.parametrize(
    "keys",
    [
        {"audit": {"passphrase_file": "secret"}},
        {"audit": {"passphrase": "another passphrase", "previous_passphrase_file": "secret"}},
        {**_MAIL, "smtpusername": "a", "smtppassword_file": "secret"},
        {"discovery": {"http_sd": [{"url": "http://127.0.0.1/", "username": "a", "password_file": "secret"}]}},
        {"discovery": {"http_sd": [{"url": "http://127.0.0.1/", "bearer_token_file": "secret"}]}},
    ],
    ids=["passphrase", "previous", "smtp", "password", "token"],
)
@pytest.mark.parametrize(
    ("mode", "found"),
    [
        (0o600, []),
        (0o640, []),
        (0o644, ["secret contains a secret and is readable by every user: chmod o-r secret"]),
        (
            0o646,
            [
                "secret is writable by every user: chmod o-w secret",
                "secret contains a secret and is readable by every user: chmod o-r secret",
            ],
        ),
    ],
)
def test_file_of_a_secret(tmp_path: Path, keys: dict[str, Any], mode: int, found: list[str]) -> None:
    """Each key that ends in _file names a file that nobody else may read or change."""
    secret_file(tmp_path, "secret", mode)
    assert own(tmp_path, complaints(configure(tmp_path, **keys))) == found


@pytest.mark.parametrize("form", ["{} {} --quiet", ["{}", "{}", "--quiet", "/gone", "/dev/null"]])
def test_program_that_prints_the_token(tmp_path: Path, form: str | list[str]) -> None:
    """Whoever may change it, or the script that it runs, has the token; that everybody may read them is no matter."""
    program, script = (tmp_path / secret_file(tmp_path, name, 0o755) for name in ("program", "script"))
    paths = [str(program), str(script)]
    words = form.format(*paths) if isinstance(form, str) else [*paths, *form[2:]]
    keys: dict[str, Any] = {**_MAIL, "smtpusername": "a", "smtptokencommand": words}
    config = configure(tmp_path, **keys)
    assert complaints(config) == []
    script.chmod(0o757)
    assert own(tmp_path, complaints(config)) == ["script is writable by every user: chmod o-w script"]
    program.chmod(0o757)
    assert own(tmp_path, complaints(config))[0] == "program is writable by every user: chmod o-w program"


@as_root
def test_file_of_a_stranger(tmp_path: Path) -> None:
    """A file of another user than root and oneself is theirs to change; `check` lets root's services have theirs."""
    config = configure(tmp_path)
    os.chown(config.path, STRANGER, STRANGER)
    expected = [f"conf.yml is owned by user {STRANGER}, who can change it: chown it to root or to portspec's user"]
    assert own(tmp_path, complaints(config)) == own(tmp_path, complaints(config, for_others=True)) == expected
    os.chown(config.path, SERVICE, SERVICE)
    assert len(complaints(config)) == 1
    assert complaints(config, for_others=True) == []


@pytest.mark.parametrize(("mode", "is_told"), [(0o755, False), (0o777, True), (0o1777, False)])
def test_directory_that_everybody_may_write_to(tmp_path: Path, mode: int, *, is_told: bool) -> None:
    """Who may write to a directory above a file may put another in its place, unless its sticky bit is set."""
    inner = tmp_path / "etc" / "portspec"
    inner.mkdir(parents=True)
    inner.parent.chmod(mode)
    expected = [f"portspec/conf.yml can be replaced by every user, who can write to the directory {inner.parent}"]
    assert own(inner.parent, complaints(configure(inner))) == (expected if is_told else [])


@as_root
def test_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    """The directories of the file itself count, not those of a link to it."""
    inner = tmp_path / "theirs"
    inner.mkdir()
    (tmp_path / "conf.yml").symlink_to(inner / "conf.yml")
    os.chown(inner, STRANGER, STRANGER)
    (found,) = complaints(configure(tmp_path))
    assert found.endswith(f"can be replaced by user {STRANGER}, who can write to the directory {inner}")


@pytest.mark.parametrize(("mode", "count"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o666, 2)])
def test_state_file_that_others_may_read_or_change(tmp_path: Path, mode: int, count: int) -> None:
    """It has what is vulnerable on the hosts, and what is written there is believed: neither is for everybody."""
    path = tmp_path / secret_file(tmp_path, "portspec.db", mode)
    found = own(tmp_path, complaints(configure(tmp_path), state_file=str(path)))
    expected = [
        "portspec.db is writable by every user: chmod o-w portspec.db",
        "portspec.db contains a secret and is readable by every user: chmod o-r portspec.db",
    ]
    assert found == expected[len(expected) - count :]


def test_secret_from_a_pipe_has_no_owner(tmp_path: Path) -> None:
    """A secret that comes from a pipe, as of a shell's <(…), is not looked at."""
    reader, writer = os.pipe()
    os.write(writer, SECRET.encode())
    os.close(writer)
    try:
        config = configure(tmp_path, audit={"passphrase_file": f"/dev/fd/{reader}"})
        assert complaints(config) == []
    finally:
        os.close(reader)
