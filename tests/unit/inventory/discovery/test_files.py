from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from portspec.errors import NoThreadError
from portspec.inventory.discovery import files as files_module
from portspec.inventory.discovery.files import FileClient
from portspec.inventory.discovery.targetgroups import read_json
from tests.faults.registry import fault
from tests.unit.inventory.discovery.parts import PATIENCE, SOON, entry, file_source, names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

    from portspec.inventory.discovery import Answer

WEB = '[{"targets": ["web1:9100", "web2"]}]'
DB = "- targets: [db1]\n"


def ask(client: FileClient) -> dict[str, list[str] | str]:
    """Ask, and give the hosts or the failure by the name of each file."""
    return spelled(asyncio.run(client.ask()))


def spelled(answers: Mapping[str, Answer]) -> dict[str, list[str] | str]:
    """Return the hosts or the failure by the name of each file."""
    return {path.rpartition("/")[2]: answer.failure or names(answer) for path, answer in answers.items()}


def changed(client: FileClient) -> bool:
    """Return whether the client sees a change."""
    return asyncio.run(client.is_changed())


def test_json_and_yaml_files_are_read(tmp_path: Path) -> None:
    """The ending of a file's name tells its format."""
    (tmp_path / "web.json").write_text(WEB)
    (tmp_path / "db.yml").write_text(DB)
    (tmp_path / "mail.YAML").write_text("- {targets: [mail1]}")
    client = FileClient(file_source(tmp_path / "web.json", tmp_path / "db.yml", tmp_path / "mail.YAML"))
    assert ask(client) == {"web.json": ["web1", "web2"], "db.yml": ["db1"], "mail.YAML": ["mail1"]}


def test_a_pattern_finds_files_in_order_and_each_once(tmp_path: Path) -> None:
    """Files stand in the order of the patterns and of their names; hidden ones, as of editors, are left out."""
    for name in ("b.json", "a.json", ".c.json", "d.txt"):
        (tmp_path / name).write_text(WEB)
    client = FileClient(file_source(tmp_path / "b.json", tmp_path / "*.json", tmp_path / "[a-z].json"))
    assert list(ask(client)) == ["b.json", "a.json"]
    assert list(ask(FileClient(file_source(tmp_path / ".*.json")))) == [".c.json"]


def test_a_directory_may_have_the_name_of_a_pattern(tmp_path: Path) -> None:
    """Only the last part of a path is a pattern."""
    (tmp_path / "[x]*").mkdir()
    (tmp_path / "[x]*" / "web.json").write_text(WEB)
    assert list(ask(FileClient(file_source(tmp_path / "[x]*" / "*.json")))) == ["web.json"]


def test_one_broken_file_leaves_the_others(tmp_path: Path) -> None:
    """A file that is half written fails by itself."""
    (tmp_path / "a.json").write_text(WEB[:-5])
    (tmp_path / "b.json").write_text(WEB)
    answers = ask(FileClient(file_source(tmp_path / "*.json")))
    assert answers["b.json"] == ["web1", "web2"]
    assert str(answers["a.json"]).startswith("is not valid JSON: ")


def test_a_file_that_is_gone_takes_its_hosts_along(tmp_path: Path) -> None:
    """What a pattern no longer finds is no failure: that is how files are withdrawn."""
    (tmp_path / "a.json").write_text(WEB)
    (tmp_path / "b.json").write_text("[]")
    client = FileClient(file_source(tmp_path / "*.json"))
    assert list(ask(client)) == ["a.json", "b.json"]
    (tmp_path / "a.json").unlink()
    assert ask(client) == {"b.json": []}


def test_a_named_file_that_is_missing_is_a_failure(tmp_path: Path) -> None:
    """What conf.yml names has to be there."""
    assert ask(FileClient(file_source(tmp_path / "a.json"))) == {"a.json": "cannot be read: no such file or directory"}


def test_a_pattern_that_finds_nothing_is_an_empty_list_with_one_warning(tmp_path: Path) -> None:
    """It is told again only after there was a file."""
    client = FileClient(file_source(tmp_path / "*.json", tmp_path / "*.yml"))
    with capture_logs() as logs:
        assert ask(client) == ask(client) == {}
        (tmp_path / "a.json").write_text(WEB)
        assert list(ask(client)) == ["a.json"]
        (tmp_path / "a.json").unlink()
        assert ask(client) == {}
    assert sorted(line["pattern"].rpartition("/")[2] for line in logs) == ["*.json", "*.json", "*.yml"]
    assert {line["log_level"] for line in logs} == {"warning"}


def test_a_pattern_in_a_directory_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    """A file system that is not mounted takes no host along; what was found in it is kept by whoever asks."""
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "a.json").write_text(WEB)
    client = FileClient(file_source(tmp_path / "targets" / "*.json"))
    assert list(ask(client)) == ["a.json"]
    (tmp_path / "targets").rename(tmp_path / "away")
    (failure,) = ask(client).values()
    assert failure == "the directory cannot be listed: no such file or directory"


def test_what_is_no_file_is_a_failure(tmp_path: Path) -> None:
    """A pipe is not waited for; a directory and a link to nowhere are told."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    answers = ask(FileClient(file_source(tmp_path / "*.json")))
    assert answers == {
        "folder.json": "cannot be read: not a regular file",
        "link.json": "cannot be read: no such file or directory",
        "pipe.json": "cannot be read: not a regular file",
    }


def test_a_file_that_is_too_large_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that has no end no more is read than the limit."""
    monkeypatch.setattr(files_module, "MAX_BYTES", 2**20)
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**40)
    assert ask(FileClient(file_source(tmp_path / "a.json"))) == {"a.json": "is larger than 1 MiB"}


def test_a_directory_that_cannot_be_listed_keeps_its_files(tmp_path: Path) -> None:
    """Where nothing can be seen, nothing is gone: each file that was there fails."""
    folder = tmp_path / "targets"
    folder.mkdir()
    (folder / "a.json").write_text(WEB)
    client = FileClient(file_source(folder / "*.json"))
    assert ask(client) == {"a.json": ["web1", "web2"]}
    assert not changed(client)
    (folder / "a.json").unlink()
    folder.rmdir()
    folder.write_text("")
    assert changed(client)
    assert ask(client) == {"a.json": "the directory cannot be listed: not a directory"}
    assert not changed(client)
    fresh = FileClient(file_source(folder / "*.json"))
    assert ask(fresh) == {"*.json": "the directory cannot be listed: not a directory"}


def test_a_change_is_seen(tmp_path: Path) -> None:
    """A file that is written, replaced, added or removed is another one than before."""
    path = tmp_path / "a.json"
    path.write_text(WEB)
    client = FileClient(file_source(tmp_path / "*.json", tmp_path / "b.yml"))
    ask(client)
    assert not changed(client)
    path.write_text("[]")
    assert changed(client)
    assert changed(client)
    ask(client)
    assert not changed(client)
    before = path.stat()
    (tmp_path / "new").write_text("[ ")
    os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "new").replace(path)
    assert changed(client)
    ask(client)
    (tmp_path / "b.yml").write_text(DB)
    assert changed(client)
    ask(client)
    path.unlink()
    assert changed(client)


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of a file is from before it was read."""
    path = tmp_path / "a.json"
    path.write_text(WEB)
    client = FileClient(file_source(path))
    real = read_json

    def write_on(data: bytes) -> object:
        path.write_text(WEB + "\n")
        return real(data)

    monkeypatch.setattr(files_module, "read_json", write_on)
    ask(client)
    assert changed(client)


@fault("disk that hangs", "discovery", "A source of files gives up after its time limit and keeps its last hosts.")
def test_a_disk_that_hangs_takes_one_thread_and_keeps_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ask gives up after its time limit, none starts a further thread, and all is well when the disk is back."""
    (tmp_path / "a.json").write_text(WEB)
    gate, ended, started = threading.Event(), asyncio.Event(), []
    real = files_module._read_file

    def hang(path: str, common: object) -> Answer:
        started.append(path)
        assert gate.wait(PATIENCE)
        return real(path, entry())

    async def scenario() -> None:
        client = FileClient(file_source(tmp_path / "*.json", timeout=SOON))
        silent = {"*.json": "no answer from the disk within 0.05 s"}
        with monkeypatch.context() as patch:
            patch.setattr(files_module, "_read_file", hang)
            free = client._free

            def note() -> None:
                free()
                ended.set()

            patch.setattr(client, "_free", note)
            assert spelled(await client.ask()) == silent
            assert spelled(await client.ask()) == silent
            assert not await client.is_changed()
            assert len(started) == 1
            gate.set()
            await asyncio.wait_for(ended.wait(), PATIENCE)
        client._source = file_source(tmp_path / "*.json")
        assert spelled(await client.ask()) == {"a.json": ["web1", "web2"]}

    asyncio.run(scenario())


@fault("no threads", "discovery", "The source keeps its last hosts and asks again.")
def test_a_machine_that_gives_no_thread_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised, and the next ask tries again."""
    (tmp_path / "a.json").write_text(WEB)
    client = FileClient(file_source(tmp_path / "a.json"))

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert ask(client) == {"a.json": str(NoThreadError())}
        assert not changed(client)
    assert ask(client) == {"a.json": ["web1", "web2"]}
