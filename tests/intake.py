"""What happens to the intake's connections when the database restarts."""

from __future__ import annotations

import psycopg

from engine.inbox.group_commit import database_conninfo


def end_connections() -> None:
    """Cut the intake's connections, as a restarted database would."""
    with psycopg.connect(database_conninfo(), autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE application_name = 'turnout intake' AND datname = current_database()"
        )
