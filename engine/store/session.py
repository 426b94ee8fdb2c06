"""The connection of the runner's one database thread."""

from __future__ import annotations

from typing import Any

from django.db import connection
from psycopg import Cursor


def cursor() -> Cursor[Any]:
    """A plain psycopg cursor on Django's connection: binds on the server, so arrays go over as arrays."""
    connection.ensure_connection()
    return Cursor(connection.connection)
