"""`/metrics` for Prometheus, read from our own tables at each scrape: nothing is counted twice or lost."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError, connection
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from config.hot import Answer, Scope, header, problem
from config.queues import CAP, depths

KIND: Final = "text/plain; version=0.0.4; charset=utf-8"

# The last hour's runs. The latest 5,000 by key, so that a scrape costs the same after a year.
RUNS: Final = """
SELECT queue, count(*), sum(claimed), sum(done), sum(failed), sum(retried), sum(throttled), sum(in_doubt),
       sum(held), sum(calls), sum(extract(epoch FROM coalesce(ended_at, now()) - started_at))
FROM (SELECT * FROM engine_run ORDER BY id DESC LIMIT 5000) latest
WHERE started_at > now() - interval '1 hour'
GROUP BY queue ORDER BY queue
"""
OUTCOMES: Final = ("claimed", "done", "failed", "retried", "throttled", "in_doubt", "held")
LANES: Final = """
SELECT l.queue, l.tenant_id, l.name, a."limit", a.spent + a.held, l.paused_at IS NOT NULL,
       l.breaker = 'open' AND l.open_until > now(), coalesce(l.rate_now, l.rate_per_second)
FROM engine_lane l
LEFT JOIN LATERAL (SELECT * FROM engine_allowanceleft a
                    WHERE a.token_id = l.token_id AND a.unit = 'calls' ORDER BY a.id LIMIT 1) a ON true
ORDER BY l.id
"""
HEARTBEATS: Final = (
    "SELECT cluster, extract(epoch FROM now() - beat_at) FROM engine_heartbeat ORDER BY cluster"
)
INCIDENTS: Final = "SELECT kind, severity, count(*) FROM engine_incident WHERE ended_at IS NULL GROUP BY 1, 2"


class Tables(Collector):
    """Read the figures when asked. Blocks: for a thread."""

    def collect(self) -> Iterator[Metric]:
        yield from self.queues()
        yield from self.runs()
        yield from self.lanes()
        yield self.gauge(
            "heartbeat_age_seconds", "Since a cluster was last seen working.", ["cluster"], HEARTBEATS
        )
        yield self.gauge("incidents_open", "Incidents that are not over.", ["kind", "severity"], INCIDENTS)

    def queues(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "turnout_queue_waiting", f"Rows to be worked on, counted up to {CAP:,}.", labels=["queue"]
        )
        oldest = GaugeMetricFamily(
            "turnout_queue_oldest_due_seconds", "How long the oldest row has been due.", labels=["queue"]
        )
        for depth in depths():
            waiting.add_metric([depth.queue], depth.waiting)
            oldest.add_metric([depth.queue], depth.oldest_due_seconds)
        yield waiting
        yield oldest

    def runs(self) -> Iterator[Metric]:
        runs = GaugeMetricFamily("turnout_runs_last_hour", "Runs begun in the last hour.", labels=["queue"])
        rows = GaugeMetricFamily(
            "turnout_run_rows_last_hour",
            "What became of the rows of those runs.",
            labels=["queue", "outcome"],
        )
        calls = GaugeMetricFamily("turnout_run_calls_last_hour", "Calls of those runs.", labels=["queue"])
        seconds = GaugeMetricFamily("turnout_run_seconds_last_hour", "Time they ran.", labels=["queue"])
        for queue, count, *counts in select(RUNS):
            runs.add_metric([queue], count)
            for outcome, value in zip(OUTCOMES, counts, strict=False):
                rows.add_metric([queue, outcome], value)
            calls.add_metric([queue], counts[-2])
            seconds.add_metric([queue], float(counts[-1]))
        yield from (runs, rows, calls, seconds)

    def lanes(self) -> Iterator[Metric]:
        labels = ["queue", "tenant", "lane"]
        allowance = GaugeMetricFamily("turnout_lane_allowance", "Calls per window.", labels=labels)
        used = GaugeMetricFamily("turnout_lane_used", "Calls used in this window.", labels=labels)
        paused = GaugeMetricFamily("turnout_lane_paused", "1 while paused.", labels=labels)
        opened = GaugeMetricFamily("turnout_lane_breaker_open", "1 while the breaker is open.", labels=labels)
        rate = GaugeMetricFamily("turnout_lane_rate_per_second", "The pace in force.", labels=labels)
        for queue, tenant, name, allowed, spent, is_paused, is_open, pace in select(LANES):
            key = [queue, str(tenant), name]
            if allowed is not None:
                allowance.add_metric(key, allowed)
                used.add_metric(key, spent)
            paused.add_metric(key, is_paused)
            opened.add_metric(key, is_open or False)
            if pace is not None:
                rate.add_metric(key, pace)
        yield from (allowance, used, paused, opened, rate)

    def gauge(self, name: str, says: str, labels: list[str], query: str) -> Metric:
        family = GaugeMetricFamily(f"turnout_{name}", says, labels=labels)
        for row in select(query):
            family.add_metric([str(value) for value in row[:-1]], float(row[-1]))
        return family


def select(query: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


FORWARDED: Final = ("x-forwarded-for", "forwarded", "x-real-ip")


def may_ask(scope: Scope) -> bool:
    """Say whether whoever asks may see the figures: with METRICS_TOKEN, or without one from this machine.

    A request that says it was forwarded is somebody else's, whatever address brings it. A proxy that does
    not say so is held by its own rule (docs/deploying.md).
    """
    if settings.METRICS_TOKEN:
        given = header(scope, "authorization") or ""
        return hmac.compare_digest(given.encode(), f"Bearer {settings.METRICS_TOKEN}".encode())
    client = scope.get("client")
    return (
        client is not None
        and _is_loopback(client[0])
        and all(header(scope, name) is None for name in FORWARDED)
    )


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def scrape() -> Answer:
    registry = CollectorRegistry()
    try:
        registry.register(Tables())
        return Answer(200, generate_latest(registry), KIND)
    except DatabaseError:
        return problem(503, "The database does not answer")
    finally:
        connection.close()
