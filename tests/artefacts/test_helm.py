from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from portspec import __version__
from portspec.config import load
from tests.artefacts.helm import CHART, EXAMPLES, ROOT, container, example, helm, only, pod, program, refusal, render
from tests.artefacts.rules import RULES, tool
from tests.e2e.exporter import Exporter, hosts_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: The first version of Kubernetes whose schema is at hand, and a recent one.
VERSIONS: Final = ("1.25", "1.37")
#: Kinds that the Prometheus operator adds to Kubernetes.
OPERATOR_KINDS: Final = {"ServiceMonitor", "PrometheusRule"}
MINIMAL: Final = example("minimal")
PROMETHEUS: Final = example("prometheus")
SHARDS: Final = 2


def values() -> dict[str, Any]:
    """Return the values of the chart without any of a user's."""
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return found


def test_chart_has_the_version_of_portspec() -> None:
    """Chart and application have one version, by which the image is chosen."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert container(render(MINIMAL))["image"] == f"ghcr.io/portspec/portspec:{__version__}"


def test_chart_and_image_agree() -> None:
    """User, port, program and directory of the state are those of the Dockerfile."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    one = container(render(example("shards")))
    context = one["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile
    assert f"EXPOSE {one['ports'][0]['containerPort']}\n" in dockerfile
    (entry_point,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', dockerfile, re.MULTILINE)
    assert f"exec {entry_point} " in one["command"][2]
    (state,) = (mount["mountPath"] for mount in one["volumeMounts"] if mount["name"] == "state")
    assert f"VOLUME {state}\n" in dockerfile


def test_chart_has_every_dashboard() -> None:
    """The chart holds a copy of each dashboard, and no other; `make generated` writes them."""
    places = (CHART / "files" / "dashboards", ROOT / "grafana" / "dashboards")
    copies, originals = ({path.name for path in place.glob("*.json")} for place in places)
    assert copies == originals


@pytest.mark.parametrize("path", [CHART / "values.yaml", *EXAMPLES], ids=lambda path: path.stem)
def test_helm_lint_finds_nothing(path: Path) -> None:
    """`helm lint --strict` has neither an error nor a warning, with every file of values."""
    done = helm("lint", "--strict", "--kube-version", "1.34.0", CHART, "--values", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_manifests_are_what_kubernetes_accepts(path: Path, version: str) -> None:
    """Every manifest has the fields of its kind and no other, in an old and in a recent version of Kubernetes."""
    for manifest in render(path, version=version):
        if manifest["kind"] not in OPERATOR_KINDS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_examples_are_a_dozen_and_cover_every_kind() -> None:
    """The files of values have a manifest of every kind that a template of the chart makes."""
    made = {manifest["kind"] for path in EXAMPLES for manifest in render(path)}
    texts = (path.read_text(encoding="utf-8") for path in (CHART / "templates").glob("*.yaml"))
    assert made == {kind for text in texts for kind in re.findall(r"^kind: (\w+)$", text, re.MULTILINE)} | {
        "Secret",
        "ConfigMap",
    }
    assert len(EXAMPLES) == 12


def test_schema_has_every_value() -> None:
    """values.schema.json describes the values of values.yaml, and no other; so a misspelt one is refused."""

    def compare(schema: Mapping[str, Any], default: Mapping[str, Any], where: str) -> None:
        listed = set(schema["properties"]) - ({"enabled"} if where == "" else set())
        assert listed == set(default), where
        assert where == ".global" or schema["additionalProperties"] is False, where
        for name, value in default.items():
            inner = schema["properties"][name]
            if name not in {"config", "resources", "updateStrategy"} and value and "properties" in inner:
                compare(inner, value, f"{where}.{name}")

    compare(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")), values(), "")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("shards=0", r"shards.*\b1\b"),
        ('shards="two"', "shards.*integer"),
        ("shard=3", "'shard' not allowed"),
        ('image.pullPolicy="always"', "image.pullPolicy.*'Always', 'IfNotPresent', 'Never'"),
        ('image.digest="0123"', "image.digest.*sha256"),
        ('logLevel="verbose"', "logLevel.*'debug', 'info', 'warning', 'error'"),
        ('logFormat="text"', "logFormat.*'json', 'logfmt'"),
        ('persistence.accessModes=["ReadWriteMany"]', "persistence.accessModes.*'ReadWriteOnce'"),
        ('persistence.size="1GB"', "persistence.size.*1GB.*Gi"),
        ('config.scan="syn"', "config.scan.*object"),
        ("containerPort=70000", "containerPort.*65,?535"),
        ('podDisruptionBudget={"minAvailable": 1, "maxUnavailable": 1}', "podDisruptionBudget.*1"),
        ("serviceMonitor.interval=60", "serviceMonitor.interval.*string"),
        ('extraSecretMounts=[{"name": "x"}]', "extraSecretMounts.*'mountPath', 'secretName'"),
        ('fullnameOverride="PortSpec"', "fullnameOverride.*PortSpec.*a-z"),
        ('networkPolicy.enabled="yes"', "networkPolicy.enabled.*boolean"),
        ('extraArgs=["verbose"]', "extraArgs.*verbose.*-"),
        ('resources={"memory": "1Gi"}', "resources.*'memory' not allowed"),
    ],
)
def test_value_without_sense_is_refused(setting: str, told: str) -> None:
    """The schema refuses it, with the name of the value and what is expected."""
    assert re.search(told, refusal(setting).replace("/", "."))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("config={}",), "config is empty: set config.hosts and config.scanports, or configExistingSecretName"),
        (('configExistingSecretName="x"',), "are both set: remove one of them"),
        (('config="hosts: ["',), "config is a text that is no YAML: correct it"),
        (('config.smtppassword="x"',), "config.smtppassword is a secret, and the configuration is in a ConfigMap: set"),
        (('config="audit: {passphrase: x}"',), "config.audit.passphrase is a secret"),
        (('config.discovery.http_sd=[{"url": "https://x", "password": "x"}]',), r"http_sd\[0\].password is a secret"),
        (('config.discovery.http_sd={"url": "https://x", "bearer_token": "x"}',), r"http_sd\[0\].bearer_token is"),
        (('config.scan.engine="syn"',), "needs a capability: set raw.enabled: true, or engine: auto"),
        (("raw.runAsRoot=true",), "raw.runAsRoot is set without raw.enabled: set raw.enabled: true"),
        (("shards=2", "ingress.enabled=true"), "is one name for 2 shards.*write a name such as"),
        (('fullnameOverride="scanner"', "prometheusRule.enabled=true"), "let fullnameOverride contain portspec"),
    ],
)
def test_values_that_contradict_each_other_are_refused(settings: tuple[str, ...], told: str) -> None:
    """What is wrong only together is refused, with what to do."""
    assert re.search(told, refusal(*settings))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_configurations_are_right(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is mounted as portspec.yml is what portspec reads, with its comments if it was given as a text."""
    monkeypatch.setenv("SMTP_PASSWORD", "correct horse battery staple")
    (tmp_path / "passphrase").write_text("correct horse battery staple\n", encoding="utf-8")
    manifests = render(path)
    (volume,) = (volume for volume in pod(manifests)["volumes"] if volume["name"] == "config")
    if path == example("existing-secret"):
        assert volume["secret"] == {"secretName": "portspec-config", "defaultMode": 0o440}
        return
    if path == example("secret-config"):
        secret = only(manifests, "Secret")
        assert volume["secret"]["secretName"] == secret["metadata"]["name"]
        text = secret["stringData"]["portspec.yml"]
        assert text == values_of(path)["config"]
    else:
        name = volume["configMap"]["name"]
        (text,) = (
            one["data"]["portspec.yml"]
            for one in manifests
            if one["kind"] == "ConfigMap" and one["metadata"]["name"] == name
        )
        assert yaml.safe_load(text) == values_of(path)["config"]
    conf = tmp_path / "portspec.yml"
    conf.write_text(text.replace("/etc/portspec-audit", str(tmp_path)), encoding="utf-8")
    assert load(conf).hosts


def values_of(path: Path) -> dict[str, Any]:
    """Read a file of values."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def test_pod_has_no_privilege() -> None:
    """By default a pod meets the level `restricted` of the Pod Security Standards, and its file system is read-only."""
    manifests = render(MINIMAL)
    assert container(manifests)["securityContext"] == {
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(manifests)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(manifests)["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod(manifests))


def test_raw_sockets_take_one_capability() -> None:
    """With raw.enabled the user stays, the image has the file capability, and escalation lets it take effect."""
    one = container(render(example("raw")))
    changed = {"allowPrivilegeEscalation": True, "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}
    assert one["securityContext"] == container(render(MINIMAL))["securityContext"] | changed
    assert one["image"].endswith(f":{__version__}-raw")


def test_root_has_one_capability_and_cannot_escalate() -> None:
    """With raw.runAsRoot the pod is root with NET_RAW alone, from the ordinary image."""
    one = container(render(example("raw-as-root")))
    changed = {"runAsUser": 0, "runAsNonRoot": False, "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}
    assert one["securityContext"] == container(render(MINIMAL))["securityContext"] | changed
    assert one["image"].endswith(f":{__version__}")


def test_state_is_kept() -> None:
    """Each shard has a claim for its state file; without persistence it is a directory of the pod."""
    (claim,) = only(render(MINIMAL), "StatefulSet")["spec"]["volumeClaimTemplates"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container(render(MINIMAL))["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == "/var/lib/portspec"
    without = render(example("host-network"))
    assert "volumeClaimTemplates" not in only(without, "StatefulSet")["spec"]
    assert {"name": "state", "emptyDir": {}} in pod(without)["volumes"]


class Pod(Exporter):
    """The container of a pod as a process: its command and environment, with other paths and another port."""

    def __init__(self, of: Mapping[str, Any], name: str, directory: Path) -> None:
        directory.mkdir()
        self.conf, self.log = directory.with_name("portspec.yml"), directory / "log"
        places = {
            "/opt/portspec/bin/portspec": f"{sys.prefix}/bin/portspec",
            "/etc/portspec/portspec.yml": str(self.conf),
            "/var/lib/portspec": str(directory),
            "=:10190": "=127.0.0.1:0",
        }

        def placed(text: str) -> str:
            for ours, here in places.items():
                text = text.replace(ours, here)
            return text

        fields = {"metadata.name": name}
        environment = {
            each["name"]: placed(each["value"])
            if "value" in each
            else fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
            for each in of["env"]
        }
        command = of.get("command", ["/opt/portspec/bin/portspec"])  # the entry point of the image
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [placed(word) for word in (*command, *of["args"])],
                stdout=output,
                stderr=output,
                env=os.environ | environment,
            )


@pytest.mark.parametrize(("release", "shards"), [("portspec", 1), ("site-3", SHARDS)])
def test_pods_are_the_shards(release: str, shards: int, tmp_path: Path) -> None:
    """Each pod scans its own part of the hosts, and all pods together every host; the probes find it healthy."""
    program()
    hosts: dict[str, list[int]] = {f"127.83.0.{number}": [] for number in range(1, 21)}
    conf = {"hosts": hosts, "scanports": [9], "scan": {"engine": "connect", "confirm": 1}}
    manifests = render(settings=(f"shards={shards}", f"config={json.dumps(conf)}"), release=release)
    replicas = only(manifests, "StatefulSet")["spec"]["replicas"]
    name = only(manifests, "StatefulSet")["metadata"]["name"]
    of = container(manifests)
    (tmp_path / "portspec.yml").write_text(only(manifests, "ConfigMap")["data"]["portspec.yml"], encoding="utf-8")
    seen: list[str] = []
    for ordinal in range(replicas):
        one = Pod(of, f"{name}-{ordinal}", tmp_path / str(ordinal))
        try:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert one.get(of[probe]["httpGet"]["path"]).status == 200
            one.wait_until_ready()
            page = one.series()
            assert page["portspec_shard_info"] == {f'shard="{ordinal}",shards="{shards}"': 1}
            seen += hosts_of(page)
            assert (tmp_path / str(ordinal) / "portspec.db").exists()
        finally:
            one.kill()
    assert replicas == shards
    assert sorted(seen) == sorted(hosts)


def test_shards_have_names_of_their_own() -> None:
    """With an Ingress, each shard has a name that leads to the Service of its pod, with TLS."""
    manifests = render(example("ingress"))
    ingress = only(manifests, "Ingress")["spec"]
    selectors = {
        one["metadata"]["name"]: one["spec"]["selector"].get("statefulset.kubernetes.io/pod-name")
        for one in manifests
        if one["kind"] == "Service"
    }
    led = {rule["host"]: selectors[rule["http"]["paths"][0]["backend"]["service"]["name"]] for rule in ingress["rules"]}
    assert led == {f"portspec-{shard}.example.org": f"portspec-{shard}" for shard in range(SHARDS)}
    assert [sorted(led)] == [tls["hosts"] for tls in ingress["tls"]]


def test_network_policy_names_who_may_connect() -> None:
    """Only the peers of the values may connect, to the port of portspec; what it scans is not limited."""
    policy = only(render(example("network-policy")), "NetworkPolicy")["spec"]
    (rule,) = policy["ingress"]
    labels = [peer["namespaceSelector"]["matchLabels"] for peer in rule["from"]]
    assert [label["kubernetes.io/metadata.name"] for label in labels] == ["monitoring", "ingress-nginx"]
    assert policy["policyTypes"] == ["Ingress"]
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
    everybody = only(render(MINIMAL, settings=("networkPolicy.enabled=true",)), "NetworkPolicy")["spec"]
    assert "from" not in everybody["ingress"][0]


def test_prometheus_finds_all_shards_once() -> None:
    """The ServiceMonitor selects the headless Service by its labels and port, and no Service of a single shard."""
    manifests = render(PROMETHEUS, settings=("shardServices.enabled=true",))
    monitor = only(manifests, "ServiceMonitor")["spec"]
    selected = [
        one["spec"]
        for one in manifests
        if one["kind"] == "Service" and monitor["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
    ]
    assert [one["clusterIP"] for one in selected] == ["None"]
    assert {port["name"] for port in selected[0]["ports"]} == {endpoint["port"] for endpoint in monitor["endpoints"]}
    assert only(manifests, "ServiceMonitor")["metadata"]["labels"]["release"] == "portspec"


def test_prometheus_accepts_the_relabelling(tmp_path: Path) -> None:
    """The rules of the ServiceMonitor, in the spelling of prometheus.yml, are right; `instance` is the pod."""
    (endpoint,) = only(render(PROMETHEUS), "ServiceMonitor")["spec"]["endpoints"]

    def spelled(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{re.sub("[A-Z]", lambda one: f"_{one[0].lower()}", key): rule[key] for key in rule} for rule in rules]

    job = {
        "job_name": "portspec",
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["scrapeTimeout"],
        "metrics_path": endpoint["path"],
        "scheme": endpoint["scheme"],
        "relabel_configs": spelled(endpoint["relabelings"]),
        "metric_relabel_configs": spelled(endpoint["metricRelabelings"]),
    }
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump({"scrape_configs": [job]}), encoding="utf-8")
    done = subprocess.run(
        [tool("promtool", "prometheus"), "check", "config", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    targets = [rule["target_label"] for rule in job["relabel_configs"]]
    assert targets == ["instance", "vantage", "cluster"]


def test_rules_are_the_shipped_ones(tmp_path: Path) -> None:
    """The PrometheusRule has the shipped groups unchanged, templates included, then the user's; promtool accepts it."""
    spec = only(render(PROMETHEUS), "PrometheusRule")["spec"]
    *shipped, own = spec["groups"]
    assert {"groups": shipped} == yaml.safe_load(RULES.read_text(encoding="utf-8"))
    assert own == {"name": "portspec-additional", "rules": values_of(PROMETHEUS)["prometheusRule"]["rules"]}
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    done = subprocess.run(
        [tool("promtool", "prometheus"), "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboards_come_through_unchanged(tmp_path: Path) -> None:
    """Each file of files/dashboards is a ConfigMap with Grafana's label; what looks like a template in it stays."""
    chart = tmp_path / "portspec"
    shutil.copytree(CHART, chart)
    dashboard = json.dumps({"title": "Fleet", "legendFormat": "{{host}} {{ .Values }}"}, indent=2)
    (chart / "files" / "dashboards").mkdir(exist_ok=True)
    (chart / "files" / "dashboards" / "portspec-test.json").write_text(dashboard, encoding="utf-8")
    manifests = render(PROMETHEUS, chart=chart)
    (found,) = (one for one in manifests if "portspec-test.json" in one.get("data", {}))
    assert found["data"]["portspec-test.json"].strip() == dashboard
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert (found["metadata"]["name"], found["metadata"]["namespace"]) == ("portspec-portspec-test", "monitoring")


def test_secrets_are_mounted_readable_by_the_group_only() -> None:
    """A mounted Secret has mode 0440, which the group of the pod reads and nobody else."""
    manifests = render(example("secrets"))
    secrets = [volume["secret"] for volume in pod(manifests)["volumes"] if "secret" in volume]
    assert secrets == [{"secretName": "portspec-audit", "defaultMode": 0o440}]
    assert pod(manifests)["securityContext"]["fsGroup"] == container(manifests)["securityContext"]["runAsGroup"]
    assert container(manifests)["envFrom"] == [{"secretRef": {"name": "portspec-smtp"}}]


def test_extra_values_arrive() -> None:
    """Names, labels, containers and manifests of the user are in the manifests; a text is a template."""
    manifests = render(example("extra"))
    named = [one for one in manifests if one["metadata"]["name"] != "portspec-extra"]
    assert {one["metadata"]["namespace"] for one in named} == {"security"}
    assert all(one["metadata"]["name"].startswith("portspec-dmz") for one in named)
    assert all(one["metadata"]["labels"]["team"] == "security" for one in named)
    assert pod(manifests)["containers"][1]["image"].endswith(f":{__version__}")
    assert container(manifests)["image"].startswith("registry.example.org/mirror/portspec@sha256:0123")
    assert only(tuple(one for one in manifests if one not in named), "ConfigMap")["data"] == {"version": __version__}


def test_plain_manifests_are_rendered_from_the_chart() -> None:
    """deploy/kubernetes/portspec.yaml, for those without Helm, is what `make manifests` writes, and valid."""
    program()
    directory = ROOT / "deploy" / "kubernetes"
    done = subprocess.run(["sh", directory / "render.sh"], capture_output=True, text=True, check=True)
    text = (directory / "portspec.yaml").read_text(encoding="utf-8")
    assert text == done.stdout, "make manifests"
    for manifest in yaml.safe_load_all(text):
        assert "namespace" not in manifest["metadata"]
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_examples_of_the_page_are_right(tmp_path: Path) -> None:
    """Every example of values in docs/deployment/kubernetes.md is rendered to valid manifests."""
    page = (ROOT / "docs" / "deployment" / "kubernetes.md").read_text(encoding="utf-8")
    examples = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "config:" in text]
    assert len(examples) == 7
    for number, text in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        for manifest in render(path):
            if manifest["kind"] not in OPERATOR_KINDS:
                kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
