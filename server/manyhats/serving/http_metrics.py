"""What is counted of each HTTP request, whatever it asked for: by route and status, which are few."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from manyhats.serving.distribution import SECONDS, Distribution

NO_ROUTE = ""  # of a path that no route has, and of what was refused before its route was looked for


class HttpMetrics:
    """Requests by route (`POST /v1/predict`) and status. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, Distribution] = {}

    def ended(self, route: str, status: int, seconds: float) -> None:
        """Counts a request, when the last byte of its answer was given to the connection. `status`: 499 where the
        client hung up."""
        with self._lock:
            key = route, status
            self._requests[key] = self._requests.get(key, 0) + 1
            if (times := self._seconds.get(route)) is None:
                times = self._seconds[route] = Distribution(SECONDS)
            times.counts[bisect_left(SECONDS, seconds)] += 1
            times.sum += seconds

    def families(self) -> Iterator[Metric]:
        """The metrics."""
        requests = CounterMetricFamily(
            "manyhats_http_requests", "HTTP requests by route and status", labels=["route", "code"]
        )
        seconds = HistogramMetricFamily(
            "manyhats_http_request_seconds", "Time from an HTTP request's head to its answer's end", labels=["route"]
        )
        with self._lock:
            for (route, status), count in self._requests.items():
                requests.add_metric([route, str(status)], count)
            for route, times in self._seconds.items():
                seconds.add_metric([route], times.buckets(), times.sum)
        yield requests
        yield seconds
