"""compose.yaml: as the Compose specification has it, and about files, settings and routes that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from manyhats.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = {name: one for name, one in SERVICES.items() if name.startswith("manyhats")}
SHARED_STORES = {"MANYHATS_DATABASE_URL", "MANYHATS_BLOBS_URL", "MANYHATS_BLOB_CACHE"}


def mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    """What is mounted, and where."""
    return [(one.split(":")[0], one.split(":")[1]) for one in service.get("volumes", ())]


def test_it_is_as_the_specification_has_it():
    vendored = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text(encoding="utf-8"))
    checker = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in checker.iter_errors(COMPOSE)] == []
    assert list(checker.iter_errors({"services": {"a": {"images": "b"}}}))  # it does tell


def test_the_plain_server_needs_keys_and_nothing_else():
    assert [name for name, one in SERVICES.items() if not one.get("profiles")] == ["manyhats"]
    assert "depends_on" not in SERVICES["manyhats"]
    needed = set(re.findall(r"\$\{(\w+):\?", (ROOT / "compose.yaml").read_text(encoding="utf-8")))
    assert needed == {"MANYHATS_API_KEYS", "MANYHATS_ADMIN_KEYS"}


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_names_is_there(name):
    service = SERVICES[name]
    if "build" not in service:
        assert re.fullmatch(r"[\w./-]+:v?\d[\w.]*", service["image"])  # a release, and not the newest
    for source, _ in mounts(service):
        assert (ROOT / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"]
    for secret in service.get("secrets", ()):
        assert secret in COMPOSE["secrets"]
    for other, how in service.get("depends_on", {}).items():
        assert SERVICES[other]["profiles"] == service["profiles"]
        assert how == {"condition": "service_healthy"}
        assert SERVICES[other]["healthcheck"]["test"][0] == "CMD"
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", SERVERS)
def test_the_servers_have_no_rights_and_time_to_drain(name):
    server = SERVERS[name]
    known = {f"MANYHATS_{field.upper()}" for field in Settings.model_fields} | SHARED_STORES
    assert {key for key in server["environment"] if key.startswith("MANYHATS_")} <= known
    assert (server["read_only"], server["tmpfs"], server["cap_drop"]) == (True, ["/tmp"], ["ALL"])
    assert [where for _, where in mounts(server)] == ["/store"]
    drain = float(server["environment"].get("MANYHATS_DRAIN_DELAY", 0)) + Settings.model_fields["drain_timeout"].default
    assert float(server["stop_grace_period"].removesuffix("s")) >= drain + 10
    assert server["build"]["args"]["DEVICE"] in ("cpu", "cuda")


def test_the_shared_server_and_its_stores_agree():
    server, postgres, s3 = (SERVICES[name] for name in ("manyhats-shared", "postgres", "s3"))
    given = server["environment"]
    url = re.fullmatch(r"postgresql://(\w+):(\$\{\w+:-\})@(\w+):5432/(\w+)", given["MANYHATS_DATABASE_URL"])
    assert url is not None
    made = postgres["environment"]
    assert url.groups() == (made["POSTGRES_USER"], made["POSTGRES_PASSWORD"], "postgres", made["POSTGRES_DB"])
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert given[key] == s3["environment"][key]
    assert given["MANYHATS_BLOBS_URL"].startswith(f"s3://{s3['environment']['S3_BUCKET']}/")
    assert given["AWS_ENDPOINT_URL"] == "http://s3:8333"
    assert ":8333/" in s3["healthcheck"]["test"][-1]
    # Its own folder is not the plain server's store.
    assert mounts(server) == [("cache", "/store")]


def test_prometheus_asks_whichever_server_runs(tmp_path: Path):
    text = (ROOT / "deploy/monitoring/compose/prometheus.yaml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(text)["scrape_configs"]
    plain = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yaml").read_text(encoding="utf-8"))
    assert job["job_name"] == plain["scrape_configs"][0]["job_name"]  # which the alerts ask for
    (target,) = job["static_configs"][0]["targets"]
    for server in SERVERS.values():
        assert target.removesuffix(":8000") in server["networks"]["default"]["aliases"]
        assert server["ports"] == ["127.0.0.1:8000:8000"]
    key = job["authorization"]["credentials_file"]
    assert key == f"/run/secrets/{SERVICES['prometheus']['secrets'][0]}"
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool; Debian's package prometheus has it")
    (tmp_path / "key").write_text("a-key")
    (tmp_path / "prometheus.yml").write_text(text.replace(key, str(tmp_path / "key")))
    shutil.copy(ROOT / "deploy/monitoring/alerts.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_the_dashboard_and_its_source():
    grafana = dict(mounts(SERVICES["grafana"]))
    folder = ROOT / "deploy" / "monitoring" / "compose"
    (provider,) = yaml.safe_load((folder / "dashboards.yaml").read_text(encoding="utf-8"))["providers"]
    dashboard = grafana["./deploy/monitoring/grafana.json"]
    assert str(Path(dashboard).parent) == provider["options"]["path"]
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard
    (source,) = yaml.safe_load((folder / "datasource.yaml").read_text(encoding="utf-8"))["datasources"]
    wanted = json.loads((ROOT / "deploy/monitoring/grafana.json").read_text(encoding="utf-8"))["templating"]["list"][0]
    assert (source["type"], source["isDefault"]) == (wanted["query"], True)
    assert source["url"] == "http://prometheus:9090"
    for kind in ("datasources", "dashboards"):
        assert any(where.startswith(f"/etc/grafana/provisioning/{kind}/") for where in grafana.values())
