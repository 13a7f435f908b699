from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
#: A make target, as root where it needs that, or the installation of make.
MAKE: Final = re.compile(r"(?:sudo (?:--preserve-env=CI )?)?make ([a-z-]+)")
INSTALLS_MAKE: Final = re.compile(r"(?:sudo )?apt-get install (?:--yes|-y) make")


def read(path: Path) -> Any:
    """Parse a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    """Return the jobs of a workflow by their names."""
    found: dict[str, dict[str, Any]] = read(path)["jobs"]
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow."""
    return [step for job in jobs(path).values() for step in job["steps"]]


def recipe(target: str) -> list[str]:
    """Return the commands of a target of the Makefile."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, target
    return [line.strip() for line in found[1].splitlines()]


def test_workflows_exist() -> None:
    """There is one workflow for changes and one for releases."""
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]
    assert list(jobs(WORKFLOWS[0])) == ["check", "test", "matrix", "audit"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_step_runs_make(path: Path) -> None:
    """A workflow contains no command of its own: each step runs a target that the Makefile has, or installs make."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for run in (step["run"] for step in steps(path) if "run" in step):
        if not INSTALLS_MAKE.fullmatch(run):
            found = MAKE.fullmatch(run)
            assert found, run
            assert found[1] in targets


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_have_a_major_version(path: Path) -> None:
    """Every action is pinned to a major version."""
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@(?:release/)?v\d+", name) for name in used)


def test_release_publishes_what_make_dist_built() -> None:
    """Only the job that publishes may request an identity, and it does nothing else than publish with attestations."""
    workflow = read(WORKFLOWS[1])
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert workflow["permissions"] == {}
    assert build["permissions"] == {"contents": "read"}
    assert publish["permissions"] == {"id-token": "write"}
    assert "make dist" in [step.get("run") for step in build["steps"]]
    kept = {step["with"]["name"]: step["with"]["path"].split() for step in build["steps"] if "upload" in str(step)}
    assert kept == {"dist": ["dist/*.tar.gz", "dist/*.whl"], "sbom": ["dist/*.cdx.json"]}  # PyPI takes no other files
    assert publish["steps"][0]["with"] == {"name": "dist", "path": "dist/"}
    assert not any("run" in step for step in publish["steps"])
    assert publish["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert publish["steps"][-1]["with"] == {"attestations": True}


def test_hooks_are_the_linters_of_the_makefile() -> None:
    """The pre-commit hooks are local and run the commands of `make lint`, in the same order."""
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == [
        line.replace("$(BIN)", ".venv/bin") for line in recipe("lint")
    ]
    assert not any(hook["pass_filenames"] for hook in repository["hooks"])
