"""The Helm chart, and what the real helm makes of it."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.requirements import missing

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy" / "helm" / "portspec"
#: A file of values for each subject.
EXAMPLES: Final = tuple(sorted((CHART / "ci").glob("*-values.yaml")))
_BUILT: Final = ROOT / ".packages" / "helm" / "helm"  # of tests/helm.sh
#: helm renders for a version of Kubernetes, and one that `go install` built has none of its own.
KUBERNETES: Final = "1.34"


def program() -> str:
    """Return the path of helm; without it the test is skipped, and fails in CI."""
    path = str(_BUILT) if _BUILT.exists() else shutil.which("helm")
    if path is None:
        missing("helm is not built (sh tests/helm.sh, which takes Go)")
    return path


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm to its end."""
    command = [program(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@cache
def render(
    *values: Path,
    settings: tuple[str, ...] = (),
    release: str = "portspec",
    version: str = KUBERNETES,
    chart: Path = CHART,
) -> tuple[dict[str, Any], ...]:
    """Return the manifests for files of values, and for settings such as "shards=2", in the namespace `default`."""
    files = [word for path in values for word in ("--values", path)]
    single = [word for setting in settings for word in ("--set-json", setting)]
    done = helm("template", release, chart, "--kube-version", f"{version}.0", *files, *single)
    assert done.returncode == 0, done.stderr
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def refusal(*settings: str) -> str:
    """Return why the smallest values and these settings are refused."""
    single = [word for setting in settings for word in ("--set-json", setting)]
    minimal = CHART / "ci" / "minimal-values.yaml"
    done = helm("template", "portspec", CHART, "--kube-version", f"{KUBERNETES}.0", "--values", minimal, *single)
    assert done.returncode != 0, done.stdout
    return done.stderr


def only(manifests: tuple[dict[str, Any], ...], kind: str) -> dict[str, Any]:
    """Return the one manifest of a kind."""
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def example(name: str) -> Path:
    """Return a file of values."""
    return CHART / "ci" / f"{name}-values.yaml"


def container(manifests: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Return the container of portspec."""
    found: dict[str, Any] = pod(manifests)["containers"][0]
    assert found["name"] == "portspec"
    return found


def pod(manifests: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Return the specification of the pods."""
    found: dict[str, Any] = only(manifests, "StatefulSet")["spec"]["template"]["spec"]
    return found
