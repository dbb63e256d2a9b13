"""Prometheus metrics of shadows and canaries."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from manyhats.serving.rollouts import Rollouts


class RolloutMetrics(Collector):  # type: ignore[misc]
    """What is counted of the aliases that are watched, read at each scrape. `max_aliases`: of those that are named.

    A shadow's counts begin anew with another shadow, as those of a process that was started again.
    """

    def __init__(self, rollouts: Rollouts, max_aliases: int) -> None:
        self._rollouts = rollouts
        self._max_aliases = max_aliases

    def collect(self) -> Iterable[Metric]:
        """One family for each count."""
        requests = CounterMetricFamily(
            "manyhats_shadow_requests", "Requests that a shadow was to be asked", labels=["task", "alias", "outcome"]
        )
        inputs = CounterMetricFamily(
            "manyhats_shadow_inputs", "Inputs that a shadow answered too", labels=["task", "alias", "outcome"]
        )
        seconds = CounterMetricFamily(
            "manyhats_shadow_compute_seconds",
            "Time in the model of requests that a shadow answered too, of either version",
            labels=["task", "alias", "version"],
        )
        canary = GaugeMetricFamily(
            "manyhats_canary_requests", "Requests within a canary's window", labels=["task", "alias", "version"]
        )
        faults = GaugeMetricFamily(
            "manyhats_canary_faults",
            "Requests within a canary's window that failed by the server's fault",
            labels=["task", "alias", "version"],
        )
        for task, alias, watch in self._rollouts.watched()[-self._max_aliases :] if self._max_aliases else []:
            if watch.rollout.shadow is not None:
                counts = watch.shadow
                for outcome in ("answered", "failed", "skipped"):
                    requests.add_metric([task, alias, outcome], getattr(counts, outcome))
                for outcome in ("agreed", "differed", "not_compared"):
                    inputs.add_metric([task, alias, outcome], getattr(counts, outcome))
                seconds.add_metric([task, alias, "main"], counts.main_seconds)
                seconds.add_metric([task, alias, "shadow"], counts.seconds)
            if watch.canary is not None:
                for name, side in zip(("canary", "others"), watch.canary.counted(), strict=True):
                    canary.add_metric([task, alias, name], side[0])
                    faults.add_metric([task, alias, name], side[1])
        yield from (requests, inputs, seconds, canary, faults)
        yield CounterMetricFamily(
            "manyhats_canary_withdrawals", "Canaries that passed a bound", value=self._rollouts.withdrawals
        )
