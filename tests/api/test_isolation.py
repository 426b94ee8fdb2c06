"""R7: on every address of the API, another tenant's row is as absent as one that never was.

Walks the router, so a resource that is added later is covered as soon as `RESOURCES` knows a factory
for it, and fails until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models import Model
from rest_framework import serializers
from rest_framework.relations import PrimaryKeyRelatedField
from rest_framework.test import APIClient, APIRequestFactory
from rest_framework.viewsets import GenericViewSet

from config.api import router
from tenants.models import Tenant
from tenants.scope import all_tenants, tenant_scope
from tests.factories import RESOURCES, factory_of

REGISTRY = [pytest.param(prefix, viewset, name, id=name) for prefix, viewset, name in router.registry]
NEVER_WAS = 2**40


def routes(viewset: type[GenericViewSet], *, detail: bool) -> Iterator[tuple[str, str]]:
    """Yield (method, path after the prefix) of every route of a viewset."""
    for route in router.get_routes(viewset):
        if route.detail is not detail:
            continue
        for method, action in route.mapping.items():
            if hasattr(viewset, action):
                tail = route.url.replace("^", "").replace("{prefix}", "").replace("{lookup}", "LOOKUP")
                yield method, tail.replace("{trailing_slash}", "/").replace("$", "").lstrip("/")


def look_up(viewset: type[GenericViewSet], row: Model) -> str:
    return str(getattr(row, viewset.lookup_field))


def ask(client: APIClient, method: str, path: str, body: Any = None) -> Any:
    return client.generic(method.upper(), path, body or "{}", content_type="application/json")


def told(response: Any) -> dict[str, Any]:
    """What a problem document tells, without what is different in any two of them."""
    document = response.json()
    return {name: document[name] for name in document if name not in ("instance", "request_id")}


def references(serializer: serializers.BaseSerializer[Any]) -> Iterator[tuple[str, Any, type[Model]]]:
    """Yield (path, a body that puts ID there, model) for every reference that can be written."""
    for name, field in getattr(serializer, "fields", {}).items():
        if field.read_only:
            continue
        if isinstance(field, PrimaryKeyRelatedField):
            yield name, {name: "ID"}, field.get_queryset().model
        elif isinstance(field, serializers.ListSerializer):
            for path, body, model in references(field.child):
                yield f"{name}.0.{path}", {name: [body]}, model
        elif isinstance(field, serializers.Serializer):
            for path, body, model in references(field):
                yield f"{name}.{path}", {name: body}, model


def serializer_of(viewset: type[GenericViewSet], action: str) -> serializers.BaseSerializer[Any]:
    view = viewset()
    view.action_map, view.format_kwarg = {"post": action}, None
    view.request = view.initialize_request(APIRequestFactory().post("/"))
    return view.get_serializer()


def with_id(body: Any, row_id: int) -> Any:
    if isinstance(body, dict):
        return {name: with_id(value, row_id) for name, value in body.items()}
    return [with_id(value, row_id) for value in body] if isinstance(body, list) else row_id


def test_every_resource_has_a_factory() -> None:
    assert {name for _, _, name in router.registry} <= set(RESOURCES)
    assert router.registry


@pytest.mark.parametrize(("prefix", "viewset", "name"), REGISTRY)
def test_another_tenants_row_is_not_found_and_not_touched(
    prefix: str, viewset: type[GenericViewSet], name: str, acme: Tenant, bolt: Tenant, api: APIClient
) -> None:
    with all_tenants():
        theirs = RESOURCES[name](tenant=bolt)
        before = type(theirs)._base_manager.filter(pk=theirs.pk).values().get()
    asked = 0
    for method, tail in routes(viewset, detail=True):
        path = f"/api/v1/{prefix}/{tail.replace('LOOKUP', look_up(viewset, theirs))}"
        response = ask(api, method, path)
        absent = ask(api, method, f"/api/v1/{prefix}/{tail.replace('LOOKUP', str(NEVER_WAS))}")
        assert response.status_code == 404, (method, path, response.content)
        assert told(response) == told(absent)
        asked += 1
    with all_tenants():
        assert type(theirs)._base_manager.filter(pk=theirs.pk).values().get() == before
    assert asked or not any(routes(viewset, detail=True))


@pytest.mark.parametrize(("prefix", "viewset", "name"), REGISTRY)
def test_a_list_holds_the_tenants_own_rows_only(
    prefix: str, viewset: type[GenericViewSet], name: str, acme: Tenant, bolt: Tenant, api: APIClient
) -> None:
    if not hasattr(viewset, "list"):
        pytest.skip("has no list")
    with all_tenants():
        ours, theirs = RESOURCES[name](tenant=acme), RESOURCES[name](tenant=bolt)
    response = api.get(f"/api/v1/{prefix}/")
    assert response.status_code == 200, response.content
    listed = {row["id"] for row in response.json()["results"]}
    assert ours.pk in listed
    assert theirs.pk not in listed
    for parameter, lookup in getattr(viewset, "filters", {}).items():
        value = theirs
        for part in lookup.split("__"):
            value = getattr(value, part)
        filtered = api.get(f"/api/v1/{prefix}/", {parameter: str(value)})
        assert filtered.status_code in (200, 400), (parameter, filtered.content)
        if filtered.status_code == 200:
            assert theirs.pk not in {row["id"] for row in filtered.json()["results"]}, parameter


@pytest.mark.parametrize(("prefix", "viewset", "name"), REGISTRY)
def test_a_row_cannot_be_made_to_refer_to_another_tenants(
    prefix: str, viewset: type[GenericViewSet], name: str, acme: Tenant, bolt: Tenant, api: APIClient
) -> None:
    writes = [action for action in ("create", "partial_update") if hasattr(viewset, action)]
    for action in writes:
        with tenant_scope(acme.pk):
            found = list(references(serializer_of(viewset, action)))
        for path, body, model in found:
            with all_tenants():
                ours, theirs = RESOURCES[name](tenant=acme), factory_of(model)(tenant=bolt)
                rows = type(ours)._base_manager.count()
            address = f"/api/v1/{prefix}/"
            if action == "create":
                response = api.post(address, with_id(body, theirs.pk))
            else:
                response = api.patch(f"{address}{look_up(viewset, ours)}/", with_id(body, theirs.pk))
            assert response.status_code == 400, (path, response.content)
            errors = {error["field"]: error["message"] for error in response.json()["errors"]}
            assert errors.get(path) == f"{theirs.pk} not found.", (path, errors)
            with all_tenants():
                assert type(ours)._base_manager.count() == rows


@pytest.mark.parametrize(("prefix", "viewset", "name"), REGISTRY)
def test_without_a_key_nothing_is_told(
    prefix: str, viewset: type[GenericViewSet], name: str, acme: Tenant
) -> None:
    with all_tenants():
        row = RESOURCES[name](tenant=acme)
    for detail in (True, False):
        for method, tail in routes(viewset, detail=detail):
            path = f"/api/v1/{prefix}/{tail.replace('LOOKUP', look_up(viewset, row))}"
            response = ask(APIClient(), method, path)
            assert response.status_code == 401, (method, path)
            assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("prefix", "viewset", "name"), REGISTRY)
def test_a_key_needs_the_resources_own_scope(
    prefix: str, viewset: type[GenericViewSet], name: str, acme: Tenant
) -> None:
    from tests.api.conftest import client_for

    with all_tenants():
        row = RESOURCES[name](tenant=acme)
    reader, stranger = client_for(acme, [f"{name}:read"]), client_for(acme, ["other:read", "other:write"])
    for detail in (True, False):
        for method, tail in routes(viewset, detail=detail):
            path = f"/api/v1/{prefix}/{tail.replace('LOOKUP', look_up(viewset, row))}"
            refused = ask(stranger, method, path)
            assert refused.status_code == 403, (method, path)
            verb = "read" if method == "get" else "write"
            assert f"{name}:{verb}" in refused.json()["detail"]
            assert (ask(reader, method, path).status_code == 403) == (method != "get"), (method, path)


@pytest.mark.parametrize(("prefix", "viewset", "name"), REGISTRY)
def test_whatever_else_reads_many_rows_reads_the_tenants_own(
    prefix: str, viewset: type[GenericViewSet], name: str, acme: Tenant, bolt: Tenant, api: APIClient
) -> None:
    """Exports and the like say the same whether another tenant has rows or not."""

    def said() -> dict[str, bytes]:
        return {
            tail: response.getvalue()
            for method, tail in routes(viewset, detail=False)
            if method == "get" and (response := api.get(f"/api/v1/{prefix}/{tail.lstrip('/')}"))
        }

    with all_tenants():
        RESOURCES[name](tenant=acme)
    alone = said()
    with all_tenants():
        RESOURCES[name](tenant=bolt)
    assert said() == alone
    with all_tenants():
        RESOURCES[name](tenant=acme)
    assert all(said()[tail] != before for tail, before in alone.items())
