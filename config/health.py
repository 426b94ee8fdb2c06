"""Are we alive, are we ready, and the figures behind it."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from config.hot import Answer, json_answer

_migrated = False  # once true it stays so: a process never runs behind its own migrations


def live() -> Answer:
    """Answer as long as this process turns its loop."""
    return Answer(200, b"ok")


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
