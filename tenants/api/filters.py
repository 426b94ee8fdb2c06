"""Filters of lists, declared by the viewset: `filters = {"broadcast": "broadcast_id", "state": "state"}`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError as InvalidValue
from django.db.models import QuerySet
from rest_framework.exceptions import ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.request import Request

if TYPE_CHECKING:  # rest_framework.views itself imports this module
    from rest_framework.views import APIView

PAGING = {"cursor", "page_size"}


class DeclaredFilters(BaseFilterBackend):
    """Each query parameter is one declared equality. An unknown one is refused: it would change nothing
    and look as if it had."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: APIView) -> QuerySet[Any]:
        declared: dict[str, str] = getattr(view, "filters", {})
        errors: dict[str, list[str]] = {}
        for name, value in request.query_params.items():
            if name in PAGING:
                continue
            if name not in declared:
                known = ", ".join(sorted({*declared, *PAGING}))
                errors[name] = [f"Unknown parameter. Known are: {known}."]
                continue
            try:
                queryset = queryset.filter(
                    **{declared[name]: self._read(queryset, declared[name], str(value))}
                )
            except (InvalidValue, ValueError, TypeError):
                errors[name] = [f"{value!r} is not a value for this."]
        if errors:
            raise ValidationError(errors)
        return queryset

    @staticmethod
    def _read(queryset: QuerySet[Any], lookup: str, value: str) -> Any:
        """Turn the text into the column's type, and refuse a state that is none."""
        model, *rest = queryset.model, *lookup.split("__")
        if len(rest) > 1:
            return value
        field = model._meta.get_field(rest[0])
        read = field.to_python(value)
        if field.choices and read not in dict(field.flatchoices):
            raise ValueError(value)
        return read

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        return [
            {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
            for name in getattr(view, "filters", {})
        ]
