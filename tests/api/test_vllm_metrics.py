"""vLLM's names, as the endpoint picker of the Gateway API's inference extension reads them."""

from __future__ import annotations

import threading
import time
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests import tiny
from tests.api.generating import add
from tests.api.live import Gate, Live, serving, wait_until


def samples(live: Live) -> dict[str, tuple[dict[str, str], float]]:
    """Every sample under vLLM's names that is the only one of its name, with its labels."""
    families = text_string_to_metric_families(live.client.get("/metrics").text)
    return {
        sample.name.removeprefix("vllm:"): (sample.labels, sample.value)
        for family in families
        for sample in family.samples
        if sample.name.startswith("vllm:") and "le" not in sample.labels
    }


def test_a_decoders_figures(base_folder: Any, tmp_path: Any) -> None:
    with serving(tiny.load(base_folder("llama")), tmp_path, metrics_vllm_names=True, slots=7) as live:
        tasks = [add(live, method) for method in ("lora", "prefix", "mask")]
        live.outputs(tasks[0], ["w1 w2", "w3"], max_new_tokens=4, ignore_eos=True)
        live.runtime.adapter_cache.unload(live.runtime.registry.task(tasks[2]).versions[-1].sha256)
        live.wait_idle()
        found = samples(live)
        labels, value = found["lora_requests_info"]
        assert abs(value - time.time()) < 3600
        assert labels == {
            "max_lora": "7", "running_lora_adapters": ",".join(sorted(tasks[:2])), "waiting_lora_adapters": "",
        }  # fmt: skip
        model = {"model_name": live.backbone.name, "engine": "0"}
        assert found["num_requests_running"] == (model, 0)
        assert found["num_requests_waiting"] == (model, 0)
        assert 0 <= found["kv_cache_usage_perc"][1] <= 1
        assert found["gpu_cache_usage_perc"] == found["kv_cache_usage_perc"]
        assert int(found["cache_config_info"][0]["num_gpu_blocks"]) > 0
        assert int(found["cache_config_info"][0]["block_size"]) > 0
        assert found["generation_tokens_total"] == (model, 8)
        assert found["request_success_total"] == (model, 1)
        assert found["time_to_first_token_seconds_count"] == (model, 2)
        assert found["inter_token_latency_seconds_count"] == (model, 6)
        assert found["e2e_request_latency_seconds_count"] == (model, 1)


def test_what_waits_and_what_runs(start: Any, gate: Gate) -> None:
    with start(metrics_vllm_names=True, max_num_batched_tokens=8) as live:

        def ask() -> None:
            with live.new_client() as client:
                client.post("/v1/tasks/base/predict", json={"inputs": "w1 w2 w3 w4"})

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: samples(live)["num_requests_waiting"][1] >= 1, "some wait")
            wait_until(
                lambda: [samples(live)[f"num_requests_{what}"][1] for what in ("running", "waiting")] == [1, 2],
                "one runs, and the others wait",
            )
        finally:
            gate.open()
            for thread in threads:
                thread.join()
        live.wait_idle()
        assert samples(live)["num_requests_running"][1] == 0


def test_they_are_there_only_where_they_are_wanted(live: Live) -> None:
    assert not samples(live)


def test_nobody_learns_names_who_may_not(start: Any) -> None:
    with start(metrics_vllm_names=True, metrics_names="nobody") as live:
        live.add("secret")
        found = samples(live)
        assert "lora_requests_info" not in found
        assert "num_requests_waiting" in found
