"""Metrics of what goes wrong and is kept from others: faulty adapters, memory, threads, answers that differ."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from manyhats.engine.watchdog import Watchdog
from manyhats.serving.service import Service


class FaultFigures(Collector):  # type: ignore[misc]
    """Read from the server's components at each scrape."""

    def __init__(self, service: Service, watchdog: Watchdog) -> None:
        self._service = service
        self._watchdog = watchdog

    def collect(self) -> Iterable[Metric]:
        """One family for each figure."""
        faulty, verifier, bound = self._service.faulty, self._service.verifier, self._service.engine.pass_bound
        for name, text, count in (
            ("manyhats_adapter_faults", "Requests that failed by their adapter's own fault", faulty.faults),
            ("manyhats_adapter_quarantines", "Adapters that were quarantined for their faults", faulty.quarantines),
            ("manyhats_out_of_memory", "Passes for which there was no memory", bound.exceeded),
            ("manyhats_verified", "Sequences that were computed again and compared", verifier.compared),
            ("manyhats_verify_differences", "Sequences whose answer differed", verifier.differences),
            ("manyhats_verify_unclear", "Sampled texts that went another way, both likely", verifier.unclear),
            ("manyhats_verify_skipped", "Chosen answers that could not be compared", verifier.skipped),
        ):
            yield CounterMetricFamily(name, text, value=count)
        for name, text, value in (
            ("manyhats_pass_tokens_limit", "Tokens that a pass may have now", bound.tokens),
            ("manyhats_verify_pending", "Answers that wait to be compared", verifier.pending),
            ("manyhats_adapters_alone", "Adapters that share no batch, as an answer differed", len(verifier.reasons)),
        ):
            yield GaugeMetricFamily(name, text, value)
        well = GaugeMetricFamily(
            "manyhats_part_well", "Whether a part neither hangs nor fails nor has died", labels=["part"]
        )
        deaths = CounterMetricFamily("manyhats_part_deaths", "Times that a part had died", labels=["part"])
        stalls = CounterMetricFamily("manyhats_part_stalls", "Times that a part hung", labels=["part"])
        failures = CounterMetricFamily("manyhats_part_failures", "Times that a part began to fail", labels=["part"])
        for part in self._watchdog.parts:
            well.add_metric([part], int(self._watchdog.is_well(part)))
            deaths.add_metric([part], self._watchdog.deaths[part])
            stalls.add_metric([part], self._watchdog.stalls[part])
            failures.add_metric([part], self._watchdog.failures[part])
        yield from (well, deaths, stalls, failures)
