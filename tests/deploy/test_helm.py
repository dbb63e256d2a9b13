"""The Helm chart: rendered by helm itself, and held against Kubernetes' own schemas."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import latest_version
from manyhats import __version__
from manyhats.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "manyhats"
# `make build/helm/helm` brings it.
HELM = shutil.which("helm") or shutil.which("helm", path=str(ROOT / "build" / "helm"))
pytestmark = pytest.mark.skipif(HELM is None, reason="needs helm: make build/helm/helm")

KUBERNETES = ("1.29", latest_version())
KEYS = {"keys": {"existingSecret": "keys"}}
SHARED = {"database": {"existingSecret": "database"}, "blobs": {"url": "s3://bucket/prefix"}}
SHARED_STORES = {"MANYHATS_DATABASE_URL", "MANYHATS_BLOBS_URL", "MANYHATS_BLOB_CACHE"}
CASES: dict[str, dict[str, Any]] = {
    "one": KEYS,
    "open": {"keys": {"allowUnauthenticated": True}, "podDisruptionBudget": {"enabled": False}},
    "claimed": KEYS | {"store": {"existingClaim": "mine"}, "serviceAccount": {"create": False}},
    "stateless": KEYS | SHARED | {"replicas": 2, "store": {"persistent": False}},
    "everything": SHARED
    | {
        "keys": {"apiKeys": ["a" * 20, "b" * 20], "adminKeys": ["c" * 20]},
        "image": {"repository": "example.org/manyhats", "tag": "@sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "pull"}],
        "blobs": {
            "url": "s3://bucket",
            "endpoint": "http://s3:9000",
            "region": "eu-central-1",
            "existingSecret": "s3",
        },
        "store": {"storageClass": "fast", "size": "50Gi"},
        "autoscaling": {"enabled": True},
        "serviceMonitor": {"enabled": True, "labels": {"a": "b"}, "authorization": {"name": "keys", "key": "metrics"}},
        "networkPolicy": {"enabled": True, "egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}]},
        "gpu": {"count": 1},
        "drain": {"delay": 12.5, "timeout": 60},
        "settings": {"slots": 512, "max_upload": 536870912, "verify_fraction": 0.01, "deterministic": True},
        "extraEnv": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "priorityClassName": "high",
    },
}


Rendered = dict[str, list[dict[str, Any]]]


def run(folder: Path, values: dict[str, Any], *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "values.json").write_text(json.dumps(values))
    command = [str(HELM), *words, str(CHART), "--values", str(folder / "values.json")]
    home = {f"HELM_{kind}_HOME": str(folder / "helm") for kind in ("CACHE", "CONFIG", "DATA")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"HOME": str(folder)} | home)


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rendered]:
    """A case's resources by their kind, rendered once."""
    found: dict[str, Rendered] = {}

    def one(case: str) -> Rendered:
        if case not in found:
            done = run(tmp_path_factory.mktemp("helm"), CASES[case], "template", "--namespace", "there", "prod")
            assert done.returncode == 0, done.stderr
            kinds: Rendered = defaultdict(list)
            for document in filter(None, yaml.safe_load_all(done.stdout)):
                kinds[document["kind"]].append(document)
            found[case] = kinds
        return found[case]

    return one


def pod(rendered: Rendered) -> dict[str, Any]:
    return rendered["StatefulSet"][0]["spec"]["template"]["spec"]


def environment(rendered: Rendered) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in pod(rendered)["containers"][0]["env"]}


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_takes_it(case: str, render: Callable[[str], Rendered]):
    checked = 0
    for kind, documents in render(case).items():
        for document in documents:
            if kind == "ServiceMonitor":  # Prometheus' operator's own, of which Kubernetes has no schema
                continue
            for version in KUBERNETES:
                kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked >= 3


def test_helm_finds_no_fault(tmp_path: Path):
    done = run(tmp_path, CASES["everything"], "lint", "--strict")
    assert done.returncode == 0, done.stdout + done.stderr
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__


@pytest.mark.parametrize("case", CASES)
def test_the_pod_has_no_rights(case: str, render: Callable[[str], Rendered]):
    spec = pod(render(case))
    user = spec["securityContext"]
    assert (user["runAsNonRoot"], user["runAsUser"], user["fsGroup"]) == (True, 10001, 10001)
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    # `MANYHATS_PORT` of a Service of that name is an address, and the setting a number.
    assert spec["enableServiceLinks"] is False
    assert {one["mountPath"] for one in container["volumeMounts"]} == {"/store", "/tmp"}
    volumes = {one["name"] for one in spec["volumes"]}
    claims = {one["metadata"]["name"] for one in render(case)["StatefulSet"][0]["spec"].get("volumeClaimTemplates", ())}
    assert not volumes & claims
    assert volumes | claims == {"store", "tmp"}


def test_it_drains_before_it_is_killed_and_is_asked_where_it_answers(render: Callable[[str], Rendered]):
    routes = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))["paths"]
    for case in CASES:
        rendered, spec = render(case), pod(render(case))
        settings = environment(rendered)
        drain = [float(settings[f"MANYHATS_DRAIN_{name}"]["value"]) for name in ("DELAY", "TIMEOUT")]
        assert spec["terminationGracePeriodSeconds"] >= sum(drain) + 10
        # An endpoint is gone within this time after the pod says that it is not ready.
        (container,) = spec["containers"]
        assert (
            drain[0] >= container["readinessProbe"]["periodSeconds"] * container["readinessProbe"]["failureThreshold"]
        )
        paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
        assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}
        assert set(paths.values()) <= set(routes)


def test_the_environment_is_the_servers_settings(render: Callable[[str], Rendered]):
    known = {f"MANYHATS_{name.upper()}" for name in Settings.model_fields} | SHARED_STORES
    for case in CASES:
        given = environment(render(case))
        assert {name for name in given if name.startswith("MANYHATS_")} <= known
        assert ("MANYHATS_API_KEYS" in given) != ("MANYHATS_ALLOW_UNAUTHENTICATED" in given)
    given = environment(render("everything"))
    values = {name: given[f"MANYHATS_{name.upper()}"]["value"] for name in CASES["everything"]["settings"]}
    # As the server reads them.
    assert values == {"slots": "512", "max_upload": "536870912", "verify_fraction": "0.01", "deterministic": "true"}
    assert given["MANYHATS_BLOBS_URL"]["value"] == "s3://bucket"
    assert given["AWS_ALLOW_HTTP"]["value"] == "true"
    # What is secret comes from a Secret.
    for name, (secret, key) in {
        "MANYHATS_API_KEYS": ("prod-manyhats-keys", "api-keys"),
        "MANYHATS_ADMIN_KEYS": ("prod-manyhats-keys", "admin-keys"),
        "MANYHATS_DATABASE_URL": ("database", "url"),
        "AWS_SECRET_ACCESS_KEY": ("s3", "AWS_SECRET_ACCESS_KEY"),
    }.items():
        reference = given[name]["valueFrom"]["secretKeyRef"]
        assert (reference["name"], reference["key"]) == (secret, key)
    (secret,) = render("everything")["Secret"]
    assert secret["stringData"] == {"api-keys": ",".join(["a" * 20, "b" * 20]), "admin-keys": "c" * 20}
    assert not render("one")["Secret"]


def test_all_of_it_is_about_the_same_pods(render: Callable[[str], Rendered]):
    rendered = render("everything")
    (stateful,) = rendered["StatefulSet"]
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    assert labels["c"] == "d"
    selectors = [stateful["spec"]["selector"]["matchLabels"]]
    selectors += [one["spec"]["selector"] for one in rendered["Service"]]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in rendered["PodDisruptionBudget"]]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in rendered["NetworkPolicy"]]
    for selector in selectors:
        assert selector.items() <= labels.items()
    names = [one["metadata"]["name"] for one in rendered["Service"]]
    assert stateful["spec"]["serviceName"] in names
    (monitor,) = rendered["ServiceMonitor"]
    scraped = [
        one["metadata"]["name"]
        for one in rendered["Service"]
        if monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
    ]
    assert scraped == ["prod-manyhats-pods"]  # each pod once
    assert pod(rendered)["serviceAccountName"] == rendered["ServiceAccount"][0]["metadata"]["name"]
    assert pod(rendered)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_replicas_follow_the_queue(render: Callable[[str], Rendered]):
    rendered = render("everything")
    (scaler,) = rendered["HorizontalPodAutoscaler"]
    (stateful,) = rendered["StatefulSet"]
    assert "replicas" not in stateful["spec"]  # else each upgrade would set them back
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("StatefulSet", stateful["metadata"]["name"])
    metric = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert f"| `{metric}` | gauge |  |" in (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    adapter = yaml.safe_load((CHART.parent / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == metric
    assert re.match(rule["name"]["matches"], metric)
    assert rule["seriesQuery"].startswith(metric + "{")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus has it")
def test_prometheus_reads_the_adapters_query(tmp_path: Path):
    adapter = yaml.safe_load((CHART.parent / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = adapter["rules"]["custom"]
    query = rule["metricsQuery"]
    for mark, value in {"Series": "manyhats_inputs_waiting", "LabelMatchers": 'pod="a"', "GroupBy": "pod"}.items():
        assert f"<<.{mark}>>" in query
        query = query.replace(f"<<.{mark}>>", value)
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": [{"record": "waiting", "expr": query}]}]}))
    series = [{"series": 'manyhats_inputs_waiting{pod="a"}', "values": "0 30 60"}]
    expected = [{"expr": "waiting", "eval_time": "2m", "exp_samples": [{"labels": 'waiting{pod="a"}', "value": 45}]}]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": expected}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": [rules.name], "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "no keys: set keys.existingSecret"),
        ({"keys": {"adminKeys": ["a" * 20]}}, "keys.adminKeys is set without keys.apiKeys"),
        ({"keys": {"existingSecret": "a", "apiKeys": ["a" * 20]}}, "are both set"),
        ({"keys": {"apiKeys": ["short"]}}, "minLength"),
        (KEYS | {"replicas": 2}, "more than one replica needs stores that they share"),
        (KEYS | {"autoscaling": {"enabled": True}}, "more than one replica needs stores that they share"),
        (KEYS | {"blobs": {"url": "s3://bucket"}}, "belong together"),
        (KEYS | {"blobs": {"url": "ftp://bucket"}}, "pattern"),
        (KEYS | {"store": {"persistent": False}}, "loses all tasks"),
        (KEYS | SHARED | {"replicas": 2, "store": {"existingClaim": "a"}}, "each replica needs a folder of its own"),
        (KEYS | SHARED | {"autoscaling": {"enabled": True, "minReplicas": 9}}, "minReplicas (9) is over"),
        (KEYS | {"settings": {"port": 9000}}, "settings.port: the chart sets it"),
        (KEYS | {"settings": {"SLOTS": 9}}, "SLOTS"),
        (KEYS | {"replicas": "2"}, "replicas"),
        (KEYS | {"replica": 2}, "replica"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], reason: str, tmp_path: Path):
    done = run(tmp_path, values, "template", "prod")
    assert done.returncode != 0
    assert reason in done.stderr or (reason in ("minLength", "pattern") and "does not match" in done.stderr), (
        done.stderr
    )


def test_every_value_has_a_schema():
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def compare(given: dict[str, Any], described: dict[str, Any], where: str) -> None:
        if "properties" not in described:
            return
        assert described["additionalProperties"] is False, where
        assert set(given) == set(described["properties"]) - {"global", "timeoutSeconds", "initialDelaySeconds"}, where
        for name, value in given.items():
            if isinstance(value, dict):
                compare(value, described["properties"][name], f"{where}.{name}")

    compare(values, schema, "values")
