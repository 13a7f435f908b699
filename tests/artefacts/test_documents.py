from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
import trustme

from portspec.access import headers, tls_block
from portspec.access import load as web_config
from portspec.access.model import Permission, Role
from portspec.audit.model import Audit, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.cli.arguments import COMMANDS
from portspec.config import VulnerabilityException, load
from portspec.config.audit import AuditModel
from portspec.config.discovery import DnsModel, FileModel, HttpModel
from portspec.config.fields import HostModel
from portspec.config.model import EngineChoice
from portspec.config.schema import ConfModel, ExceptionModel, ModuleModel, ScanModel
from portspec.metrics import CATALOGUE
from portspec.scan import Reason
from portspec.state.document import audit_document, host_document
from portspec.state.snapshot import HostState
from tests.unit.factories import NOW, result, seen, target

if TYPE_CHECKING:
    from pydantic import BaseModel

ROOT = Path(__file__).parents[2]


def text(name: str) -> str:
    """Return a document of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_metrics_page_lists_the_catalogue() -> None:
    """docs/metrics.md names every metric with its type and labels, and no other."""
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (gauge|counter|histogram) \| ([a-z_, ]*) ?\|", text("docs/metrics.md"), re.MULTILINE
    )
    listed = {(name, kind, tuple(filter(None, labels.strip().split(", ")))) for name, kind, labels in rows}
    assert listed == {(metric.name, metric.kind, metric.labels) for metric in CATALOGUE}


def test_metrics_are_spelled_in_the_catalogue_alone() -> None:
    """No other module of the package spells the name of a metric."""
    names = {metric.name for metric in CATALOGUE}
    for module in (ROOT / "exporter").rglob("*.py"):
        if module.name != "catalogue.py":
            spelled = set(re.findall(r"[\"']([a-z_]+)[\"']", module.read_text(encoding="utf-8")))
            assert not names & spelled, module


def test_metrics_page_lists_every_reason() -> None:
    """docs/metrics.md explains every reason of port_scan_failure."""
    page = text("docs/metrics.md")
    assert all(f"`{reason.value}`" in page for reason in Reason)


@pytest.mark.parametrize(
    "model", [ConfModel, HostModel, ScanModel, ExceptionModel, AuditModel, ModuleModel, FileModel, HttpModel, DnsModel]
)
def test_configuration_page_lists_every_key(model: type[BaseModel]) -> None:
    """docs/configuration.md has a row for every key."""
    page = text("docs/configuration.md")
    cells = {key for row in re.findall(r"^\| ([^|]*)\|", page, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert set(model.model_fields) <= cells


def test_web_configuration_page_lists_every_key() -> None:
    """docs/web-configuration.md has a row for every key, or for its parts, and names roles and permissions."""
    page = text("docs/web-configuration.md")
    cells = {key for row in re.findall(r"^\| ([^|]*)\|", page, re.MULTILINE) for key in re.findall(r"`([\w.]+)`", row)}
    blocks = {"tls_server_config", "http_server_config", "rate_limit"}
    parts = {"http_server_config.http2", "http_server_config.headers", "rate_limit.interval", "rate_limit.burst"}
    words = {*(role.value for role in Role), *(permission.value for permission in Permission)}
    assert {*tls_block.KEYS, *parts, *words} | (set(web_config.KEYS) - blocks) <= cells
    assert all(f"`{name}`" in page for name in (*headers.HEADERS, *tls_block.CURVES))


def test_configuration_page_lists_every_engine() -> None:
    """The rows of `engine` in docs/configuration.md, of `scan` and of `modules`, name what may stand there."""
    rows = re.findall(r"^\| `engine` \|.*$", text("docs/configuration.md"), re.MULTILINE)
    assert len(rows) == 2
    assert all(f"`{engine}`" in row for engine in get_args(EngineChoice) for row in rows)


def test_configuration_page_lists_every_key_of_the_document() -> None:
    """docs/configuration.md names each key of a host of `scan --json`, and of its addresses."""
    of = target()
    document = host_document(HostState(of).after(result(of, seen())))
    section = text("docs/configuration.md").split("### `scan --json`")[1].split("\n## ")[0]
    vulnerability = Vulnerability("curl", "7.50.1", "CVE-2016-7167")
    listener = ListeningSocket("tcp", "192.0.2.9", 22)
    host_audit = HostAudit(NOW, "pkg-audit", None, Audit(Status.VULNERABLE, (vulnerability,)), (listener,))
    accepted = VulnerabilityException(("*",), ("cve-2016-7167",), until=NOW + 1)
    excepted: Any = audit_document(AuditState("web1", (accepted,), host_audit, NOW), None)
    own = {*document, *document["addresses"][0], *excepted, *excepted["excepted"][0], *excepted["listeners"][0]}
    assert all(f"`{key}`" in section for key in own)


def test_every_command_is_documented() -> None:
    """The commands stand in docs/configuration.md."""
    page = text("docs/configuration.md")
    assert all(re.search(rf"`portspec \[?{command}", page) for command in COMMANDS)


def paths() -> set[str]:
    """Return the paths that the table of docs/http.md has; tests/unit/web/test_gate.py compares it with the routes."""
    return set(re.findall(r"^\| `(/\S*)` \| (?:GET|POST) \|", text("docs/http.md"), re.MULTILINE))


PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))


@pytest.mark.parametrize("name", sorted({*PAGES, "exporter/portspec/agent.py"} - {"CHANGELOG.md"}))
def test_paths_of_the_api_are_served(name: str) -> None:
    """Every path below /api/v1 that a page, or the agent, names is a route; a former one stands beside its 410."""
    lines = text(name).splitlines()
    named = {path for line in lines if "410" not in line for path in re.findall(r"/api/v1/[a-z.]+[a-z]", line)}
    served = {path.removesuffix("/NAME") for path in paths()} - {"/api/v1/reports"}
    assert named <= served


def test_threat_model_names_tests_that_exist() -> None:
    """Each test that SECURITY.md names exists; each row of its threats names one, or says which is to come."""
    page = text("SECURITY.md")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 50
    for path, name in named:
        assert re.search(rf"^(?:async )?def {name}\(", text(path), re.MULTILINE), f"{path}::{name}"
    tables = re.findall(r"^\| wants to \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert len(tables) == 7
    for row in "".join(tables).splitlines():
        assert re.search(r"::\w+`|<!-- test: ", row.split("|")[3]), row


def anchors(page: str) -> set[str]:
    """Return the anchors of a page: those that GitHub gives the headings, and those that the page defines itself."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^ *```.*?^ *```", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings)
    defined = re.findall(r'^<a id="([\w-]+)"></a>$', page, re.MULTILINE)
    return {*defined, *(re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain)}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link of a document names a file that exists, and a section of it that exists."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text(name)):
        if "://" not in link:
            file, _, anchor = link.partition("#")
            path = (ROOT / name).parent.joinpath(file) if file else ROOT / name
            assert path.exists(), link
            if anchor:
                assert anchor in anchors(path.read_text(encoding="utf-8")), link


def test_architecture_page_lists_every_module() -> None:
    """docs/architecture.md has a row for each module of the package, by its directory, and for no other."""
    section = text("docs/architecture.md").split("\n## Packages and modules\n")[1].split("\n## ")[0]
    listed: list[str] = []
    for part in section.split("\n### ")[1:]:
        heading = part.splitlines()[0].strip("`")
        package = heading if heading.endswith("/") else ""
        for cell in re.findall(r"^\| (`[^|]*)\|", part, re.MULTILINE):
            listed += (package + name for name in re.findall(r"`(\w+\.py)`", cell))
    package_root = ROOT / "exporter" / "portspec"
    modules = (str(path.relative_to(package_root)) for path in package_root.rglob("*.py"))
    assert sorted(listed) == sorted(name for name in modules if not name.endswith(("__init__.py", "__main__.py")))


def test_architecture_page_lists_its_sections() -> None:
    """docs/architecture.md begins with a table of contents."""
    page = text("docs/architecture.md")
    sections = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert re.findall(r"^\* \[(.*?)\]\(#", page.split("\n## ")[0], re.MULTILINE) == sections


def test_architecture_page_names_tests_that_exist() -> None:
    """The tests to copy that docs/architecture.md names exist, as well as the packages whose comment it refers to."""
    section = text("docs/architecture.md").split("\n## Adding things\n")[1].split("\n## ")[0]
    for name in re.findall(r"`(tests/[\w/.]+)`", section):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`([\w/]+/__init__\.py)`", section):
        assert (ROOT / "exporter" / "portspec" / name).exists(), name


def test_arithmetic_of_sizing_is_right() -> None:
    """The programs in docs/scale.md print what stands below them."""
    page = text("docs/scale.md")
    console = re.findall(r"\$ python3 <<'E'\n(.*?)\nE\n(.*?)```", page, re.DOTALL)
    table = re.findall(r"```python\n(.*?)```\n\n(?:\|[^\n]*\n){2}((?:\|[^\n]*\n)+)", page, re.DOTALL)
    assert (len(console), len(table)) == (1, 1)
    for program, printed in (*console, *table):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == printed


def test_glossary_is_alphabetical() -> None:
    """docs/glossary.md has each term once, in alphabetical order."""
    terms = [
        term.strip("`").lower() for term in re.findall(r"^\* \*\*(.*?)\*\*", text("docs/glossary.md"), re.MULTILINE)
    ]
    assert len(terms) > 1
    assert terms == sorted(set(terms))


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/deployment/")])
def test_deployment_pages_list_their_sections(name: str) -> None:
    """A page of docs/deployment/ begins with a table of contents; the index names every page."""
    page = text(name)
    sections = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert re.findall(r"^\* \[(.*)\]\(#.*\)$", page.split("\n## ")[0], re.MULTILINE) == sections
    assert f"]({Path(name).name})" in text("docs/deployment/README.md") or name.endswith("/README.md")


@pytest.mark.parametrize("name", ["README.md", "docs/configuration.md"])
def test_yaml_examples_with_hosts_load(name: str, tmp_path: Path) -> None:
    """Every example of a configuration in the documents is a right one."""
    examples = [block for block in re.findall(r"```yaml\n(.*?)```", text(name), re.DOTALL) if "hosts:" in block]
    (tmp_path / "passphrase").write_text("correct horse battery staple\n", encoding="utf-8")
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yml"
        path.write_text(example, encoding="utf-8")
        assert load(path).hosts


@pytest.mark.parametrize("name", ["docs/web-configuration.md", "docs/deployment/reverse-proxy.md"])
def test_examples_of_a_web_config_file_load(name: str, tmp_path: Path) -> None:
    """Every example of a web config file in the documents is a right one."""
    examples = [block for block in re.findall(r"```yaml\n(.*?)```", text(name), re.DOTALL) if "scrape_" not in block]
    (tmp_path / "nightly.token").write_text("uQ0mAvAjyvVYlpYyfDCzNtJK\n", encoding="utf-8")
    assert examples
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yml"
        path.write_text(example, encoding="utf-8")
        assert not web_config.load_web_config(path, {}).warnings


def test_what_the_shipped_configuration_comments_out_is_right(tmp_path: Path) -> None:
    """Every key of conf.yml that is commented out is a right one once the # in front of it is gone."""
    (tmp_path / "secret").write_text("correct horse battery staple\n", encoding="utf-8")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    lines = re.sub(r"^( *)# ( *(?:[a-z_]+:|- |[\"'#]))", r"\1\2", text("conf.yml"), flags=re.MULTILINE)
    lines = re.sub(r"^( *)# ( *[a-z_]+: )", r"\1\2", lines, flags=re.MULTILINE)  # previous_passphrase_file, once more
    lines = lines.replace("/etc/portspec/passphrase.old", "secret.old").replace("/etc/portspec/passphrase", "secret")
    lines = lines.replace("/etc/portspec/smtp_password", "secret").replace("/etc/portspec/ca.pem", "ca.pem")
    (tmp_path / "secret.old").write_text("tuna mayonnaise sandwich\n", encoding="utf-8")
    path = tmp_path / "conf.yml"
    path.write_text(lines.replace("/var/www/portspec/", ""), encoding="utf-8")
    config = load(path)
    assert config.audit
    assert (len(config.audit.passphrases), config.audit.hosts) == (2, ("db1.example.org",))
    assert config.mail
    assert config.reportmail
    assert config.reportfile == str(tmp_path / "index.html")
    assert (len(config.exceptions), len(config.accepted), len(config.discovery), len(config.modules)) == (1, 1, 3, 1)


def test_shipped_configuration_is_right() -> None:
    """`portspec check` finds nothing wrong with the shipped conf.yml."""
    done = subprocess.run(
        [sys.executable, "-m", "portspec", "check", "-c", "conf.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("conf.yml is valid.\n")


DOCUMENTED = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy" / "agent").iterdir(),
        *(ROOT / "deploy" / "man").iterdir(),
        ROOT / "exporter" / "portspec" / "agent.py",
    )
)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_agent_is_run_isolated(name: str) -> None:
    """Wherever python3 is told to run the agent it is with -I: else it imports what lies beside the file."""
    for line in text(name).splitlines():
        if found := re.search(r"python3?\b(.*?)(?:\S*/)?(?:agent\.py|portspec-send)(?![\w.-])", line):
            assert "-I" in found[1], line


def test_agent_run_isolated_imports_nothing_that_lies_beside_it(tmp_path: Path) -> None:
    """`python3 -I agent.py` in a directory with another's argparse.py does not run that."""
    shutil.copy(ROOT / "exporter" / "portspec" / "agent.py", tmp_path)
    (tmp_path / "argparse.py").write_text("raise SystemExit('another one ran')", encoding="utf-8")
    (command,) = re.findall(r"python3 (-I agent\.py)$", text("README.md"), re.MULTILINE)
    done = subprocess.run(
        [sys.executable, *command.split(), "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_readme_warns_of_code_that_came_over_http() -> None:
    """Beside the command that fetches the agent stands what that trusts."""
    page = text("README.md")
    assert "may have been changed on the way" in page[page.index("curl -O http") :][:600]
