"""The base of every resource."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from django.core.exceptions import FieldDoesNotExist
from django.db import IntegrityError, connection, models, transaction
from django.db.models import QuerySet
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from rest_framework import mixins, viewsets
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from tenants.api import idempotency
from tenants.api.problems import Conflict
from tenants.scope import current_scope


class Replayed(Exception):
    def __init__(self, answer: HttpResponse) -> None:
        super().__init__()
        self.answer = answer


class TenantViewSet(viewsets.GenericViewSet[Any]):
    """Rows of `model` that belong to the key's tenant, and POSTs that take an `Idempotency-Key`.

    Set `model` instead of `queryset` (which would be asked for its rows before anybody says whose),
    `filters` for lists, and `select` or `prefetch` to keep the number of queries fixed.
    """

    model: ClassVar[type[models.Model]]
    filters: ClassVar[dict[str, str]] = {}
    select: ClassVar[tuple[str, ...]] = ()
    prefetch: ClassVar[tuple[str | models.Prefetch[Any], ...]] = ()
    lookup_value_regex = "[0-9]+"

    _slot: idempotency.Slot | None = None

    def get_queryset(self) -> QuerySet[Any]:
        if getattr(self, "swagger_fake_view", False):  # the schema is nobody's request
            return self.model._base_manager.none()
        rows: QuerySet[Any] = self.model._default_manager.all()
        if self.select:
            rows = rows.select_related(*self.select)
        return rows.prefetch_related(*self.prefetch) if self.prefetch else rows

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if any("\0" in text for pair in request.query_params.items() for text in pair):
            raise ValidationError({"query": ["NUL characters are not accepted."]})
        verb = getattr(self, self.action or "", None)
        if request.method == "POST" and verb and not getattr(verb, "no_transaction", False):
            found = idempotency.reserve(request)
            if isinstance(found, HttpResponse):
                raise Replayed(found)
            self._slot = found

    def handle_exception(self, exc: Exception) -> Any:
        if isinstance(exc, Replayed):
            return exc.answer
        self._slot = None  # rolled back with everything else
        return super().handle_exception(exc)

    def finalize_response(
        self, request: Request, response: HttpResponseBase, *args: Any, **kwargs: Any
    ) -> Response:
        final = super().finalize_response(request, response, *args, **kwargs)  # type: ignore[arg-type]
        if self._slot is not None:
            if final.status_code < 400 and isinstance(final, Response):
                final.render()
                self._slot.keep(final.status_code, final.content)
            else:
                self._slot.give_up()
        return final


class TenantModelViewSet(
    mixins.CreateModelMixin,
    mixins.RetrieveModelMixin,
    mixins.UpdateModelMixin,
    mixins.DestroyModelMixin,
    mixins.ListModelMixin,
    TenantViewSet,
):
    """Create, read, update, delete and list. Broken constraints are told as what they mean."""

    http_method_names = ["get", "post", "put", "patch", "delete", "head", "options"]

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        with constraints_told(self.model):
            serializer.save(tenant_id=current_scope())

    def perform_update(self, serializer: BaseSerializer[Any]) -> None:
        with constraints_told(self.model):
            serializer.save()

    def perform_destroy(self, instance: models.Model) -> None:
        with constraints_told(self.model):
            instance.delete()


@contextmanager
def constraints_told(model: type[models.Model]) -> Iterator[None]:
    """Write inside a savepoint, check the deferred constraints too, and name the fields of a broken one."""
    try:
        with transaction.atomic():
            yield
            connection.check_constraints()
    except (models.ProtectedError, models.RestrictedError):  # IntegrityErrors that name the rows
        raise
    except IntegrityError as error:
        name = getattr(getattr(error.__cause__, "diag", None), "constraint_name", None) or ""
        raise _explain(model, name) from error


def _explain(model: type[models.Model], name: str) -> Exception:
    """Say what a broken constraint means. Only names and fields are told, never another row's values."""
    for constraint in model._meta.constraints:
        if constraint.name == name:
            if isinstance(constraint, models.UniqueConstraint):
                fields = [field for field in constraint.fields if field != "tenant"]
                return ValidationError(
                    {fields[-1] if len(fields) == 1 else "non_field_errors": [_taken(model, fields)]}
                )
            return ValidationError({"non_field_errors": [f"Against the rule {name.replace('_', ' ')}."]})
    if name.endswith("_same_tenant"):
        return Conflict("It refers to, or is referred to by, something else.", code="in_use")
    for field in model._meta.fields:
        if field.unique and name.startswith(f"{model._meta.db_table}_{field.column}_"):
            return ValidationError({field.name: [_taken(model, [field.name])]})
    return Conflict("It refers to, or is referred to by, something else.", code="in_use")


def _taken(model: type[models.Model], fields: list[str]) -> str:
    names = []
    for field in fields:
        try:
            names.append(str(getattr(model._meta.get_field(field), "verbose_name", field)))
        except FieldDoesNotExist:
            names.append(field)
    return f"A {model._meta.verbose_name} with this {' and '.join(names)} already exists."
