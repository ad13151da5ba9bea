"""A Prometheus histogram that takes many values at a time.

``prometheus_client.Histogram`` takes one a call, with two locks and a walk through the buckets each.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString


class BulkHistogram(Collector):
    """Counts values in buckets, apart for each of a few values of one label. For all threads."""

    def __init__(
        self, name: str, documentation: str, bounds: Sequence[float], label: str, values: Sequence[str]
    ) -> None:
        """Prepare.

        Args:
            bounds: upper bounds of the buckets, ascending, without infinity.
            label: empty where there is none; ``values`` is then one empty string.
        """
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(bounds)
        self._labels = [label] if label else []
        self._lock = threading.Lock()
        self._counts = {value: [0] * (len(bounds) + 1) for value in values}
        self._sums = dict.fromkeys(values, 0.0)

    def observe_all(self, seen: Sequence[float], value: str = "") -> None:
        """Count ``seen`` under the label's ``value``."""
        bounds, counts = self._bounds, self._counts[value]
        with self._lock:
            for one in seen:
                counts[bisect_left(bounds, one)] += 1
            self._sums[value] += sum(seen)

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Name the metric without counting, for the registry."""
        return [HistogramMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return what was counted, for a scrape."""
        with self._lock:
            counts = {value: list(found) for value, found in self._counts.items()}
            sums = dict(self._sums)
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for value, found in counts.items():
            buckets, below = [], 0
            for bound, count in zip((*self._bounds, INF), found, strict=True):
                below += count
                buckets.append((floatToGoString(bound), below))  # type: ignore[no-untyped-call]
            family.add_metric([value] if self._labels else [], buckets, sums[value])
        return [family]
