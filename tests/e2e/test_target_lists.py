"""Lists of targets that the real Prometheus takes are taken, and give the same targets."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from portspec.inventory.discovery.targetgroups import ListError, read_json, read_yaml
from tests.requirements import missing

if TYPE_CHECKING:
    from pathlib import Path

WEB1 = b"- targets: [web1]\n"
GOOD = {
    "no_targets.yml": b"- labels: {a: b}\n" + WEB1,
    "nothing.yml": b"- {}\n" + WEB1,
    "null_targets.yml": b"- targets:\n" + WEB1,
    "null_labels.yml": WEB1 + b"  labels:\n",
    "null_label.yml": WEB1 + b"  labels: {x: }\n",
    "numbers.yml": WEB1 + b"  labels: {x: 1, y: 1.50, z: true, d: 2020-01-01, o: 010, s: 1:30}\n",
    "anchor.yml": b"- targets: &t [web1]\n- targets: *t\n",
    "merge.yml": b"- &b {targets: [web1], labels: {x: y}}\n- {<<: *b, labels: {z: w}}\n",
    "merge_list.yml": b"- &b {labels: {x: y}}\n- &c {targets: [web1]}\n- <<: [*b, *c]\n",
    "merge_labels.yml": WEB1 + b"  labels: &l {x: y}\n" + WEB1 + b"  labels: {<<: *l, z: w}\n",
    "bom.yml": b"\xef\xbb\xbf" + WEB1,
    "utf16.yml": WEB1.decode().encode("utf-16"),
    "tags.yml": b"- targets: [!!str web1, !x web1]\n",
    "document.yml": b"---\n" + WEB1 + b"...\n",
    "no_targets.json": b'[{"labels": {"a": "b"}}, {"targets": ["web1"]}]',
    "nothing.json": b'[{}, {"targets": ["web1"]}]',
    "null_targets.json": b'[{"targets": null}, {"targets": ["web1"]}]',
    "null_labels.json": b'[{"targets": ["web1"], "labels": null}]',
    "null_label.json": b'[{"targets": ["web1"], "labels": {"x": null}}]',
    "capitals.json": b'[{"Targets": ["web1"], "LABELS": {"x": "y"}}]',
    "latin1.json": b'[{"targets": ["web1"], "labels": {"x": "\xe9"}}]',
}
EMPTY = {
    "comment.yml": b"# nothing\n",
    "null.yml": b"null\n",
    "start.yml": b"---\n",
    "list.yml": b"[]\n",
    "null.json": b"null",
}
BAD = {
    "null_group.yml": b"-\n" + WEB1,
    "text.yml": b"- targets: web1\n",
    "misspelt.yml": b"- target: [web1]\n",
    "mapping.yml": b"targets: [web1]\n",
    "merge_scalar.yml": b"- <<: 3\n",
    "latin1.yml": b"# \xe9\n" + WEB1,
    "empty.json": b"",
    "null_group.json": b"[null]",
    "misspelt.json": b'[{"target": ["web1"]}]',
    "two.json": b"[] []",
}


def is_taken_by_prometheus(folder: Path, name: str, content: bytes) -> bool:
    """Ask promtool whether a list is right."""
    if shutil.which("promtool") is None:
        missing("promtool is not installed")
    (folder / name).write_bytes(content)
    (folder / "prometheus.yml").write_text(
        f"scrape_configs:\n- job_name: x\n  file_sd_configs:\n  - files: [{name}]\n", encoding="utf-8"
    )
    command = ["promtool", "check", "config", "prometheus.yml"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def targets(name: str, content: bytes) -> list[object]:
    """Return the targets of a list as portspec reads it."""
    groups = read_json(content) if name.endswith(".json") else read_yaml(content)
    return [target for group in groups for target in group.targets]


@pytest.mark.parametrize("name", [*GOOD, *EMPTY])
def test_a_list_that_prometheus_takes_is_taken(name: str, tmp_path: Path) -> None:
    """Empty groups, nulls, anchors, merges and byte order marks cost nothing."""
    content = (GOOD | EMPTY)[name]
    assert is_taken_by_prometheus(tmp_path, name, content)
    assert set(targets(name, content)) == ({"web1"} if name in GOOD else set())


@pytest.mark.parametrize("name", BAD)
def test_a_list_that_prometheus_refuses_is_refused(name: str, tmp_path: Path) -> None:
    """What may stand for targets that were misspelt is never taken for an empty list."""
    assert not is_taken_by_prometheus(tmp_path, name, BAD[name])
    with pytest.raises(ListError):
        targets(name, BAD[name])
