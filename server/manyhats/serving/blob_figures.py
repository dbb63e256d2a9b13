"""Metrics of adapters' files in an object store, and of their copies here."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from manyhats.registry.blobs.base import Blobs
from manyhats.registry.blobs.figures import BUCKETS, OPERATIONS, BlobFigures
from manyhats.registry.blobs.object_store import ObjectStoreBlobs


class BlobMetrics(Collector):  # type: ignore[misc]
    """Read at each scrape; all are 0 where files are in folders."""

    def __init__(self, blobs: Blobs) -> None:
        over_store = blobs if isinstance(blobs, ObjectStoreBlobs) else None
        self._cache = over_store.cache if over_store is not None else None
        self._figures = over_store.figures if over_store is not None else BlobFigures()

    def collect(self) -> Iterable[Metric]:
        """One family for each figure."""
        figures, cache = self._figures, self._cache
        requests = CounterMetricFamily(
            "manyhats_blob_requests",
            "Times that files were wanted of the blob cache: hit, miss, or damaged and fetched again",
            labels=["result"],
        )
        for result in ("hit", "miss", "damaged"):
            requests.add_metric([result], figures.requests[result])
        retries = CounterMetricFamily(
            "manyhats_blob_retries", "Requests to the object store that were sent again", labels=["operation"]
        )
        errors = CounterMetricFamily(
            "manyhats_blob_errors", "Requests to the object store that were given up", labels=["operation"]
        )
        for operation in OPERATIONS:
            retries.add_metric([operation], figures.retries[operation])
            errors.add_metric([operation], figures.errors[operation])
        yield from (requests, retries, errors)
        yield CounterMetricFamily("manyhats_blob_fetched_bytes", "Bytes of fetched files", value=figures.fetched)
        evictions, used, limit = (cache.evictions, cache.used, cache.limit) if cache is not None else (0, 0, 0)
        yield CounterMetricFamily("manyhats_blob_cache_evictions", "Contents that left the blob cache", value=evictions)
        for name, text, value in (
            ("manyhats_blob_cache_bytes", "Bytes of the blob cache", used),
            (
                "manyhats_blob_cache_limit_bytes",
                "Most bytes of the blob cache",
                limit,
            ),
        ):
            yield GaugeMetricFamily(name, text, value)
        bounds = [*map(str, BUCKETS), "+Inf"]
        yield HistogramMetricFamily(
            "manyhats_blob_fetch_seconds",
            "Seconds of fetching a content",
            buckets=list(zip(bounds, accumulate(figures.seconds), strict=True)),
            sum_value=figures.total_seconds,
        )
