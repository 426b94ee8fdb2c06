"""Are we alive, are we ready, and the figures behind it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse

from config.hot import Answer, Scope, json_answer, problem

_migrated = False  # once true it stays so: a process never runs behind its own migrations


def live(django_answers: bool) -> Answer:
    """Say whether this process should be left running: its loop turns, and Django's threads get on."""
    return Answer(200, b"ok") if django_answers else problem(503, "Django does not answer")


def live_request() -> Scope:
    """Make the request that asks Django whether it answers: through all its middleware, no database."""
    public = urlsplit(settings.PUBLIC_URL)
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": public.scheme,
        "path": "/health/live",
        "query_string": b"",
        "headers": [(b"host", public.netloc.encode())],
    }


def live_view(_request: HttpRequest) -> HttpResponse:
    """Django's half of `/health/live`."""
    return HttpResponse("ok", content_type="text/plain")


def ready() -> Answer:
    """Say whether requests can be served: the database answers and every migration is applied.

    The clusters' heartbeats are told as ages in seconds, and do not count: taking the web server out
    would not bring them back. Blocks: for a thread.
    """
    try:
        missing = unapplied_migrations()
        clusters = heartbeat_ages() if not missing else {}
    except DatabaseError as error:
        return json_answer(503, {"status": "database unreachable", "error": type(error).__name__})
    finally:
        connection.close()
    if missing:
        return json_answer(503, {"status": "migrations missing", "migrations": missing})
    return json_answer(200, {"status": "ready", "clusters": clusters})


def unapplied_migrations() -> list[str]:
    """List the migrations that the database lacks, e.g. ["engine.0003_depth"]."""
    global _migrated
    if _migrated:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return []
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    missing = [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
    _migrated = not missing
    return missing


def heartbeat_ages() -> dict[str, float]:
    """Return how many seconds ago each cluster was last seen working."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT cluster, extract(epoch FROM now() - beat_at) FROM engine_heartbeat ORDER BY cluster"
        )
        rows: list[tuple[str, Any]] = cursor.fetchall()
    return {cluster: round(float(age), 1) for cluster, age in rows}
