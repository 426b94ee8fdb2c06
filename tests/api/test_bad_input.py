"""Whatever is sent to any address, the answer is never that we broke.

Walks the router as the isolation test does: every writable field of every resource gets every awkward
value, alone in a PATCH and inside an otherwise good POST; every filter and every verb gets some too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from rest_framework.test import APIClient

from tenants.models import Tenant
from tenants.scope import all_tenants, tenant_scope
from tests.api.test_isolation import REGISTRY, ask, look_up, routes, serializer_of
from tests.factories import RESOURCES

AWKWARD: list[Any] = [
    None, True, 0, -1, 0.5, 1e308, 2**31, 2**63, 2**70, -(2**70),
    "", " ", "x", "x" * 70_000, "\u202e\ufeff", "\U0001f9ff", "١٢٣", "+43", "null", "%00", "'; --", "{{1}}",
    "../..", "2026-13-01", "2026-02-30T25:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00",
    "infinity",
    [], [None], [[]], [{}], ["x"], [1, "1"], ["x" * 70_000],
    {}, {"": ""}, {"x": None}, {"all": 1}, {"all": True, "segment": 1}, {"segment": "x"},
    {"segment": 2**70},
    {"contacts": None}, {"contacts": [None]}, {"contacts": [[]]}, {"from": 1}, {"x": {"y": [{"z": []}]}},
]  # fmt: skip
WORDS = ["", "x", "-1", "99999999999999999999999999", "١٢٣", "1e9", "'"]
RAW = [
    (b"", "application/json"),
    (b"{", "application/json"),
    (b"\xff", "application/json"),
    (b"\xff\x00,b\n1", "text/csv"),
    (b"a,b\n1", "text/csv"),
    (b"", "multipart/form-data; boundary=x"),
    (b"x", "x"),
]


def answers(client: APIClient, method: str, path: str, body: Any) -> Any:
    response = client.generic(method, path, json.dumps(body), content_type="application/json")
    assert response.status_code < 500, (method, path, str(body)[:300], response.content[:600])
    return response


@pytest.fixture
def patient(api: APIClient, settings: Any) -> APIClient:
    settings.API_REQUESTS_PER_MINUTE = 1_000_000
    api.raise_request_exception = False
    return api


@pytest.mark.slow
@pytest.mark.parametrize(("prefix", "viewset", "name"), REGISTRY)
def test_awkward_values_break_nothing(
    prefix: str, viewset: Any, name: str, acme: Tenant, patient: APIClient
) -> None:
    writes = {"create", "partial_update"} & set(dir(viewset))
    if not writes:
        pytest.skip("read only")
    with all_tenants():
        row = RESOURCES[name](tenant=acme)
    one = f"/api/v1/{prefix}/{look_up(viewset, row)}/"
    shown = patient.get(one).json()
    with tenant_scope(acme.pk):
        fields = [field for field in serializer_of(viewset, "create").fields.values() if not field.read_only]
    good = {field.field_name: shown[field.field_name] for field in fields if field.field_name in shown}
    for field in fields:
        for value in AWKWARD:
            taken = True
            if "partial_update" in writes:
                taken = answers(patient, "PATCH", one, {field.field_name: value}).status_code < 400
            if "create" in writes and taken:  # what the field refuses it refuses here as well
                answers(patient, "POST", f"/api/v1/{prefix}/", {**good, field.field_name: value})


@pytest.mark.slow
@pytest.mark.parametrize(("prefix", "viewset", "name"), REGISTRY)
def test_awkward_bodies_and_filters_break_nothing(
    prefix: str, viewset: Any, name: str, acme: Tenant, patient: APIClient
) -> None:
    with all_tenants():
        row = RESOURCES[name](tenant=acme)
    for detail in (True, False):
        for method, tail in routes(viewset, detail=detail):
            path = f"/api/v1/{prefix}/{tail.replace('LOOKUP', look_up(viewset, row))}"
            if method == "delete" or "/check/" in path:  # that one calls out, and has its own tests
                continue
            body: Any
            for body in (None, [], {}, "x", [[]], [{}], {"x": 1}):
                answers(patient, method.upper(), path, body)
            for raw, media_type in RAW:
                response = patient.generic(method.upper(), path, raw, content_type=media_type)
                assert response.status_code < 500, (method, path, raw, media_type, response.content[:600])
    for parameter in [*getattr(viewset, "filters", {}), "cursor", "page_size", "format"]:
        for word in WORDS:
            response = patient.get(f"/api/v1/{prefix}/", {parameter: word})
            assert response.status_code < 500, (parameter, word, response.content[:600])
    assert ask(patient, "options", f"/api/v1/{prefix}/").status_code < 500
