"""The page that Prometheus reads: what all processes of this host have counted, and the state.

It is written without prometheus_client, which takes 20 ms for a page of 200 series, as long as a
whole scrape may take, and 70 ms to import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

import imageprocessor
from imageprocessor.queue.database.connections import DATABASE_FAULTS
from imageprocessor.queue.disks import measure_disks
from imageprocessor.queue.health import oldest_open_seconds
from imageprocessor.queue.metrics import families
from imageprocessor.queue.metrics.counts import read_totals
from imageprocessor.queue.metrics.families import (
    COUNTED,
    PREFIX,
    STATE,
    Counter,
    Gauge,
    Histogram,
    Metric,
)
from imageprocessor.queue.metrics.series_table import Series
from imageprocessor.queue.service import Service
from imageprocessor.queue.statistics import collect_statistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

LabelValues = tuple[str, ...]
Values = Mapping[LabelValues, float]


def render_metrics(service: Service) -> str:
    """Return the page, in Prometheus's text format, version 0.0.4."""
    lines: list[str] = []
    directory = service.settings.metrics_directory
    if directory:
        lines += _write_counts(read_totals(directory))
    state = read_state(service)
    for gauge in STATE:
        lines += _write_head(gauge, gauge.name, "gauge")
        for labels, value in sorted(state.get(gauge, {}).items()):
            lines.append(f"{PREFIX}{gauge.name}{_write_labels(gauge, labels)} {value}")
    return "\n".join([*lines, ""])


def _write_counts(totals: Mapping[tuple[Series, int], list[float]]) -> Iterator[str]:
    by_metric: dict[tuple[str, int, int], dict[LabelValues, list[float]]] = {}
    for ((name, *labels), count), numbers in sorted(totals.items()):
        by_metric.setdefault((name, len(labels), count), {})[tuple(labels)] = numbers
    for metric in COUNTED:
        # Another version may have counted by other labels or buckets.
        found = by_metric.get((metric.name, len(metric.labels), metric.number_count), {})
        if isinstance(metric, Counter):
            yield from _write_counter(metric, found)
        else:
            yield from _write_histogram(metric, found)


def _write_counter(metric: Counter, found: Mapping[LabelValues, list[float]]) -> Iterator[str]:
    name = f"{metric.name}_total"
    yield from _write_head(metric, name, "counter")
    for labels, (number,) in found.items():
        yield f"{PREFIX}{name}{_write_labels(metric, labels)} {number}"


def _write_histogram(metric: Histogram, found: Mapping[LabelValues, list[float]]) -> Iterator[str]:
    yield from _write_head(metric, metric.name, "histogram")
    name = PREFIX + metric.name
    bounds = [*(str(float(bound)) for bound in metric.bounds), "+Inf"]
    for labels, (total, *counts) in found.items():
        shared = _write_labels(metric, labels)
        start = f"{shared[:-1]}," if shared else "{"
        for bound, count in zip(bounds, accumulate(counts), strict=True):
            yield f'{name}_bucket{start}le="{bound}"}} {count}'
        yield f"{name}_sum{shared} {total}"
        yield f"{name}_count{shared} {sum(counts)}"


def _write_head(metric: Metric, name: str, kind: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {metric.meaning}"
    yield f"# TYPE {PREFIX}{name} {kind}"


def _write_labels(metric: Metric, values: LabelValues) -> str:
    if not values:
        return ""
    pairs = []
    for label, value in zip(metric.labels, values, strict=True):
        pairs.append(f'{label}="{value.translate(ESCAPES)}"')
    return f"{{{','.join(pairs)}}}"


def read_state(service: Service) -> dict[Gauge, Values]:
    """Return the values of each gauge; without those in the database if it does not answer."""
    state: dict[Gauge, Values] = {families.BUILD: {(imageprocessor.__version__,): 1}}
    disks = measure_disks(service.settings)
    state[families.DISK_FREE] = {(name,): disk.free_bytes for name, disk in disks.items()}
    state[families.DISK_SIZE] = {(name,): disk.size_bytes for name, disk in disks.items()}
    try:
        state |= _read_database(service)
    except DATABASE_FAULTS:
        return {**state, families.DATABASE_UP: {(): 0}}
    return {**state, families.DATABASE_UP: {(): 1}}


def _read_database(service: Service) -> dict[Gauge, Values]:
    found = collect_statistics(service)
    webhooks = found["webhooks"]
    enabled = webhooks["endpoints"] - webhooks["disabled"]
    endpoints = {
        "working": enabled - webhooks["failing"],
        "failing": webhooks["failing"],
        "disabled": webhooks["disabled"],
    }
    by_status: Values = {(status,): count for status, count in found["status_breakdown"].items()}
    by_state: Values = {(state,): count for state, count in endpoints.items()}
    return {
        families.QUEUE_JOBS: by_status,
        families.OLDEST_OPEN_JOB: {(): oldest_open_seconds(service) or 0},
        families.WORKERS: {(): found["workers"]["active_workers"]},
        families.PAUSED: {(): int(found["paused_since"] is not None)},
        families.WAITING_DELIVERIES: {(): webhooks["waiting"]},
        families.OLDEST_WAITING_DELIVERY: {(): webhooks["oldest_waiting_seconds"] or 0},
        families.ENDPOINTS: by_state,
        families.EVENT_LAG: {(): found["events"]["lag_seconds"]},
    }
