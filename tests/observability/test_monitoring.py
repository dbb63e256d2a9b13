"""What Prometheus and Grafana get: /metrics by the conventions, and queries and alerts on names that there are."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests import tiny
from tests.api.generating import add
from tests.api.live import Live, serving
from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy" / "monitoring"
OWN_TESTS = Path(__file__).parent / "alerts_test.yaml"
MADE_BY_PROMETHEUS = {"up"}


def needs(program: str) -> pytest.MarkDecorator:
    """Skips a test where a program is not there."""
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"{program} is not there; Debian's package prometheus has it"
    )


@pytest.fixture(scope="module")
def live(base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with a decoder, which has answered and refused something of every sort."""
    backbone = tiny.load(base_folder("llama"))
    with serving(backbone, tmp_path_factory.mktemp("store"), metrics_vllm_names=True) as running:
        traffic(running)
        yield running


def traffic(live: Live) -> None:
    """Requests of every sort."""
    for method in ("lora", "prefix"):
        task = add(live, method)
        live.outputs(task, ["w1 w2", "w3"], max_new_tokens=4, ignore_eos=True)
        live.runtime.adapter_cache.unload(live.runtime.registry.task(task).versions[-1].sha256)
        live.outputs(task, "w1", max_new_tokens=2)  # waits for its adapter
        live.ask(task, "w1", top_k=-5)
    live.ask("nobody")
    live.client.get("/nowhere")


def figures(live: Live) -> str:
    """What /metrics says."""
    return live.client.get("/metrics").text


def names(text: str, *, vllm: bool = False) -> set[str]:
    """Every sample's name."""
    families = text_string_to_metric_families(text)
    return {sample.name for family in families for sample in family.samples if vllm or not family.name.startswith("v")}


def queries() -> dict[str, str]:
    """The dashboard's queries by panel and letter, with a number where Grafana would put one."""
    dashboard = json.loads((FILES / "grafana.json").read_text(encoding="utf-8"))
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace("$instance", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metrics_of(query: str) -> set[str]:
    """The metrics that a query names."""
    plain = re.sub(r'"[^"]*"', '""', query)
    return set(re.findall(r"\b(?:manyhats|process|up)\w*", plain)) - {"process"}


def test_every_query_names_metrics_that_there_are(live: Live) -> None:
    there = names(figures(live)) | MADE_BY_PROMETHEUS
    asked = queries() | {rule["alert"]: rule["expr"] for rule in rules()}
    assert len(asked) > 60
    for where, query in asked.items():
        assert metrics_of(query), where
        assert metrics_of(query) <= there, (where, metrics_of(query) - there)


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((FILES / "grafana.json").read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels) - 1  # a row and a panel are both "Requests"
    places = [panel["gridPos"] for panel in panels]
    taken = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken)), "panels lie over each other"
    assert max(x for x, _ in taken) < 24


def test_each_alert_is_tried_both_ways() -> None:
    cases = [case for test in yaml.safe_load(OWN_TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    for rule in rules():
        tried = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == rule["alert"]]
        assert {True, False} == set(tried), rule["alert"]


@needs("promtool")
@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", str(FILES / "prometheus.yaml")),
        ("check", "rules", str(FILES / "alerts.yaml")),
        ("test", "rules", str(OWN_TESTS)),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_promtool_is_content_with_the_files(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


@needs("promtool")
@pytest.mark.parametrize("named", [True, False])
def test_promtool_is_content_with_the_metrics(live: Live, named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not named:
        monkeypatch.setattr("manyhats.api.operations.sees_figures", lambda request: False)
    text = figures(live)
    assert ('task="' in text) == named
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=PATIENCE
    )
    # vLLM's names have a colon, which the conventions leave to rules.
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("vllm:")]
    assert complaints == []


def test_counters_are_counters_and_have_their_ending(live: Live) -> None:
    for family in text_string_to_metric_families(figures(live)):
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")


@pytest.mark.slow
@needs("prometheus")
def test_prometheus_answers_every_query_of_the_dashboard(live: Live, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = yaml.safe_load((FILES / "prometheus.yaml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FILES / "alerts.yaml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"{live.host}:{live.port}"]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [
        "prometheus", f"--config.file={tmp_path / 'prometheus.yaml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as prometheus:
                ask_all(prometheus, live, tmp_path / "log")
        finally:
            process.terminate()


def ask_all(prometheus: httpx.Client, live: Live, log: Path) -> None:
    """Asks Prometheus each query, until all have been answered with something."""

    def ask(query: str) -> list[Any]:
        answer = prometheus.get("/api/v1/query", params={"query": query})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["result"]

    def ready() -> bool:
        try:
            return prometheus.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready, f"Prometheus is ready: {log.read_text()}")
    wait_until(lambda: ask("count_over_time(manyhats_ready[1m]) > 1"), "Prometheus has scraped the server")
    traffic(live)  # so that what is counted has grown between two scrapes
    empty = queries()

    def answered() -> bool:
        for where in [where for where, query in empty.items() if ask(query)]:
            del empty[where]
        return not empty

    wait_until(answered, f"answers to {empty}")
    health = prometheus.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
    assert {rule["health"] for rule in health} == {"ok"}
    assert {rule["name"] for rule in health} == {rule["alert"] for rule in rules()}
