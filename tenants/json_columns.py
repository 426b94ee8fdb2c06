"""The kind of value that a JSON column holds, as a condition for a model's constraint."""

from __future__ import annotations

from django.db.models import Func, TextField, Value
from django.db.models.lookups import Exact


class JsonType(Func):
    """PostgreSQL's word for a JSON value: object, array, string, number, boolean or null."""

    function = "jsonb_typeof"
    output_field = TextField()


def json_is(field: str, kind: str) -> Exact:
    """Say that a JSON column holds this kind of value: `condition=json_is("rules", "object")`."""
    return Exact(JsonType(field), Value(kind))
